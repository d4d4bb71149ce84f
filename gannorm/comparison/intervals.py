"""Means, differences and ratios over training seeds, with 95 % intervals.

A training run is one draw from a noisy procedure, so the unit of every interval here is the seed, never the image or
the split. Two conditions that were trained from the same seeds are compared seed by seed, which removes the part of
the noise that a seed gives to both.

The values of the seeds are taken as normally distributed. Where they are skewed an interval holds less than it says: of
a lognormal distribution with σ = 1, the intervals of a mean hold the mean in 90, 84 and 82 % for 2, 3 and 5 seeds
(`pytest tests/studies/test_intervals.py -k skewed`).

An interval ends where the quantity does: no accuracy lies above 1, no FID below 0, and no positive mean falls by more
than 100 %. That costs no confidence, since what is cut off holds no value that the mean could have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
Limits = tuple[float, float]  # the least and the greatest value that a quantity can take
ANY: Limits = (-math.inf, math.inf)


@dataclass(frozen=True)
class Estimate:
    """A value from `n` seeds and its 95 % interval; `low` and `high` are None where one seed gives no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __neg__(self) -> Estimate:
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Estimate(-self.mean, low, high, self.n)

    def within(self, limits: Limits) -> Estimate:
        """The interval cut at the limits, but not short of the mean, which rounding may take beyond them."""
        if self.low is None or self.high is None or not math.isfinite(self.high - self.low):
            return self
        low, high = min(self.mean, max(self.low, limits[0])), max(self.mean, min(self.high, limits[1]))
        return replace(self, low=low, high=high)

    @property
    def bounds(self) -> tuple[float, float | None, float | None]:
        """(mean, low, high)."""
        return self.mean, self.low, self.high

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Effect:
    """How far a condition lies from the baseline.

    Attributes:
        difference: condition minus baseline; its `n` is the number of pairs, or the smaller group if unpaired.
        percent: 100·(condition/baseline − 1); None where the baseline may be zero, so that a ratio means nothing.
        paired: whether the difference was taken seed by seed.
        seeds: how many there are in all, of either condition; the pairs may be fewer.
    """

    difference: Estimate
    percent: Estimate | None
    paired: bool
    seeds: int = 0

    @property
    def verdict(self) -> str:
        """ "higher" or "lower" where the interval of the difference excludes zero, and otherwise why not."""
        if self.difference.low is None:
            return "no interval from one seed"
        if not self.difference.excludes_zero:
            return "no difference shown"
        return "higher" if self.difference.mean > 0 else "lower"

    @property
    def design(self) -> str:
        """How the seeds were used: "4 paired seeds"; "2 paired seeds of 6" where others were not shared, and unused."""
        if self.paired:
            others = f" of {self.seeds}" if self.seeds > self.difference.n else ""
            return f"{self.difference.n} paired seed{'s' if self.difference.n > 1 else ''}{others}"
        return "unpaired seeds"


def mean_interval(values: Sequence[float], limits: Limits = ANY) -> Estimate:
    """The mean of one value a seed, with Student's t interval.

    x̄ ± t_{0.975; n−1}·s/√n

    Args:
        values: (n,) one value a seed, n ≥ 1.
        limits: of the quantity.

    Returns:
        The estimate; without an interval for n = 1.

    Source: Student 1908.

    >>> mean_interval([1.0, 2.0, 3.0])
    Estimate(mean=2.0, low=-0.48..., high=4.48..., n=3)
    >>> mean_interval([1.0, 2.0, 3.0], limits=(0, math.inf)).low
    0
    """
    x = np.asarray(values, dtype=float)
    assert x.ndim == 1 and x.size > 0, x.shape
    variance = x.var(ddof=1) / x.size if x.size > 1 else None
    return _t_interval(x.mean(), variance, x.size - 1, x.size).within(limits)


def of_changes(limits: Limits) -> Limits:
    """The limits of the difference of two values of a quantity."""
    return limits[0] - limits[1], limits[1] - limits[0]


