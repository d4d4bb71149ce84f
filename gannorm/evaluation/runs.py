"""Score the checkpoints of runs into their scores.json. A bad checkpoint fails alone.

Every checkpoint is opened and draws images before the long work starts. Extractors and references are built once a
dataset. Scores that scores.json already holds under the same protocol are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gannorm.arithmetic import best_device, require_device
from gannorm.data import Images, images_of_run
from gannorm.errors import UserError
from gannorm.evaluation.extractors import build_extractor
from gannorm.evaluation.generators import SIGNED, NotFiniteError, sampler
from gannorm.evaluation.inputs import reference_split
from gannorm.evaluation.reconstruction import reconstruction_score
from gannorm.evaluation.sampling import STATISTICS, check_generator
from gannorm.evaluation.scores import Evaluator, Scores, count_samples
from gannorm.models import find_checkpoint, load_networks
from gannorm.rundir import RunDir

HELD_OUT = "test"  # the split whose images are reconstructed
COLUMNS = {"inception_score": 3, "fid": 3, "kid": 5, "precision": 3, "recall": 3}  # of the table: decimals


@dataclass(frozen=True)
class Scored:
    """The result for one checkpoint under one choice of statistics and weights.

    Attributes:
        run: the run of the checkpoint.
        record: as in scores.json: {"step", "protocol", …}; with "diverged" instead of scores where the generator's
            images are non-finite; None without a result to keep.
        line: the result in one line, for people.
        failed: it has no scores.
        new: the record was not there before.
    """

    run: RunDir
    record: Mapping[str, Any] | None
    line: str
    failed: bool = False
    new: bool = False


@dataclass(frozen=True)
class _Task:
    run: RunDir
    file: Path
    source: Mapping[str, Any]  # the run's data
    statistics: str
    ema: bool
    reconstruct: bool
    problem: str = ""  # the reason for no scores


def score_runs(
    runs: Sequence[RunDir],
    *,
    step: int | None = None,
    all_checkpoints: bool = False,
    statistics: str = "running",
    ema: bool = True,
    split: str | None = None,
    reconstruction: int = 0,
    extractor: str | None = None,
    weights: str | None = None,
    sha256: str | None = None,
    extractor_seed: int = 0,
    device: str | None = None,
    again: bool = False,
    **counts: Any,
) -> Iterator[Scored]:
    """Score checkpoints of runs, write each result into its run's scores.json, and yield it.

    Args:
        runs: run directories of `gannorm train`.
        step: of the checkpoint; None for the last.
        all_checkpoints: all of them instead.
        statistics: "running", "batch", "standing", or "all": each of them, under averaged and trained weights.
        ema: whether to take the averaged weights of the generator, or the trained ones.
        split: "train" or "test": the real images; by default the held-out ones where there are enough of them, see
            `inputs.real_images`.
        reconstruction: held-out images for the reconstruction score, under "reconstruction" in the first record of a
            checkpoint's weights; it always takes running statistics. 0: none.
        extractor, weights, sha256, extractor_seed, device: see `build_extractor`; an in-domain extractor learns from
            the training split, whichever is scored against.
        again: repeat existing scores.
        counts: samples, batch_size, splits, kid_subsets, kid_kernel, seed: see `Evaluator`.

    Raises:
        UserError: options that contradict each other, no such checkpoint, data or extractor. A checkpoint that is
            damaged or cannot be scored is a result instead, and so is a run whose config or scores.json is damaged.
    """
    if all_checkpoints and step is not None:
        raise UserError(f"--step and --all_checkpoints exclude each other: got step {step} and all; give one.")
    if statistics == "all" and not ema:
        raise UserError("--statistics all scores averaged and trained weights: got --ema false; leave it out.")
    device = device or str(best_device())
    require_device(device)
    data, tasks = _Data(split, reconstruction), []
    for run in runs:
        try:
            source = run.config()["data"]
            run.scores()
        except UserError as error:
            tasks.append(_Task(run, run.path, {}, "", ema, False, problem=str(error)))
            continue
        files = list(run.checkpoints().values()) if all_checkpoints else []
        try:
            files = files or [find_checkpoint(run, step)]
        except UserError as error:
            if step is not None or not run.checkpoints():
                raise
            tasks.append(_Task(run, run.path, source, "", ema, False, problem=str(error)))  # all are damaged
            continue
        for file in files:
            count_samples(data.of(source)[1], **{k: v for k, v in counts.items() if k not in ("kid_kernel", "seed")})
            for averaged in (True, False) if statistics == "all" else (ema,):
                for i, mode in enumerate(STATISTICS if statistics == "all" else (statistics,)):
                    tasks.append(_Task(run, file, source, mode, averaged, bool(reconstruction) and i == 0))
    batch_size = counts.get("batch_size", 64)
    tasks = [_checked(task, data, batch_size, device) for task in tqdm(tasks, "checking", leave=False, disable=None)]

    evaluators: dict[Any, Evaluator] = {}
    for task in tqdm(tasks, desc="checkpoints", unit="ckpt", disable=None):
        if task.problem:
            yield Scored(task.run, None, f"{task.file} is not scored: {task.problem}", failed=True)
            continue
        key = _key(task.source)
        if key not in evaluators:
            train, real, _ = data.of(task.source)
            built = build_extractor(
                extractor, train, weights=weights, sha256=sha256, seed=extractor_seed, device=device
            )
            evaluators[key] = Evaluator(real, extractor=built, **counts)
        result = _scored(task, evaluators[key], data, reconstruction, again)
        if result.new:
            task.run.add_scores(result.record or {})
        yield result


def score_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A table of score records, with the values of real images in the last line."""
    form = "{:<9} {:<10} {:<9} {:>8} {:>9} {:>9} {:>10} {:>7}"
    rows = [("step", "statistics", "weights", "IS", "FID", "KID", "precision", "recall")]
    for record in records:
        protocol = record["protocol"]
        values = ["–" if record.get(k) is None else f"{record[k]:.{d}f}" for k, d in COLUMNS.items()]
        rows.append((record["step"], protocol["statistics"], "averaged" if protocol["ema"] else "raw", *values))
    if real := next((r for r in records if "fid_floor" in r), None):
        ceiling = real["inception_score_real"]
        rows.append(
            ("real", "", "", "–" if ceiling is None else f"{ceiling:.3f}", f"{real['fid_floor']:.3f}", *" " * 3)
        )
    return "\n".join(form.format(*row).rstrip() for row in rows)


