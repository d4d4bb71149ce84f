"""Intervals against closed forms, against scipy, and against what "95 %" means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gannorm.comparison.intervals import Effect, compare_means, mean_interval, mean_level, of_changes, rate_interval

# Two routes to the same float64 quantiles differ in the last digits only.
CLOSE = 1e-9


def seeded(values: np.ndarray, first: int = 0) -> dict[int, float]:
    return dict(enumerate(values.tolist(), start=first))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_interval_of_two_values_is_12_706_half_distances() -> None:
    """n = 2: s/√n = |a − b|/2, and t with one degree of freedom is tan(0.475π)."""
    estimate = mean_interval([3.0, 5.0])
    assert estimate.mean == 4
    assert estimate.high == pytest.approx(4 + math.tan(0.475 * math.pi), rel=CLOSE)
    assert estimate.low == pytest.approx(4 - math.tan(0.475 * math.pi), rel=CLOSE)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_interval_agrees_with_scipy(n: int, random: np.random.Generator) -> None:
    x = random.normal(2, 3, n)
    low, high = stats.t.interval(0.95, n - 1, x.mean(), stats.sem(x))
    assert (mean_interval(x.tolist()).low, mean_interval(x.tolist()).high) == pytest.approx((low, high), rel=CLOSE)


def test_one_seed_has_no_interval_and_says_so() -> None:
    assert (mean_interval([3.0]).low, mean_interval([3.0]).high) == (None, None)
    for other in ({0: 4.0}, {7: 4.0}, {7: 4.0, 8: 5.0}):
        effect = compare_means({0: 3.0}, other)
        assert effect.difference.low is None
        assert effect.percent is not None and effect.percent.low is None
        assert effect.verdict == "no interval from one seed"


@pytest.mark.parametrize("n", [2, 5, 20])
def test_shared_seeds_are_paired_as_in_scipy(n: int, random: np.random.Generator) -> None:
    x, y = random.normal(5, 1, n), random.normal(6, 1, n)
    expected = stats.ttest_rel(y, x).confidence_interval(0.95)
    effect = compare_means(seeded(x), dict(reversed(seeded(y).items())))  # the order of seeds must not matter
    assert effect.paired
    assert (effect.difference.low, effect.difference.high) == pytest.approx(tuple(expected), rel=CLOSE)


def test_only_shared_seeds_are_paired() -> None:
    effect = compare_means({0: 1.0, 1: 2.0, 5: 99.0}, {0: 2.0, 1: 4.0, 6: -99.0})
    assert effect.paired and effect.difference.n == 2
    assert effect.difference.mean == 1.5


def test_disjoint_seeds_get_welchs_interval_as_in_scipy(random: np.random.Generator) -> None:
    x, y = random.normal(5, 1, 6), random.normal(6, 3, 4)
    expected = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    effect = compare_means(seeded(x), seeded(y, first=100))
    assert not effect.paired
    assert (effect.difference.low, effect.difference.high) == pytest.approx(tuple(expected), rel=CLOSE)


def test_one_shared_seed_among_more_pairs_nothing(random: np.random.Generator) -> None:
    """One pair has no interval, and would throw away every other seed."""
    x, y = random.normal(5, 1, 3), random.normal(9, 1, 3)
    effect = compare_means(seeded(x), seeded(y, first=2))
    expected = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    assert not effect.paired and effect.difference.mean == pytest.approx(y.mean() - x.mean(), rel=CLOSE)
    assert (effect.difference.low, effect.difference.high) == pytest.approx(tuple(expected), rel=CLOSE)


def test_a_single_seed_is_compared_with_its_own_pair_where_there_is_one() -> None:
    for x, y in (({0: 3.0}, {0: 4.0, 1: 99.0}), ({0: 3.0, 1: 99.0}, {0: 4.0})):
        effect = compare_means(x, y)
        assert effect.paired and effect.difference.n == 1 and effect.difference.mean == 1


def test_pairing_removes_what_a_seed_gives_to_both(random: np.random.Generator) -> None:
    """Seeds that differ by 10 hide a gain of 0.5 from Welch, and not from pairs."""
    x = random.normal(50, 10, 5)
    y = x + 0.5 + random.normal(0, 0.05, 5)
    assert compare_means(seeded(x), seeded(y)).verdict == "higher"
    assert compare_means(seeded(x), seeded(y, first=100)).verdict == "no difference shown"


def test_fiellers_bounds_are_the_ratios_that_a_t_test_just_rejects(random: np.random.Generator) -> None:
    """Its definition: at each bound ρ the t statistic of y − ρx equals the quantile."""
    x, y = random.normal(5, 0.3, 6), random.normal(6, 0.4, 6)
    percent = compare_means(seeded(x), seeded(y)).percent
    assert percent is not None and percent.low is not None and percent.high is not None
    assert percent.low < percent.mean < percent.high
    for bound in (percent.low, percent.high):
        rho = 1 + bound / 100
        assert abs(stats.ttest_rel(y, rho * x).statistic) == pytest.approx(stats.t.ppf(0.975, 5), rel=1e-7)


@pytest.mark.parametrize("first", [0, 100], ids=["paired", "unpaired"])
def test_percent_and_difference_never_disagree(first: int, random: np.random.Generator) -> None:
    verdicts = set()
    for _ in range(200):
        effect = compare_means(seeded(random.normal(5, 1, 4)), seeded(random.normal(6, 1, 4), first))
        if effect.percent is not None:
            assert effect.percent.excludes_zero == effect.difference.excludes_zero
            verdicts.add(effect.verdict)
    assert verdicts >= {"higher", "no difference shown"}  # both sides of the law were tried


def test_percent_does_not_depend_on_the_unit(random: np.random.Generator) -> None:
    x, y = random.normal(5, 1, 4), random.normal(6, 1, 4)
    one, other = compare_means(seeded(x), seeded(y)).percent, compare_means(seeded(1e-3 * x), seeded(1e-3 * y)).percent
    assert one is not None and other is not None
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), rel=1e-7)


def test_a_baseline_that_may_be_zero_has_no_percent() -> None:
    assert compare_means({0: 0.0, 1: 0.0}, {0: 1.0, 1: 2.0}).percent is None
    assert compare_means({0: -1.0, 1: 1.1}, {0: 1.0, 1: 2.0}).percent is None
    # Nor has one that is surely negative, such as a gain of −1: a rise to −0.8 would read as a fall by 20 %.
    for first in (0, 100):
        rise = compare_means(seeded(np.array([-1.0, -1.01, -0.99])), seeded(np.array([-0.8, -0.81, -0.79]), first))
        assert rise.verdict == "higher" and rise.percent is None


def test_equal_values_are_no_difference_and_a_constant_gain_is_one() -> None:
    assert compare_means({0: 0.7, 1: 0.6}, {0: 0.7, 1: 0.6}).verdict == "no difference shown"
    constant = compare_means({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0})
    assert constant.verdict == "higher"
    assert (constant.difference.low, constant.difference.high) == (1, 1)


@pytest.mark.parametrize("first", [0, 100], ids=["paired", "unpaired"])
def test_a_null_study_shows_no_difference_in_95_percent_of_repeats(first: int, random: np.random.Generator) -> None:
    repeats = 2000
    effects = [_study(random, gain=0, first=first) for _ in range(repeats)]
    share = sum(effect.verdict == "no difference shown" for effect in effects) / repeats
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)  # four standard errors of a true 95 %


@pytest.mark.parametrize("n, share", [(2, 0.90), (3, 0.84), (5, 0.82)])
def test_of_skewed_values_an_interval_holds_less_as_the_module_says(n: int, share: float, random) -> None:
    draws = (mean_interval(random.lognormal(size=n).tolist()) for _ in range(1000))
    held = sum(e.low <= math.exp(0.5) <= e.high for e in draws if e.low is not None and e.high is not None) / 1000
    # Four standard errors of a share of 1000 and the half digit that the module rounds.
    assert abs(held - share) < 4 * math.sqrt(share * (1 - share) / 1000) + 0.005
    assert held < 0.95


def test_a_study_with_a_large_effect_shows_it(random: np.random.Generator) -> None:
    """The negative of the null study: a check that always said "no difference" would pass that one's upper half."""
    effects = [_study(random, gain=5, first=0) for _ in range(200)]
    assert sum(effect.verdict == "higher" for effect in effects) > 190


