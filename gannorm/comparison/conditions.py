"""Sort runs into conditions: the groups of runs that differ in nothing but the seed.

The factors are not declared but detected: every config key that differs between two runs is a factor. So a comparison
cannot omit a difference that its author forgot, and it reports factors that always change together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gannorm.comparison.runs import LeftOut, Run
from gannorm.comparison.titles import point, titled, varied
from gannorm.config.labels import labels, naming, text
from gannorm.errors import printable


@dataclass(frozen=True)
class Condition:
    """Runs that differ only in the seed.

    Attributes:
        label: the values of the factors, short: "batch", or "norm=batch, batch_size=32".
        title: the label for prose: "BatchNorm", or "BatchNorm (batch size 32)".
        naming: the fewest config keys whose values distinguish all conditions.
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
        return self.all_runs[0].task

    @property
    def all_runs(self) -> list[Run]:
        return [*self.runs, *self.diverged]

    @property
    def divergence(self) -> str:
        """The number of diverged runs among the ended ones: "1 of 5"."""
        return f"{len(self.diverged)} of {len(self.diverged) + len(self.runs)}"


def group(runs: Sequence[Run]) -> tuple[list[Condition], list[LeftOut], list[str]]:
    """Sort runs into conditions.

    Returns:
        The conditions, ordered by their factors (numbers by size, names in order of appearance); runs that repeat the
        seed of another run of their condition with the same end; remarks on factors that cannot be distinguished.
    """
    configs = [run.config for run in runs]
    keys, named = varied(configs), naming(configs)
    label_of = {id(run): label for run, label in zip(runs, labels(configs), strict=True)}
    points: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=_position(runs, keys)):
        points.setdefault(point(run.config, keys), []).append(run)

    conditions, repeats = [], []
    for members in points.values():
        ended: dict[str, dict[int, Run]] = {"finished": {}, "diverged": {}}  # state → seed → run
        for run in members:
            first = ended[run.state].setdefault(run.seed, run)
            if first is not run:
                repeats.append(LeftOut(run.name, f"same condition and seed as {first.name}"))
        config = members[0].config
        values = {key: config.get(key) for key in keys}
        title = titled({key: config.get(key) for key in named})
        finished, diverged = (list(runs.values()) for runs in ended.values())
        conditions.append(Condition(label_of[id(members[0])], title, named, values, finished, diverged))
    return conditions, repeats, [*_confounded(keys, named), *_folders(runs), *_unlike(conditions)]


def _position(runs: Sequence[Run], keys: Sequence[str]) -> Any:
    """A sort key: numbers by size, other values in order of appearance."""
    ranks: list[dict[str, int]] = []
    for key in keys:
        values: dict[str, Any] = {text(run.config.get(key)): run.config.get(key) for run in runs}
        if all(isinstance(v, int | float) for v in values.values()):
            values = dict(sorted(values.items(), key=lambda item: float(item[1])))
        ranks.append({value: rank for rank, value in enumerate(values)})
    return lambda run: [rank[value] for rank, value in zip(ranks, point(run.config, keys), strict=True)]


def _confounded(keys: Sequence[str], named: Sequence[str]) -> list[str]:
    """A remark on factors that only change together: their effects cannot be distinguished."""
    more = [key for key in keys if key not in named and not any(key.startswith(f"{n}_options") for n in named)]
    if not more:
        return []
    together = f"{', '.join(named)} {'change' if len(named) > 1 else 'changes'} together with {', '.join(more)}"
    return [printable(f"{together}: a difference may come from any of them.")]


def _folders(runs: Sequence[Run]) -> list[str]:
    """A remark on images from several folders: the configs do not show whether these are one data set or several."""
    own = (run.config.get("data.root") for run in runs if run.config.get("data.name") == "folder")
    folders = dict.fromkeys(text(root) for root in own)
    if len(folders) < 2:
        return []
    return [f"data.root is {' or '.join(folders)}, which is no factor: compare only runs whose images are the same."]


def _unlike(conditions: Sequence[Condition]) -> list[str]:
    """A remark where the lines of a runs.csv have one condition and several config hashes.

    Run directories cannot have this: every key in the hash is a factor.
    """
    unlike = [c.label for c in conditions if len({run.hash for run in c.all_runs}) > 1]
    if not unlike:
        return []
    return [
        f"runs of one condition have different config hashes ({', '.join(unlike)}): they differ in a setting that "
        "runs.csv does not hold."
    ]
