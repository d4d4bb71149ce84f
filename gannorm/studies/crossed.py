"""Crossed factors: what each one does at every setting of the others, where a study's conditions are a full grid.

A list of eight conditions hides whether a joint step of D helps every normalizer or only BatchNorm. So the conditions
are laid out as a table, with one factor in the columns and the settings of the others in the lines, and each of the
others' changes is set against the change under the column beside it: the difference of the two is the interaction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gannorm.studies.conditions import NORM, WEIGHTS, Condition, text, worded
from gannorm.studies.intervals import Effect, Estimate, compare_means, mean_interval
from gannorm.studies.quantities import QUANTITIES

SHOWN = {  # quantity → title
    "train/accuracy_fall": "Fall of accuracy",
    "inception_score/final": "Inception score",
    "fid/final": "FID",
    "reconstruction/final": "Reconstruction error",
}

Values = dict[int, float]  # seed → value


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        quantity: its name.
        title: the setting of the other factors, or the change of one of them.
        is_change: whether the values are changes.
        cells: level of the factor in the columns → mean over seeds.
        differences: every level but the baseline's → its cell minus that of the baseline's level, paired by seed; of a
            change, this is the interaction.
    """

    quantity: str
    title: str
    is_change: bool
    cells: Mapping[str, Estimate]
    differences: Mapping[str, Effect]


def cross(conditions: Sequence[Condition]) -> list[Line]:
    """The table of a full grid of two or more factors; empty where the conditions are none.

    For each quantity, a line a setting of the factors that are not in the columns; then, for each of these factors and
    each of its values but that of the baseline, the change from the baseline's value, averaged over the settings of the
    remaining factors seed by seed. A seed counts where all of its cells were measured.

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
    column = next((key for key in (NORM, WEIGHTS) if key in naming), naming[-1])
    others = [key for key in naming if key != column]
    lines: list[Line] = []
    for quantity in (q for q in QUANTITIES if q.name in SHOWN):
        cells = {
            (level, tuple(point[naming.index(key)] for key in others)): {
                run.seed: value for run in c.runs if (value := quantity.measure(run)) is not None
            }
            for point, c in grid.items()
            for level in [point[naming.index(column)]]
        }
        heads = {level: worded(column, level, naming) for level in levels[column]}
        for title, is_change, per_level in _lines(cells, levels, base, column, others):
            values = {heads[level]: v for level, v in per_level.items() if v}
            if not values:
                continue
            first = heads[base[column]]
            reference = values.get(first, {})
            lines.append(
                Line(
                    quantity.name,
                    title,
                    is_change,
                    {head: mean_interval(list(v.values())) for head, v in values.items()},
                    {head: compare_means(reference, v) for head, v in values.items() if head != first and reference},
                )
            )
    return lines


def _lines(
    cells: Mapping[tuple[str, tuple[str, ...]], Values],
    levels: Mapping[str, Sequence[str]],
    base: Mapping[str, str],
    column: str,
    others: Sequence[str],
) -> Iterator[tuple[str, bool, dict[str, Values]]]:
    """(title, is a change, level → values) of each line for one quantity."""
    naming = list(levels)
    settings = list(itertools.product(*(levels[key] for key in others)))
    for setting in settings:
        title = ", ".join(worded(key, value, naming) for key, value in zip(others, setting, strict=True))
        yield title, False, {level: cells[level, setting] for level in levels[column]}
    for index, key in enumerate(others):
        for value in (v for v in levels[key] if v != base[key]):
            pairs = [(s, (*s[:index], value, *s[index + 1 :])) for s in settings if s[index] == base[key]]
            changes = {}
            for level in levels[column]:
                pools = [(cells[level, before], cells[level, after]) for before, after in pairs]
                seeds = set.intersection(*(set(values) for pool in pools for values in pool))
                changes[level] = {s: fmean(after[s] - before[s] for before, after in pools) for s in sorted(seeds)}
            yield f"{worded(key, value, naming)} instead of {worded(key, base[key], naming)}", True, changes


def _levels(values: Sequence[Any]) -> list[str]:
    """Each value once, numbers by size, as text."""
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    return list(dict.fromkeys(text(value) for value in values))
