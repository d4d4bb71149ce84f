"""Verdicts on scores, corrected for the number of comparisons that were made.

Every condition is compared with the baseline on the last value of every score. Each comparison of equal networks shows
a difference by chance with probability 1/20, so a page of many comparisons would often show one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gannorm.comparison.conditions import Condition
from gannorm.comparison.intervals import Effect, compare_means, equivalence
from gannorm.comparison.scores import ACCURACY, SCORES, Score

ALPHA = 0.05
Key = TypeVar("Key")


@dataclass(frozen=True)
class Corrected:
    """The corrected p values of one comparison.

    Attributes:
        p: Holm's p of no difference; None where one seed gives no test.
        equal: Holm's p of a difference of at least the margin; None for a score without a margin.
        margin: in words, "±5 %".
        comparisons: number of differences that were tested, over which Holm's method corrects.
    """

    p: float | None
    equal: float | None
    margin: str
    comparisons: int

    def verdict(self, effect: Effect) -> str:
        """ "higher" or "lower", "equal within ±5 %", "no difference shown", or the reason for no answer."""
        if self.p is None:
            return effect.verdict
        if self.p < ALPHA:
            return "higher" if effect.difference.mean > 0 else "lower"
        if self.equal is not None and self.equal < ALPHA:
            return f"equal within {self.margin}"
        return "no difference shown"


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's adjusted p values: the k-th smallest of m times (m−k+1), made monotone, at most 1.

    Rejecting those below α makes a single false rejection with probability at most α, whatever the tests share.

    Source: Holm 1979.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, (key, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        adjusted[key] = largest
    return adjusted


def corrected(conditions: Sequence[Condition]) -> dict[tuple[str, str], Corrected]:
    """(condition's label, "fid/final") → the comparison with the first condition, of every score that both have."""
    differences: dict[tuple[str, str], float] = {}
    equalities: dict[tuple[str, str], float] = {}
    compared: dict[tuple[str, str], Score] = {}
    for score in (*SCORES, ACCURACY):
        name = f"{score.name}/final"
        base, *others = (_values(c, name) for c in conditions)
        for condition, values in zip(conditions[1:], others, strict=True):
            if not base or not values:
                continue
            key = condition.label, name
            compared[key] = score
            p = compare_means(base, values, score.limits).p
            if p is not None and p == p:  # NaN where values are not finite
                differences[key] = p
            if score.margin is not None:
                equal = equivalence(base, values, score.margin, relative=score.relative)
                if equal is not None and equal == equal:
                    equalities[key] = equal
    different, equal_within = holm(differences), holm(equalities)
    return {
        key: Corrected(
            different.get(key),
            equal_within.get(key),
            score.margin_in_words if score.margin is not None else "",
            len(differences),
        )
        for key, score in compared.items()
    }


def _values(condition: Condition, name: str) -> dict[int, float]:
    return {run.seed: run.values[name] for run in condition.runs if name in run.values}
