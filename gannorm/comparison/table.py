"""The rows of a comparison: one a condition and quantity, with the mean over runs and the effect against the baseline.

Every table and figure of the report is made of these rows and of the runs' own values, and the same rows are written to
table.csv and table.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gannorm.comparison.conditions import Condition
from gannorm.comparison.intervals import (
    Effect,
    Estimate,
    compare_means,
    mean_interval,
    rate_interval,
    ratio_of_means,
)
from gannorm.comparison.multiplicity import Corrected, corrected
from gannorm.comparison.quantities import QUANTITIES, Quantity

DIVERGENCE = "divergence_rate"


@dataclass(frozen=True)
class Row:
    """One quantity of one condition: its estimate over runs, and the effect against the baseline.

    Attributes:
        effect: None for the baseline, for rates, ratios, and for the worst of all runs.
        corrected: of a last score, its p values among all comparisons that were made.
    """

    condition: str
    quantity: str
    estimate: Estimate
    effect: Effect | None
    corrected: Corrected | None = None

    @property
    def verdict(self) -> str:
        """On the effect, corrected for the number of comparisons where it is of a last score; "" without an effect."""
        if self.effect is None:
            return ""
        return self.corrected.verdict(self.effect) if self.corrected else self.effect.verdict

    def flat(self) -> dict[str, Any]:
        """One line of table.csv."""
        effect, adjusted = self.effect, self.corrected
        pairing = None
        if effect:
            pairing = "by seed" if effect.paired else "none"
        return {
            "condition": self.condition,
            "quantity": self.quantity,
            **asdict(self.estimate),  # mean, low, high, n
            **_bounds("difference", effect.difference if effect else None),
            **_bounds("percent", effect.percent if effect else None),
            "pairing": pairing,
            "difference_n": effect and effect.difference.n,
            "p": effect and effect.p,
            "p_holm": adjusted and adjusted.p,
            "p_equal_holm": adjusted and adjusted.equal,
            "margin": adjusted and adjusted.margin,
            "verdict": self.verdict or None,
        }


Rows = Mapping[tuple[str, str], Row]


def tabulate(conditions: Sequence[Condition]) -> dict[tuple[str, str], Row]:
    """(condition's label, quantity's name) → row; the first condition is the baseline."""
    corrections = corrected(conditions)
    rows = []
    for quantity in QUANTITIES:
        baseline = _values(conditions[0], quantity.name)
        for condition in conditions:
            estimate = _estimate(condition, quantity)
            if estimate is None:
                continue
            effect = None
            if quantity.over_runs == "mean" and baseline and condition is not conditions[0]:
                effect = compare_means(baseline, _values(condition, quantity.name), quantity.limits)
            key = condition.label, quantity.name
            rows.append(Row(*key, estimate, effect, corrections.get(key)))
    for condition in conditions:
        diverged, ended = len(condition.diverged), len(condition.all_runs)
        rows.append(Row(condition.label, DIVERGENCE, rate_interval(diverged, ended), None))
    return {(row.condition, row.quantity): row for row in rows}


def _estimate(condition: Condition, quantity: Quantity) -> Estimate | None:
    """Over a condition's runs; None where none of them was measured."""
    if quantity.over_runs == "ratio":
        head = quantity.name.removesuffix("_ratio")
        own, context = (_values(condition, f"{head}_{part}") for part in ("own", "context"))
        shared = own.keys() & context.keys()
        if not shared:
            return None
        return ratio_of_means({s: context[s] for s in shared}, {s: own[s] for s in shared}).within(quantity.limits)
    values = _values(condition, quantity.name)
    if not values:
        return None
    if quantity.over_runs == "max":
        return Estimate(max(values.values()), None, None, len(values))
    if quantity.over_runs == "min":
        return Estimate(min(values.values()), None, None, len(values))
    return mean_interval(list(values.values()), quantity.limits)


def _values(condition: Condition, name: str) -> dict[int, float]:
    """Seed → value, of the finished runs that hold it."""
    return {run.seed: run.values[name] for run in condition.runs if name in run.values}


def _bounds(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = estimate.bounds if estimate else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
