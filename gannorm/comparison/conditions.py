"""Read run directories and sort them into conditions: the groups of runs that differ in nothing but the seed.

What was varied is not declared, it is found: every config key that differs between two runs is a factor. So a
comparison cannot leave out a difference that its author forgot, and says so when two factors only ever move together.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gannorm.config import factors, upgraded
from gannorm.dotted import flatten
from gannorm.errors import UserError, printable
from gannorm.rundir import RunDir

NORM = "model.discriminator.norm"  # the first factor, and what names the runs where nothing was varied
NORMS = (NORM, "model.classifier.norm")  # where it is in a classifier's config
TITLES = {  # its values, as the literature calls them
    "batch": "BatchNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
    "layer": "LayerNorm",
    "none": "no normalizer",
}
STATISTICS, WEIGHTS = "evaluation.statistics", "evaluation.weights"  # factors within a run: how G was sampled
PROSE = {  # how a factor's value reads in a title
    "model.generator.norm": "G {}",
    "model.generator.weight_norm": "G weights {}",
    "model.d_composition": "D {}",
    "model.g_composition": "G {}",
    STATISTICS: "{} statistics",
    WEIGHTS: "{} weights",
}


@dataclass(frozen=True)
class Run:
    """What a run directory held when it was read."""

    directory: RunDir
    name: str
    config: Mapping[str, Any]  # dotted key → value
    seed: int
    state: str
    step: int  # the last one
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # name → step → finite value
    scores: Sequence[Mapping[str, Any]] = ()  # the records of scores.json

    @property
    def task(self) -> str:
        """What was trained: "GAN" or "classifier"."""
        return "classifier" if self.config.get("task") == "classifier" else "GAN"

    def series(self, name: str) -> Mapping[int, float]:
        """step → value of one metric; empty where it was not recorded."""
        return self.metrics.get(name, {})

    def score(self, name: str) -> Mapping[int, float]:
        """step → value of one score."""
        return _columns(self.scores).get(name, {})

    @property
    def ends_without_images(self) -> bool:
        """Whether the generator had diverged at the last step that was scored: its images were not finite."""
        return bool(self.scores) and bool(max(self.scores, key=lambda record: record["step"]).get("diverged"))


@dataclass(frozen=True)
class Condition:
    """Runs that differ only in the seed.

    Attributes:
        label: the values of the factors, short: "batch", or "norm=batch, batch_size=32".
        title: the label for prose: "BatchNorm", or "BatchNorm (batch size 32)".
        naming: the fewest config keys whose values tell all conditions apart.
        values: every config key that differs between conditions → its value here (None: not set).
        runs: finished runs, one a seed.
        diverged: runs that diverged, one a seed.
    """

    label: str
    title: str
    naming: Sequence[str]
    values: Mapping[str, Any]
    runs: Sequence[Run]
    diverged: Sequence[Run]

    @property
    def task(self) -> str:
        """What was trained: "GAN" or "classifier"."""
        return (*self.runs, *self.diverged)[0].task

    @property
    def divergence(self) -> str:
        """How many of the runs that ended have diverged: "1 of 5"."""
        return f"{len(self.diverged)} of {len(self.diverged) + len(self.runs)}"


@dataclass(frozen=True)
class LeftOut:
    """A run that is not part of the comparison, and why."""

    name: str
    reason: str


def read_runs(directories: Sequence[RunDir]) -> tuple[list[Run], list[LeftOut]]:
    """Read the runs that ended; those still being written, failed or damaged are named with the reason."""
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
                why = f": {status['reason']}" if status.get("reason") else ""
                left_out.append(LeftOut(name, printable(f"{run.state} at step {run.step}{why}")))
    return runs, left_out


def group(runs: Sequence[Run]) -> tuple[list[Condition], list[LeftOut], list[str]]:
    """Sort runs into conditions.

    Returns:
        The conditions, ordered by their factors (numbers by size, names as they come); runs that repeat the seed of
        another run of their condition that ended alike; remarks on what cannot be told apart.
    """
    factors = _factors(runs)
    points: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=_position(runs, factors)):
        points.setdefault(_point(run, factors), []).append(run)
    naming = _naming(points, factors) or [next((key for key in NORMS if key in runs[0].config), NORM)]

    conditions, repeats = [], []
    for members in points.values():
        ended: dict[str, dict[int, Run]] = {"finished": {}, "diverged": {}}  # state → seed → run
        for run in members:
            first = ended[run.state].setdefault(run.seed, run)
            if first is not run:
                repeats.append(LeftOut(run.name, f"same condition and seed as {first.name}"))
        config = members[0].config
        values = {key: config.get(key) for key in factors}
        title = titled({key: config.get(key) for key in naming})
        finished, diverged = (list(runs.values()) for runs in ended.values())
        conditions.append(Condition(_label(config, naming), title, naming, values, finished, diverged))
    return conditions, repeats, [*_confounded(factors, naming), *_folders(runs)]


def titled(values: Mapping[str, Any]) -> str:
    """Factors' values for prose, the normalizer of D or of the classifier first.

    >>> titled({NORM: "batch", "model.d_composition": "joint", "data.batch_size": 8})
    'BatchNorm (D joint, batch size 8)'
    """
    if len(values) == 1 and not set(values) & {*NORMS, *PROSE} and all(isinstance(v, str) for v in values.values()):
        return text(*values.values())
    words = [worded(key, value, list(values)) for key, value in values.items()]
    if len(words) > 1 and not values.keys().isdisjoint(NORMS):
        return f"{words[0]} ({', '.join(words[1:])})"
    return " with ".join(words)


def worded(key: str, value: Any, keys: Sequence[str]) -> str:
    """One factor's value for prose, where `keys` are the factors that it must not be confused with."""
    if key in NORMS:
        return TITLES.get(text(value), text(value))
    if key in PROSE:
        return PROSE[key].format(TITLES.get(text(value), text(value)) if key.endswith(".norm") else text(value))
    return f"{_short(key, keys).replace('_', ' ')} {text(value)}"


