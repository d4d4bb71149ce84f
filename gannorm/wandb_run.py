"""The one place that starts and continues runs on Weights & Biases. One run directory is one W&B run: one row.

Training starts the run, and evaluation continues it under the same id, so that its scores stand in the same row. It
never prompts, a W&B failure never stops anything else, and a run that cannot start online is offline, to be sent later
by `wandb sync`. What people sort and filter by is in the summary and the config; of what is logged, the keys in CHARTED
get panels, the others are hidden.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import gannorm
from gannorm.errors import UserError
from gannorm.files import cache_dir, is_writable
from gannorm.rundir import RunDir
from gannorm.verdict import Evidence, decide

INIT_TIMEOUT = 30  # seconds until an online run that cannot start goes offline
FINISH_TIMEOUT = 60  # seconds until a run that cannot send its last rows ends all the same
SERVICE = "WANDB_SERVICE"  # where a process announces its W&B service to those that it starts
PROJECT = "gannorm"  # where neither the config nor WANDB_PROJECT names another
MODES = {"online": "online", "offline": "offline", "dryrun": "offline", "disabled": "off"}  # of WANDB_MODE

QUANTITIES = (  # of a discriminator in one mode
    *("auc_pure", "auc_mixed", "auc_conflict", "auc_gap", "auc_same_batch"),
    *("accuracy_pure", "accuracy_mixed", "accuracy_gap"),
    *("leak_own", "leak_context", "companion_variance", "uniformity_icc", "coupling_ratio", "verdict"),
)
SCORES = ("inception_score", "fid", "kid", "precision", "recall")
CHARTED = (
    *("loss/d", "loss/g", "logit/real", "logit/fake", "gradient_norm/d", "gradient_norm/g"),
    *("learning_rate/d", "learning_rate/g", "images_per_second"),
    *("loss", "train/accuracy", "test/loss", "test/accuracy"),  # of a classifier
    *(f"batch_dependence/{mode}/{name}" for mode in ("train", "eval") for name in QUANTITIES),
    "batch_dependence/generator/coupling_ratio",
    *(
        f"optimization/{network}/{name}"
        for network in ("discriminator", "generator", "classifier")
        for name in ("loss_band", "effective_beta", "covariate_shift_cosine", "noise_to_signal", "coherence")
    ),
    *(f"scores/running/averaged/{name}" for name in SCORES),
    *("samples", "batch_dependence/coupling_train", "batch_dependence/coupling_eval"),
)


class WandbRun:
    """A W&B run that may fail at any time and takes nothing else with it.

    The first error is printed and ends the logging; rows logged before it stay on disk for `wandb sync`.
    """

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment
        self.alive = True

    def log(self, row: Mapping[str, Any]) -> None:
        self.attempt(lambda run: run.log(dict(row)))

    def summarize(self, values: Mapping[str, Any]) -> None:
        """What the run is remembered by."""
        self.attempt(lambda run: run.summary.update(dict(values)))

    def log_file(self, file: Path, name: str, alias: str) -> None:
        """A file as a version of the artifact `name`."""

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(f"{run.id}-{name}", type="model")
            artifact.add_file(str(file))
            run.log_artifact(artifact, aliases=["latest", alias])

        self.attempt(send)

    def finish(self, failed: bool = False) -> None:
        self.attempt(lambda run: run.finish(exit_code=int(failed)))
        self.alive = False

    def attempt(self, action: Callable[[Any], None]) -> None:
        if not self.alive:
            return
        try:
            action(self.experiment)
        except Exception as error:  # a W&B failure never stops a run
            print(f"W&B stopped: {type(error).__name__}: {error}; the run directory has it all.", file=sys.stderr)
            self.alive = False
            _end_service()  # a dead one would leave a traceback at the process's exit


_open: dict[Path, WandbRun] = {}  # by run directory
_kept = False


def start_run(
    run: RunDir, config: Mapping[str, Any], mode: str, project: str, facts: Mapping[str, Any] | None = None
) -> WandbRun | None:
    """The W&B run of a run directory: a new one, or the one that an earlier process began or this one has open.

    Args:
        run: its folder holds W&B's files too, unless WANDB_DIR names another.
        config: the resolved config. The group is the study and the condition (the name without the seed, or else
            the normalizer), the tags name its parts.
        mode: "auto" (WANDB_MODE where it is set; else online with a key, offline without), "online", "offline", "off".
        project: W&B project; WANDB_PROJECT counts where it is the default.
        facts: what is known beside the config: arithmetic, parameters.

    Returns:
        None when off, or when W&B cannot be started; one printed line says so.
    """
    key = run.path.resolve()
    if key in _open:
        return _open[key]
    if resolved(mode) == "off":
        return None
    model, environment = config["model"], os.environ
    norm = (model.get("discriminator") or model["classifier"])["norm"]
    seed = f"_{config.get('seed')}"  # a study's runs are called by their condition and the seed
    condition = run.name.removesuffix(seed) if run.name.endswith(seed) else norm
    tags = [config["data"]["name"], norm, model.get("loss", "classifier")]
    tags += [tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",") if tag.strip()]
    about = {"version": gannorm.__version__, **(facts or {})}
    begun = run.has_wandb_id()
    started = start(
        mode,
        id=run.wandb_id(environment.get("WANDB_RUN_ID", "")),
        resume="allow",
        project=project if project != PROJECT else environment.get("WANDB_PROJECT", PROJECT),
        name=environment.get("WANDB_NAME") or run.name,
        group=environment.get("WANDB_RUN_GROUP") or f"{config['study']}/{condition}",
        job_type=environment.get("WANDB_JOB_TYPE") or "training",
        tags=tags,
        config={**config, **about},
        dir=environment.get("WANDB_DIR") or str(run.path),
    )
    if started is None:
        return None
    _say_where(started.experiment, begun)
    started.summarize(about)
    _open[key] = started
    return started


def end_run(run: RunDir) -> None:
    """Finish the W&B run of a run directory, if one is open, with what its files say in the summary."""
    if _kept or (open_run := _open.pop(run.path.resolve(), None)) is None:
        return
    failed = True
    with contextlib.suppress(UserError):  # files that cannot be read, where a full disk ended the run
        open_run.summarize(summary_of(run))
        failed = run.status()["state"] == "failed"
    open_run.finish(failed)


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """W&B runs that training starts inside end with the block, so that scores can go into them."""
    global _kept
    _kept = True
    try:
        yield
    finally:
        _kept = False
        for path in list(_open):
            end_run(RunDir(path))


def log_scores(run: RunDir, records: Sequence[Mapping[str, Any]], mode: str) -> None:
    """Score records into the run's own W&B run, unless a training that is still running writes there.

    Two processes must not write one W&B run; scores.json has the scores in any case.
    """
    config = run.config()
    with contextlib.ExitStack() as stack:
        if run.path.resolve() not in _open:
            if not records or resolved(mode) == "off":
                return
            try:
                stack.enter_context(run.lock())
            except UserError:
                print(f"W&B: {run.path} is being trained; its scores are in scores.json alone.", file=sys.stderr)
                return
        wandb_run = start_run(run, config, mode, config.get("wandb_project", PROJECT))
        if wandb_run is None:
            return
        for record in records:
            protocol = record["protocol"]
            where = f"scores/{protocol['statistics']}/{'averaged' if protocol['ema'] else 'raw'}"
            numbers = {k: float(v) for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}
            row = {f"{where}/{name}": value for name, value in numbers.items()}
            if "reconstruction" in record:
                row[f"{where}/reconstruction"] = record["reconstruction"]["error"]
            wandb_run.log({**row, "step": record["step"]})
        end_run(run)


def summary_of(run: RunDir) -> dict[str, Any]:
    """What people sort and filter runs by: how it ended, its verdict with the gaps, last and best scores."""
    status = run.status()
    summary: dict[str, Any] = {"state": status["state"], "reason": status["reason"], "last_step": status["step"]}
    prefix = "batch_dependence/train/"
    measured = [record for record in run.metrics() if any(name.startswith(prefix) for name in record)]
    if measured and (evidence := Evidence.from_metrics(measured[-1], prefix)):
        verdict = decide(evidence)
        summary |= {"verdict": verdict.kind, "verdict_reason": verdict.reason}
        for name in ("auc_gap", "auc_conflict", "accuracy_gap"):
            if (value := measured[-1].get(prefix + name)) is not None:
                summary[name] = value
    scores = [r for r in run.scores() if r["protocol"].get("statistics") == "running" and r["protocol"].get("ema")]
    for name, better in (("fid", min), ("inception_score", max)):
        values = [record[name] for record in scores if record.get(name) is not None]
        if values:
            summary |= {name: values[-1], f"{name}_best": better(values)}
    return summary


def resolved(mode: str) -> str:
    """What a flag asks for, with WANDB_MODE, or WANDB_DISABLED, in the place of "auto" where it is set."""
    if mode != "auto":
        return mode
    disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on")
    return MODES.get(os.environ.get("WANDB_MODE", ""), "off" if disabled else mode)


def start(mode: str, **options: Any) -> WandbRun | None:
    """A W&B run with these options of `wandb.init`, on the terms of `start_run`."""
    mode = resolved(mode)
    if mode == "off":
        return None
    _require_cache()
    try:
        import wandb
    except ImportError:
        print("W&B is not installed: nothing goes there.", file=sys.stderr)
        return None
    attempts: list[Any] = [mode] if mode == "offline" else ["online", "offline"]
    inherited = SERVICE in os.environ
    while attempts:
        attempt = attempts.pop(0)
        try:
            if attempt == "online" and mode == "auto" and not has_key():
                continue
            experiment = wandb.init(
                mode=attempt,
                **options,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=INIT_TIMEOUT,
                    # A network that is away for hours is tried again all the while, but holds finish() no longer than
                    # this; by default it would for days. What was not sent stays on disk for `wandb sync`.
                    finish_timeout=FINISH_TIMEOUT,
                ),
            )
            experiment.define_metric("step", hidden=True)
            for name in CHARTED:
                experiment.define_metric(name, step_metric="step")
            experiment.define_metric("*", step_metric="step", hidden=True)
            return WandbRun(experiment)
        except KeyboardInterrupt:
            if not inherited:  # it holds no other run
                _end_service()
            raise
        except Exception as error:  # a W&B failure never stops a run
            line = " ".join(str(error).split())
            print(f"W&B could not start {attempt}: {type(error).__name__}: {line}", file=sys.stderr)
            _end_service()  # it would take the next attempt's id for one that is in use
            if inherited and type(error).__name__ == "WandbServiceConnectionError":  # of a process that has ended
                attempts.insert(0, attempt)  # once more, with one of our own
            inherited = False
    return None


def _require_cache() -> None:
    """W&B's process keeps its log in the home directory; where that is read-only it would print the log instead."""
    if "WANDB_CACHE_DIR" not in os.environ and not is_writable(Path(os.path.expanduser("~/.cache"))):
        os.environ["WANDB_CACHE_DIR"] = str(cache_dir() / "wandb")


def has_key() -> bool:
    """Whether there is a key, in the environment or stored by `wandb login`; asks nobody."""
    import wandb

    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    # wandb.login asks the server for the account's name, also unverified. Without a network that took 5 s, and once 10
    # minutes more at exit; and wandb's settings alone do not hold what a login wrote into netrc.
    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    host = urlparse(settings.base_url).hostname or ""
    for file in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(os.path.expanduser(file)).authenticators(host):
                return True
    return False


def _say_where(experiment: Any, begun: bool) -> None:
    """The run's address, or how an offline run is sent; in a further file for a run that was begun before."""
    if address := getattr(experiment, "url", None):
        print(f"W&B: {address}", flush=True)
    elif folder := getattr(experiment, "dir", None):
        more = " --append" if begun else ""
        print(f"W&B: offline; wandb sync{more} {Path(folder).parent}", flush=True)


def _end_service() -> None:
    """Leave W&B's own process, whatever its state; the next run starts another."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()
    os.environ.pop(SERVICE, None)
