"""Read run directories: ended ones become runs, the others are reported with the reason."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gannorm.comparison.renamed import renamed
from gannorm.comparison.titles import config_hash
from gannorm.config import keys, upgraded
from gannorm.config.dotted import flatten
from gannorm.config.schema import FACTOR
from gannorm.errors import UserError, printable
from gannorm.rundir import RunDir


@dataclass(frozen=True)
class Run:
    """The content of a run directory, or one line of a runs.csv.

    Attributes:
        name, seed, state: "finished" or "diverged".
        config: dotted key → value. Of a line of runs.csv, the keys that the file holds.
        step: the last one.
        metrics: name → step → finite value, under today's names; empty for a line of runs.csv.
        scores: the records of scores.json; empty for a line of runs.csv.
        directory: where it was read from; None for a line of runs.csv.
        values: quantity → the run's one number, as `quantities.measured` reduces metrics and scores.
        hash: of everything in the config that makes a condition (`labels.config_hash`).
        protocol: how its scores were made, as one line of text; "" without scores.
    """

    name: str
    config: Mapping[str, Any]
    seed: int
    state: str
    step: int
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    scores: Sequence[Mapping[str, Any]] = ()
    directory: RunDir | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    hash: str = ""
    protocol: str = ""

    @property
    def task(self) -> str:
        """What was trained: "GAN" or "classifier"."""
        return "classifier" if self.config.get("task") == "classifier" else "GAN"

    def series(self, name: str) -> Mapping[int, float]:
        """step → value of one metric; empty where it was not recorded."""
        return self.metrics.get(name, {})

    def score(self, name: str) -> Mapping[int, float]:
        """step → value of one score."""
        return columns(self.scores).get(name, {})

    @property
    def ends_without_images(self) -> bool:
        """Whether the images of the last scored step were non-finite."""
        return bool(self.scores) and bool(max(self.scores, key=lambda record: record["step"]).get("diverged"))


@dataclass(frozen=True)
class LeftOut:
    """A run that is not part of the comparison, and the reason."""

    name: str
    reason: str


def read_runs(directories: Sequence[RunDir]) -> tuple[list[Run], list[LeftOut]]:
    """Read the ended runs; running, failed and damaged ones are reported with the reason."""
    names = [d.name for d in directories]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    runs, left_out = [], []
    for directory, bare in zip(directories, names, strict=True):
        name = printable(f"{directory.path.resolve().parent.name}/{bare}" if bare in repeated else bare)
        try:
            run = _read(directory, name)
        except UserError as error:
            left_out.append(LeftOut(name, f"damaged: {printable(str(error))}"))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # a file of another shape
            left_out.append(LeftOut(name, f"damaged: {printable(repr(error))}"))
        else:
            if run.state in ("finished", "diverged"):
                runs.append(run)
            else:
                status = directory.status()
                reason = f": {status['reason']}" if status.get("reason") else ""
                left_out.append(LeftOut(name, printable(f"{run.state} at step {run.step}{reason}")))
    return completed(runs), left_out


def completed(runs: Sequence[Run]) -> list[Run]:
    """The runs, each with every declared factor that another one has, at its default.

    A run of an earlier version lacks the factors that were declared later, and behaved as their defaults do.
    """
    held = list(dict.fromkeys(key for run in runs for key in run.config))
    full = []
    for run in runs:
        declared = keys("classifier" if run.task == "classifier" else "gan")
        missing = [key for key in held if key not in run.config and key in declared and declared[key].role == FACTOR]
        full.append(replace(run, config={**run.config, **{key: declared[key].default for key in missing}}))
    return full


def score_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of scores.json, with the reconstruction's error as a score among the others."""
    details = record.get("reconstruction")
    if not isinstance(details, dict):
        return dict(record)
    return {**record, "reconstruction": details["error"], "reconstruction_protocol": details.get("protocol")}


def columns(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """name → step → value, of the finite numbers among the records."""
    series: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:  # a JSON integer may be larger
                series.setdefault(name, {})[record["step"]] = float(value)
    return series


def _read(directory: RunDir, name: str) -> Run:
    status = directory.status()
    config = {key: value for key, value in flatten(upgraded(directory.config())).items() if value != {}}
    seed = config.get("seed")
    if not isinstance(seed, int):
        raise UserError(f"a config must hold an integer seed: config.yaml holds {seed!r}.")
    scores = [score_values(record) for record in directory.scores()]
    records = directory.metrics()
    step = max([status["step"], *(record["step"] for record in records[-1:])])  # a running run's status is old
    metrics = {renamed(key): values for key, values in columns(records).items()}
    return Run(name, config, seed, directory.state(), step, metrics, scores, directory, hash=config_hash(config))
