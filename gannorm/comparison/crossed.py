"""Crossed factors: the effect of each factor at every setting of the others, for conditions that form a full grid.

A list of eight conditions hides whether a joint step of D helps every normalizer or only BatchNorm. So the conditions
form a table: one factor in the columns, the settings of the others in the lines. A line can also hold the change that
one of the other factors makes; its difference between two columns is the interaction. No change is averaged over
settings: one that helps at one setting and harms at another would look like none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gannorm.comparison.conditions import Condition
from gannorm.comparison.intervals import Effect, Estimate, compare_means, mean_interval, of_changes
from gannorm.comparison.quantities import QUANTITIES, TRAIN
from gannorm.comparison.titles import WEIGHTS, worded
from gannorm.config import NORMS
from gannorm.config.labels import text

CONFLICT = f"{TRAIN}auc_conflict"
TITLES = {  # quantity → title
    CONFLICT: "AUC in conflict",
    f"{TRAIN}auc_gap": "Composition gap of AUC",
    "inception_score/final": "Inception score",
    "fid/final": "FID",
    "reconstruction/final": "Reconstruction error",
    "test/accuracy/final": "Accuracy on held-out images",
}

Values = dict[int, float]  # seed → value


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        quantity: its name.
        change: the change that the values are of, "D joint instead of D separate"; "" for the values themselves.
        setting: of the other factors, "G fake"; "" where there is no other.
        baseline: level of the factor in the columns with which the differences compare; its own cell may be missing.
        cells: level of the factor in the columns → mean over seeds.
        differences: every level but the baseline's → its cell minus that of the baseline's level, paired by seed; of a
            change, this is the interaction.
    """

    quantity: str
    change: str
    setting: str
    baseline: str
    cells: Mapping[str, Estimate]
    differences: Mapping[str, Effect]

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.change, self.setting)))


def cross(conditions: Sequence[Condition]) -> list[Line]:
    """The table of a full grid of two or more factors; empty where the conditions are none.

    For each quantity, a line a setting of the factors that are not in the columns; then, for each of these factors and
    each of its values but that of the baseline, the change from the baseline's value at every setting of the remaining
    factors, seed by seed.

    Args:
        conditions: the first is the baseline.

    Source: simple effects and interaction contrasts of a factorial design; intervals as in `intervals`.
    """
    conditions = [c for c in conditions if c.runs]
    naming = conditions[0].naming if conditions else ()
    if len(naming) < 2:
        return []
    levels = {key: _levels([c.values[key] for c in conditions]) for key in naming}
    base = {key: text(conditions[0].values[key]) for key in naming}
    grid = {tuple(text(c.values[key]) for key in naming): c for c in conditions}
    if set(grid) != set(itertools.product(*levels.values())):
        return []
    column = next((key for key in (*NORMS, WEIGHTS) if key in naming), naming[-1])
    others = [key for key in naming if key != column]
    lines: list[Line] = []
    for quantity in (q for q in QUANTITIES if q.name in TITLES):
        cells = {
            (level, tuple(point[naming.index(key)] for key in others)): {
                run.seed: run.values[quantity.name] for run in c.runs if quantity.name in run.values
            }
            for point, c in grid.items()
            for level in [point[naming.index(column)]]
        }
        heads = {level: worded(column, level, naming) for level in levels[column]}
        for change, setting, per_level in _lines(cells, levels, base, column, others):
            values = {heads[level]: v for level, v in per_level.items() if v}
            if not values:
                continue
            first = heads[base[column]]
            reference = values.get(first, {})
            limits = of_changes(quantity.limits) if change else quantity.limits
            lines.append(
                Line(
                    quantity.name,
                    change,
                    setting,
                    first,
                    {head: mean_interval(list(v.values()), limits) for head, v in values.items()},
                    {
                        head: compare_means(reference, v, limits)
                        for head, v in values.items()
                        if head != first and reference
                    },
                )
            )
    return lines


def _lines(
    cells: Mapping[tuple[str, tuple[str, ...]], Values],
    levels: Mapping[str, Sequence[str]],
    base: Mapping[str, str],
    column: str,
    others: Sequence[str],
) -> Iterator[tuple[str, str, dict[str, Values]]]:
    """(change, setting, level → values) of each line for one quantity."""
    words = {key: {value: worded(key, value, list(levels)) for value in levels[key]} for key in others}
    settings = list(itertools.product(*(levels[key] for key in others)))
    for setting in settings:
        name = ", ".join(words[key][value] for key, value in zip(others, setting, strict=True))
        yield "", name, {level: cells[level, setting] for level in levels[column]}
    for index, key in enumerate(others):
        for value in (v for v in levels[key] if v != base[key]):
            change = f"{words[key][value]} instead of {words[key][base[key]]}"
            for setting in (s for s in settings if s[index] == base[key]):
                changes = {}
                for level in levels[column]:
                    before = cells[level, setting]
                    after = cells[level, (*setting[:index], value, *setting[index + 1 :])]
                    changes[level] = {seed: after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())}
                rest = [words[k][v] for k, v in zip(others, setting, strict=True) if k != key]
                yield change, ", ".join(rest), changes


def _levels(values: Sequence[Any]) -> list[str]:
    """Each value once, numbers by size, as text."""
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    return list(dict.fromkeys(text(value) for value in values))