def compare_means(baseline: Mapping[int, float], other: Mapping[int, float], limits: Limits = ANY) -> Effect:
    """The effect of a condition against a baseline, paired by seed where at least two seeds are shared.

    Paired, over the shared seeds: d_s = y_s − x_s with Student's t interval. Otherwise Welch's interval of ȳ − x̄. The
    per cent interval is Fieller's, the set of all ratios ρ for which a t test does not reject E[y − ρx] = 0; at ρ = 1
    that is the test of the difference, so the two intervals always agree on the verdict.

    Args:
        baseline, other: seed → value, each non-empty.
        limits: of the quantity.

    Returns:
        The effect; a difference of 0 means the same value.

    Source: Welch 1947; Fieller 1954.

    >>> effect = compare_means({0: 5.0, 1: 6.0, 2: 7.0}, {0: 5.5, 1: 6.6, 2: 7.4})
    >>> effect.paired, effect.verdict, round(effect.difference.mean, 6)
    (True, 'higher', 0.5)
    """
    effect = _compared(baseline, other)
    percent = effect.percent
    if percent is not None and limits[0] >= 0:
        percent = percent.within((-100.0, math.inf))
    seeds = len(set(baseline) | set(other))
    return replace(effect, difference=effect.difference.within(of_changes(limits)), percent=percent, seeds=seeds)


def _compared(baseline: Mapping[int, float], other: Mapping[int, float]) -> Effect:
    shared = sorted(set(baseline) & set(other))
    paired = len(shared) > 1 or (len(shared) == 1 and min(len(baseline), len(other)) == 1)
    x, y = (np.array([group[s] for s in (shared if paired else group)], dtype=float) for group in (baseline, other))
    n = min(x.size, y.size)
    if n == 1:
        return _effect(x.mean(), y.mean(), None, 0, n, paired=paired)
    if paired:
        effect = _effect(x.mean(), y.mean(), np.cov(x, y) / n, n - 1, n, paired=True)
        return replace(effect, difference=mean_interval(y - x))  # exact where all differences are equal
    variances = np.array([x.var(ddof=1) / x.size, y.var(ddof=1) / y.size])
    weights = variances**2 / np.array([x.size - 1, y.size - 1])  # Welch–Satterthwaite
    freedom = variances.sum() ** 2 / weights.sum() if weights.sum() > 0 else x.size + y.size - 2.0
    return _effect(x.mean(), y.mean(), np.diag(variances), freedom, n, paired=False)


def rate_interval(count: int, total: int) -> Estimate:
    """The share count/total with the exact binomial interval.

    Source: Clopper & Pearson 1934.

    >>> rate_interval(0, 5)
    Estimate(mean=0.0, low=0.0, high=0.52..., n=5)
    """
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(count / total, float(interval.low), float(interval.high), total)


def mean_level(steps: Sequence[float], values: Sequence[float]) -> float:
    """The area under a curve divided by its length, so that it has the unit of the curve.

    ∫ v ds / (s_last − s_first), by trapezoids; the value itself for a curve of one point. Defined here.

    >>> mean_level([0, 10, 20], [0.0, 4.0, 4.0])
    3.0
    """
    s, v = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if s.size == 1:
        return float(v[0])
    return float(np.sum(np.diff(s) * (v[1:] + v[:-1]) / 2) / (s[-1] - s[0]))


def _effect(x: float, y: float, covariance: np.ndarray | None, freedom: float, n: int, *, paired: bool) -> Effect:
    """From the two means and the 2×2 covariance of the means (None: one seed, so no interval)."""
    if covariance is None:
        percent = Estimate(100 * float(y / x - 1), None, None, n) if x > 0 else None
        return Effect(_t_interval(y - x, None, 0, n), percent, paired)
    (xx, xy), (_, yy) = covariance
    difference = _t_interval(y - x, max(xx - 2 * xy + yy, 0.0), freedom, n)
    t2 = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) ** 2
    a, b, c = x * x - t2 * xx, x * y - t2 * xy, y * y - t2 * yy  # aρ² − 2bρ + c ≤ 0
    if x <= 0 or a <= 0:  # the baseline may be zero: the set of ratios is unbounded
        return Effect(difference, None, paired)
    root = np.sqrt(max(b * b - a * c, 0.0))
    low, high = (100 * float(rho - 1) for rho in ((b - root) / a, (b + root) / a))
    return Effect(difference, Estimate(100 * float(y / x - 1), low, high, n), paired)


def _t_interval(mean: float, variance: float | None, freedom: float, n: int) -> Estimate:
    if variance is None:
        return Estimate(float(mean), None, None, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variance))
    return Estimate(float(mean), float(mean) - half, float(mean) + half, n)