def text(value: Any) -> str:
    """A config value as it reads in a table."""
    if value is None:
        return "–"
    return printable(value if isinstance(value, str) else json.dumps(value, default=str))


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(directory: RunDir, name: str) -> Run:
    status = directory.status()
    config = {key: value for key, value in flatten(upgraded(directory.config())).items() if value != {}}
    seed = config.get("seed")
    if not isinstance(seed, int):
        raise UserError(f"a config must hold an integer seed: config.yaml holds {seed!r}.")
    scores = [score_values(record) for record in directory.scores()]
    metrics = directory.metrics()
    step = max([status["step"], *(record["step"] for record in metrics[-1:])])  # a running run's status is old
    return Run(directory, name, config, seed, directory.state(), step, _columns(metrics), scores)


def score_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of scores.json, with the reconstruction's error as a score among the others."""
    details = record.get("reconstruction")
    if not isinstance(details, dict):
        return dict(record)
    return {**record, "reconstruction": details["error"], "reconstruction_protocol": details.get("protocol")}


def _columns(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """name → step → value, of the finite numbers among the records."""
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:  # a JSON integer may be larger
                columns.setdefault(name, {})[record["step"]] = float(value)
    return columns


# -- factors ----------------------------------------------------------------------------------------------------------


def _factors(runs: Sequence[Run]) -> list[str]:
    """The config keys that differ between runs, the normalizer first, then in the order of the configs."""
    keys = dict.fromkeys([*NORMS, *(key for run in runs for key in factors(run.config))])
    return [key for key in keys if len({text(run.config.get(key)) for run in runs}) > 1]


def _point(run: Run, factors: Iterable[str]) -> tuple[str, ...]:
    return tuple(text(run.config.get(key)) for key in factors)


def _position(runs: Sequence[Run], factors: Sequence[str]) -> Any:
    """A sort key: numbers by size, everything else in the order in which the runs bring it."""
    ranks: list[dict[str, int]] = []
    for key in factors:
        values: dict[str, Any] = {text(run.config.get(key)): run.config.get(key) for run in runs}
        if all(isinstance(v, int | float) for v in values.values()):
            values = dict(sorted(values.items(), key=lambda item: float(item[1])))
        ranks.append({value: rank for rank, value in enumerate(values)})
    return lambda run: [rank[value] for rank, value in zip(ranks, _point(run, factors), strict=True)]


def _naming(points: Iterable[tuple[str, ...]], factors: Sequence[str]) -> list[str]:
    """The fewest factors whose values still tell all conditions apart; earlier keys are kept first."""
    points, kept = list(points), list(range(len(factors)))
    for index in reversed(range(len(factors))):
        fewer = [i for i in kept if i != index]
        if len({tuple(point[i] for i in fewer) for point in points}) == len(points):
            kept = fewer
    return [factors[i] for i in kept]


def _label(config: Mapping[str, Any], naming: Sequence[str]) -> str:
    if len(naming) == 1 and isinstance(config.get(naming[0]), str):
        return text(config[naming[0]])
    return ", ".join(f"{_short(key, naming)}={text(config.get(key))}" for key in naming)


def _short(key: str, keys: Sequence[str]) -> str:
    """The shortest tail of a dotted key that no other key shares; the key itself where it is another's tail."""
    parts = key.split(".")
    tails = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
    return printable(next((t for t in tails if not any(k != key and f".{k}".endswith(f".{t}") for k in keys)), key))


def _confounded(factors: Sequence[str], naming: Sequence[str]) -> list[str]:
    """A remark when conditions differ in more than what names them: nothing can tell such factors apart."""
    more = [key for key in factors if key not in naming and not any(key.startswith(f"{n}_options") for n in naming)]
    if not more:
        return []
    return [
        printable(
            f"{', '.join(naming)} changes together with {', '.join(more)}: a difference may come from any of them."
        )
    ]


def _folders(runs: Sequence[Run]) -> list[str]:
    """A remark when images come from several folders: one data set that moved, or two, the configs do not say."""
    own = (run.config.get("data.root") for run in runs if run.config.get("data.name") == "folder")
    folders = dict.fromkeys(text(root) for root in own)
    if len(folders) < 2:
        return []
    return [f"data.root is {' or '.join(folders)}, which is no factor: compare runs apart unless the images are equal."]
