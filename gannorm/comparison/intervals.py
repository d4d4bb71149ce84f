"""Means, differences and ratios over training seeds, with 95 % intervals.

A training run is one draw from a noisy procedure, so the unit of every interval here is the seed, never the image or
the split. Two conditions that were trained from the same seeds are compared seed by seed, which removes the part of
the noise that a seed gives to both.

The values of the seeds are taken as normally distributed. Where they are skewed an interval holds less than it says: of
a lognormal distribution with σ = 1, the intervals of a mean hold the mean in 90, 84 and 82 % for 2, 3 and 5 seeds
(`pytest tests/comparison/test_intervals.py -k skewed`).

An interval ends where the quantity does: no accuracy lies above 1, no FID below 0, and no positive mean decreases by
more than 100 %. The cut costs no confidence, since it removes only values that the mean cannot have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """The effect of a condition against the baseline.

    Attributes:
        difference: condition minus baseline; its `n` is the number of pairs, or the smaller group if unpaired.
        percent: 100·(condition/baseline − 1); None where the baseline may be zero, so that a ratio means nothing.
        paired: whether the difference was taken seed by seed.
        seeds: number of seeds in either condition; there may be fewer pairs.
        p: of the two-sided t test of no difference; None where one seed gives no interval.
    """

    difference: Estimate
    percent: Estimate | None
    paired: bool
    seeds: int = 0
    p: float | None = None

    @property
    def verdict(self) -> str:
        """ "higher" or "lower" where the interval of the difference excludes zero, otherwise the reason."""
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
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, None, None, 1)
    if np.ptp(x) == 0:  # scipy warns of no spread
        return Estimate(float(x[0]), float(x[0]), float(x[0]), x.size)
    with _quietly():
        low, high = stats.ttest_1samp(x, 0).confidence_interval(CONFIDENCE)
    return Estimate(mean, float(low), float(high), x.size).within(limits)


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
    x, y, paired = samples(baseline, other)
    n = min(x.size, y.size)
    if n == 1:
        change = float(y.mean() - x.mean())
        percent = Estimate(100 * float(y.mean() / x.mean() - 1), None, None, n) if x.mean() > 0 else None
        return Effect(Estimate(change, None, None, n), percent, paired)
    if paired:
        covariance, freedom = np.cov(x, y) / n, n - 1.0
    else:
        variances = np.array([x.var(ddof=1) / x.size, y.var(ddof=1) / y.size])
        weights = variances**2 / np.array([x.size - 1, y.size - 1])  # Welch–Satterthwaite
        freedom = variances.sum() ** 2 / weights.sum() if weights.sum() > 0 else x.size + y.size - 2.0
        covariance = np.diag(variances)
    difference, p = _difference(x, y, paired, n)
    return Effect(difference, _percent(x.mean(), y.mean(), covariance, freedom, n), paired, p=p)


def samples(baseline: Mapping[int, float], other: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray, bool]:
    """The two samples that a comparison is of, and whether they are paired.

    They are paired over their shared seeds where there are at least two, or one and no other seed to compare with.
    """
    shared = sorted(set(baseline) & set(other))
    paired = len(shared) > 1 or (len(shared) == 1 and min(len(baseline), len(other)) == 1)
    x, y = (np.array([group[s] for s in (shared if paired else group)], dtype=float) for group in (baseline, other))
    return x, y, paired


def equivalence(
    baseline: Mapping[int, float], other: Mapping[int, float], margin: float, *, relative: bool = True
) -> float | None:
    """The p value of two one-sided t tests: small where the two means are shown to differ by less than a margin.

    H₀: E[y] ≥ (1+m)·E[x] or E[y] ≤ (1−m)·E[x]; of a margin that is not relative, E[y] ≥ E[x]+m or E[y] ≤ E[x]−m. Paired
    by seed, or by Welch's method, as in `compare_means`.

    Args:
        baseline, other: seed → value, each non-empty.
        margin: m > 0.
        relative: whether it is a share of the baseline's mean, which must be positive for it to mean anything.

    Returns:
        The larger of the two p values; None of a single seed, or of a baseline whose mean is not positive.

    Source: Schuirmann 1987.

    >>> same = {0: 5.0, 1: 5.1, 2: 4.9}
    >>> equivalence(same, {0: 5.02, 1: 5.09, 2: 4.91}, 0.05) < 0.05 < equivalence(same, {0: 5.0, 1: 6.0, 2: 4.0}, 0.05)
    True
    """
    x, y, paired = samples(baseline, other)
    if min(x.size, y.size) < 2 or (relative and x.mean() <= 0):
        return None
    above, below = (x * (1 + margin), x * (1 - margin)) if relative else (x + margin, x - margin)
    return max(_one_sided(above, y, paired), _one_sided(y, below, paired))


def _one_sided(larger: np.ndarray, smaller: np.ndarray, paired: bool) -> float:
    """The p value of the hypothesis that `smaller` has the greater mean."""
    if _without_spread(larger, smaller, paired):
        return float(larger.mean() <= smaller.mean())
    with _quietly():
        if paired:
            return float(stats.ttest_rel(larger, smaller, alternative="greater").pvalue)
        return float(stats.ttest_ind(larger, smaller, equal_var=False, alternative="greater").pvalue)


def ratio_of_means(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> Estimate:
    """The absolute ratio of two means over the same seeds, with Fieller's interval.

    |ȳ/x̄|. The interval is the set of all |ρ| for which a t test does not reject E[y − ρx] = 0; there is none where the
    set is unbounded, since the denominator may be zero. A mean of ratios would have no expectation there.

    Args:
        numerator, denominator: seed → value, with the same seeds.

    Source: Fieller 1954.

    >>> ratio_of_means({0: 2.0, 1: 2.2, 2: 1.8}, {0: 1.0, 1: 1.1, 2: 0.9})
    Estimate(mean=2.0..., low=2.0..., high=2.0..., n=3)
    """
    y, x = (np.array([values[s] for s in sorted(numerator)], dtype=float) for values in (numerator, denominator))
    mean = abs(y.mean() / x.mean()) if x.mean() != 0 else math.inf
    if x.size < 2:
        return Estimate(float(mean), None, None, x.size)
    bounds = _fieller(x.mean(), y.mean(), np.cov(x, y) / x.size, x.size - 1)
    if bounds is None:
        return Estimate(float(mean), None, None, x.size)
    low, high = bounds
    if low <= 0 <= high:
        low, high = 0.0, max(-low, high)
    else:
        low, high = min(abs(low), abs(high)), max(abs(low), abs(high))
    return Estimate(float(mean), min(low, float(mean)), max(high, float(mean)), x.size)


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


def _difference(x: np.ndarray, y: np.ndarray, paired: bool, n: int) -> tuple[Estimate, float]:
    """ȳ − x̄ with its interval, and the p value of no difference."""
    change = float(np.mean(y - x)) if paired else float(y.mean() - x.mean())
    if _without_spread(y, x, paired):
        return Estimate(change, change, change, n), float(change == 0)
    with _quietly():
        result = stats.ttest_rel(y, x) if paired else stats.ttest_ind(y, x, equal_var=False)
        low, high = result.confidence_interval(CONFIDENCE)
    return Estimate(change, float(low), float(high), n), float(result.pvalue)


def _without_spread(x: np.ndarray, y: np.ndarray, paired: bool) -> bool:
    """Whether all differences are equal, so that a t test would divide by zero."""
    return bool(np.ptp(x - y) == 0) if paired else bool(np.ptp(x) == 0 and np.ptp(y) == 0)


def _percent(x: float, y: float, covariance: np.ndarray, freedom: float, n: int) -> Estimate | None:
    """100·(y/x − 1) of two means, given the 2×2 covariance of the means; None where x may be zero."""
    if x <= 0:
        return None
    bounds = _fieller(x, y, covariance, freedom)
    if bounds is None:
        return None
    low, high = (100 * (rho - 1) for rho in bounds)
    return Estimate(100 * float(y / x - 1), low, high, n)


def _fieller(x: float, y: float, covariance: np.ndarray, freedom: float) -> tuple[float, float] | None:
    """The least and the greatest ratio y/x; None where the set of ratios is unbounded, since x may be zero."""
    (xx, xy), (_, yy) = covariance
    t2 = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) ** 2
    a, b, c = x * x - t2 * xx, x * y - t2 * xy, y * y - t2 * yy  # aρ² − 2bρ + c ≤ 0
    if not a > 0:
        return None
    root = np.sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without scipy's remark that values lie close together: the intervals of such values are small, and right."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.filterwarnings("ignore", message="Precision loss occurred", category=RuntimeWarning)
        yield