def _study(random: np.random.Generator, gain: float, first: int) -> Effect:
    """Five seeds of two conditions; a shared seed gives the same to both."""
    shared = random.normal(0, 1, 5) if first == 0 else 0
    x, y = 10 + shared + random.normal(0, 1, 5), 10 + gain + shared + random.normal(0, 1, 5)
    return compare_means(seeded(x), seeded(y, first))


@pytest.mark.parametrize("n", [1, 5, 40])
def test_rate_of_no_events_has_the_closed_form_bound(n: int) -> None:
    """Clopper–Pearson at 0 of n: the upper bound solves (1 − p)ⁿ = 0.025."""
    assert rate_interval(0, n).low == 0
    assert rate_interval(0, n).high == pytest.approx(1 - 0.025 ** (1 / n), rel=CLOSE)
    assert rate_interval(n, n).low == pytest.approx(0.025 ** (1 / n), rel=CLOSE)


def test_mean_level_of_a_line_is_its_middle_on_any_grid() -> None:
    steps = [0, 1, 7, 8, 20]
    assert mean_level(steps, [3 + 0.5 * s for s in steps]) == pytest.approx(8, rel=1e-15)
    assert mean_level([5], [2.5]) == 2.5


def test_an_interval_ends_where_its_quantity_does(random: np.random.Generator) -> None:
    """Only what no mean could be is cut off: inside the limits nothing moves, and no verdict changes."""
    share = (0.0, 1.0)
    cut = mean_interval([0.7, 0.8, 0.99], share)
    whole = mean_interval([0.7, 0.8, 0.99])
    assert whole.high is not None and whole.high > 1
    assert (cut.mean, cut.low, cut.high) == (whole.mean, whole.low, 1)
    assert of_changes(share) == (-1, 1)
    for _ in range(200):
        x, y = (seeded(random.beta(*random.uniform(0.2, 3, 2), size=3)) for _ in range(2))
        effect, free = compare_means(x, y, share), compare_means(x, y)
        assert effect.verdict == free.verdict and effect.difference.mean == free.difference.mean
        assert effect.difference.low is not None and effect.difference.low >= -1
        assert effect.difference.high is not None and effect.difference.high <= 1
        if effect.percent is not None and free.percent is not None:
            assert effect.percent.low == max(free.percent.low, -100) and effect.percent.high == free.percent.high


def test_rounding_beyond_a_limit_does_not_part_a_mean_from_its_interval() -> None:
    estimate = mean_interval([-1e-9, -1e-9, -1e-9], (0.0, math.inf))  # an FID of equal images, say
    assert estimate.low == estimate.mean == estimate.high == -1e-9


def test_no_interval_is_made_up_for_values_that_are_not_finite() -> None:
    with np.errstate(invalid="ignore"):
        estimate = mean_interval([1.0, math.inf], (0.0, math.inf))  # a leak ratio may be infinite
    assert estimate.low is not None and math.isnan(estimate.low)