class _Data:
    """(training split, real images, held-out images) of each data source, loaded once."""

    def __init__(self, split: str | None, reconstruction: int) -> None:
        self.split, self.reconstruction = split, reconstruction
        self.loaded: dict[Any, tuple[Images, Images, Images | None]] = {}

    def of(self, source: Mapping[str, Any]) -> tuple[Images, Images, Images | None]:
        key = _key(source)
        if key not in self.loaded:
            wanted = {"train", self.split or HELD_OUT} | ({HELD_OUT} if self.reconstruction else set())
            splits = {s: images_of_run(source, s) for s in wanted}
            held_out = None
            if self.reconstruction:
                held_out = splits[HELD_OUT]
                if not 2 <= self.reconstruction <= len(held_out):
                    raise UserError(
                        f"--reconstruction must lie between 2 and the {len(held_out)} held-out images of "
                        f"{held_out.name}: got {self.reconstruction}."
                    )
            self.loaded[key] = splits["train"], reference_split(splits, self.split), held_out
        return self.loaded[key]


def _key(source: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, v) for k, v in source.items() if k not in ("batch_size", "download")))


def _checked(task: _Task, data: _Data, batch_size: int, device: str) -> _Task:
    """The task, with its problem if it cannot be scored."""
    if task.problem:
        return task
    _, real, _ = data.of(task.source)
    try:
        generator = load_networks(task.file, ema=task.ema).generator.to(device)
        check_generator(sampler(generator), real, statistics=task.statistics, batch_size=batch_size)
    except NotFiniteError:
        pass  # non-finite images are a result, recorded with the protocol
    except UserError as error:
        return replace(task, problem=str(error))
    return task


def _scored(task: _Task, evaluator: Evaluator, data: _Data, reconstruction: int, again: bool) -> Scored:
    run, networks = task.run, load_networks(task.file, ema=task.ema)
    step, protocol = networks.step, evaluator.protocol(task.statistics, task.ema)
    where = f"{run.path} step {step}"
    old = next((r for r in run.scores() if r["step"] == step and _is_under(protocol, r["protocol"])), None)
    generator = networks.generator.to(evaluator.extractor.device)
    record = dict(old) if old and not again else {}
    try:
        if not record:
            scores = evaluator.score(generator, statistics=task.statistics, ema=task.ema, fake_range=SIGNED)
            record = {"step": step, **scores.to_dict()}
        if task.reconstruct and "diverged" not in record:
            _, _, held_out = data.of(task.source)
            assert held_out is not None
            wanted = {"images": reconstruction, "seed": evaluator.seed, "split": HELD_OUT, "statistics": "running"}
            wanted |= {"fingerprint": held_out.fingerprint, "device": evaluator.extractor.device.type}
            if {k: record.get("reconstruction", {}).get("protocol", {}).get(k) for k in wanted} != wanted:
                error_of = reconstruction_score(
                    generator, held_out, images=reconstruction, seed=evaluator.seed, quiet=evaluator.quiet
                )
                content = {k: v for k, v in vars(error_of).items() if k not in ("errors", "steps")}
                record["reconstruction"] = {**content, "protocol": {**wanted, "steps": error_of.steps}}
    except NotFiniteError as error:
        record = {"step": step, "diverged": True, "protocol": protocol}
        return Scored(run, record, f"{where}: non-finite: {error}", failed=True, new=True)
    except UserError as error:
        return Scored(run, None, f"{where} is not scored: {error}", failed=True)
    new = record != old
    if "diverged" in record:
        return Scored(run, record, f"{where}: non-finite images, as recorded before", failed=True)
    note = "" if new else ", scored before"
    line = f"{where}{note}: {_scores_of(record)}"
    if "reconstruction" in record:
        line += "\nreconstruction {error:.4f} ± {standard_error:.4f} (at z = 0: {error_at_start:.4f})".format(
            **record["reconstruction"]
        )
    return Scored(run, record, line, new=new)


def _is_under(protocol: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether scores were made under this protocol, apart from measurements of the extractor."""
    measured = ("extractor_batch_dependence",)
    return all(protocol.get(k) == recorded.get(k) for k in protocol.keys() | recorded.keys() if k not in measured)


def _scores_of(record: Mapping[str, Any]) -> Scores:
    return Scores(**{f.name: record[f.name] for f in fields(Scores) if f.name in record})
