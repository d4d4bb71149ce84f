"""Where metrics go: the run directory always; Weights & Biases beside it, and never in its way."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from gannorm.files import atomic_write
from gannorm.rundir import RunDir

INIT_TIMEOUT = 30  # seconds until an online run that cannot start goes offline
FINISH_TIMEOUT = 60  # seconds until a run that cannot send its last rows ends all the same
SERVICE = "WANDB_SERVICE"  # where a process tells those that it starts of its W&B service


class RunDirLogger(Logger):
    """Metrics to metrics.jsonl. A run's file is complete with or without any other logger."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        return self.run.path.parent.name

    @property
    def version(self) -> str:
        return self.run.name

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run directory has its config.yaml already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.run.append_metrics(step, metrics)

    def log_image(self, key: str, images: list[Image.Image], step: int, caption: list[str] | None = None) -> None:
        """Samples are files of the run; matrices are kept as arrays."""
        if key == "samples":
            with atomic_write(self.run.sample_file(step)) as file:
                images[0].save(file, "PNG")

    def log_arrays(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Add arrays to the run's probe file of this step, beside those of other probes."""
        target, kept = self.run.probe_file(step), {}
        if target.exists():
            with np.load(target) as there:
                kept = dict(there)
        with atomic_write(target) as file:
            np.savez_compressed(file, **kept | dict(arrays))  # type: ignore[arg-type]


class WandbLogger(Logger):
    """Metrics and images to a Weights & Biases run that may fail at any time without failing the training.

    The first error is printed and ends the logging; rows logged before it stay on disk for `wandb sync`.
    """

    def __init__(self, experiment: Any) -> None:
        super().__init__()
        self._experiment = experiment
        self._name, self._version = str(experiment.project), str(experiment.id)

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    @property
    def experiment(self) -> Any:
        return self._experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The full config was given when the run was made."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(lambda run: run.log({**metrics, "step": step}))

    def log_image(self, key: str, images: list[Image.Image], step: int, caption: list[str] | None = None) -> None:
        import wandb

        self._try(lambda run: run.log({key: [wandb.Image(image) for image in images], "step": step}))

    def log_record(self, content: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Tables and pictures that belong to no step, and what the run is remembered by."""
        self._try(lambda run: run.log(dict(content)))
        self._try(lambda run: run.summary.update(dict(summary)))

    def finalize(self, status: str) -> None:
        self._try(lambda run: run.finish(exit_code=0 if status == "success" else 1))
        self._experiment = None

    def _try(self, action: Callable[[Any], None]) -> None:
        if self._experiment is None:
            return
        try:
            action(self._experiment)
        except Exception as error:  # whatever the service does, training goes on
            print(f"W&B stopped: {type(error).__name__}: {error}; metrics go on in metrics.jsonl.", file=sys.stderr)
            self._experiment = None
            _end_service()  # a dead one would leave a traceback at the process's exit


def wandb_logger(
    run: RunDir, config: Mapping[str, Any], mode: str, project: str, job_type: str = "training"
) -> WandbLogger | None:
    """A W&B run for this run directory: online only with a key, otherwise offline; never a prompt, never a long wait.

    Args:
        run: its folder holds W&B's files too.
        config: the resolved config. The group is the study and the condition (the name without the seed, or else
            the normalizer), the tags name its parts.
        mode: "auto" (online with a key, else offline), "online", "offline" or "off".
        project: W&B project.
        job_type: W&B's name for what the run does.

    Returns:
        None when off, or when W&B cannot be started; one printed line says so.
    """
    if mode == "off":
        return None
    model = config["model"]
    norm = (model.get("discriminator") or model["classifier"])["norm"]
    seed = f"_{config.get('seed')}"  # a study's runs are called by their condition and the seed
    condition = run.name.removesuffix(seed) if run.name.endswith(seed) else norm
    # A resumed training goes on in its own W&B run; offline in a further file, which `wandb sync` sends after it.
    same = {"id": run.wandb_id(), "resume": "allow"} if job_type == "training" else {}
    return start(
        mode,
        **same,
        project=project,
        name=run.name,
        group=f"{config['study']}/{condition}",
        job_type=job_type,
        tags=[config["data"]["name"], norm, model.get("loss", "classifier")],
        config=dict(config),
        dir=str(run.path),
    )


def start(mode: str, **options: Any) -> WandbLogger | None:
    """A W&B run with these options of `wandb.init`, on the terms of `wandb_logger`."""
    if mode == "off":
        return None
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
            experiment.define_metric("step")
            experiment.define_metric("*", step_metric="step")
            return WandbLogger(experiment)
        except KeyboardInterrupt:
            if not inherited:  # it holds no other run
                _abandon_service()  # at exit it would wait for the server's answer
            raise
        except Exception as error:  # whatever its settings or the service do, training goes on
            line = " ".join(str(error).split())
            print(f"W&B could not start {attempt}: {type(error).__name__}: {line}", file=sys.stderr)
            _end_service()  # it would take the next attempt's id for one that is in use
            if inherited and type(error).__name__ == "WandbServiceConnectionError":  # of a process that has ended
                attempts.insert(0, attempt)  # once more, with one of our own
            inherited = False
    return None


def _end_service() -> None:
    """Leave W&B's own process, whatever its state; the next run starts another."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()
    os.environ.pop(SERVICE, None)


def _abandon_service() -> None:
    """Leave W&B's own process without waiting for what it is doing. What it had not yet written is lost."""
    with contextlib.suppress(Exception):  # that of another process, or another version's inside
        from wandb.sdk import wandb_setup

        process = wandb_setup.singleton()._connection._proc._process  # type: ignore[union-attr]
        process.kill()
        process.wait()
    _end_service()


def has_key() -> bool:
    """Whether there is a key, in the environment or stored by `wandb login`; asks nobody, not even the service."""
    import wandb

    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    # wandb.login asks the server for the account's name, also unverified. Without a network that took 5 s, and once 10
    # minutes more at exit, where wandb 0.31 waited for a service that had not heard that it should end.
    try:
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib.wbauth import read_netrc_auth

        settings = wandb_setup.singleton().settings
        return bool(settings.api_key or settings.identity_token_file or read_netrc_auth(host=settings.base_url))
    except (ImportError, AttributeError):  # another version's inside
        return wandb.login(prompt=False, verify=False)
