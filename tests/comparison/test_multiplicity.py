"""Verdicts on scores make false claims no more often than they say, however many comparisons there are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from support.run_directories import score

from gannorm.comparison.analysis import analyse
from gannorm.comparison.intervals import equivalence
from gannorm.comparison.multiplicity import holm
from gannorm.comparison.sentences import family
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_holms_values_are_those_of_the_definition() -> None:
    """Holm 1979: reject the k-th smallest p of m while p ≤ α/(m−k+1); adjusted, the first α at which it is rejected."""
    noise = np.random.default_rng(0)
    for _ in range(50):
        p = dict(enumerate(noise.uniform(size=6).tolist()))
        adjusted = holm(p)
        for alpha in (0.05, 0.3, 0.9):
            rejected = set()
            for rank, (key, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
                if value > alpha / (len(p) - rank):
                    break
                rejected.add(key)
            assert rejected == {key for key, value in adjusted.items() if value <= alpha}
    assert holm({}) == {}


def test_one_comparison_is_not_corrected() -> None:
    assert holm({"a": 0.04}) == {"a": 0.04}


def test_of_many_equal_scores_none_is_claimed_to_differ_in_95_percent_of_studies() -> None:
    """The family's error: some comparison of five equal conditions is rejected in at most 5 % of repeats."""
    from scipy import stats

    noise = np.random.default_rng(0)
    repeats, wrong, uncorrected = 1000, 0, 0
    for _ in range(repeats):
        x = noise.normal(size=(6, 5))
        p = {i: float(stats.ttest_ind(x[i], x[0], equal_var=False).pvalue) for i in range(1, 6)}
        wrong += min(holm(p).values()) < 0.05
        uncorrected += min(p.values()) < 0.05
    assert wrong / repeats < 0.05 + 4 * math.sqrt(0.05 * 0.95 / repeats)  # four standard errors of a true 5 %
    assert uncorrected / repeats > 0.1  # the negative: without a correction the claim fails


@pytest.mark.parametrize("first", [0, 100], ids=["paired", "unpaired"])
def test_a_difference_at_the_margin_is_called_equal_in_5_percent_at_most(first: int) -> None:
    noise = np.random.default_rng(0)
    repeats = 1000
    called = 0
    for _ in range(repeats):
        x, y = noise.normal(10, 0.2, 6), noise.normal(11, 0.2, 6)  # exactly 10 % apart
        p = equivalence(dict(enumerate(x)), dict(enumerate(y, start=first)), 0.1)
        assert p is not None
        called += p < 0.05
    assert called / repeats < 0.05 + 4 * math.sqrt(0.05 * 0.95 / repeats)  # four standard errors
    near = equivalence(dict(enumerate(noise.normal(10, 0.2, 6))), dict(enumerate(noise.normal(10, 0.2, 6), first)), 0.1)
    assert near is not None and near < 0.05  # and equal means are called so


def test_equality_is_not_tested_of_one_seed_or_of_a_baseline_that_is_not_positive() -> None:
    assert equivalence({0: 1.0}, {0: 1.0}, 0.1) is None
    assert equivalence({0: -1.0, 1: -1.1}, {0: -1.0, 1: -1.1}, 0.1) is None
    assert equivalence({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}, 0.01, relative=False) == 0
    assert equivalence({0: 0.5, 1: 0.5}, {0: 0.6, 1: 0.6}, 0.01, relative=False) == 1


def test_a_difference_that_would_be_shown_alone_is_not_among_many(make_run: MakeRun) -> None:
    """The committed study's case: p = .02 of four comparisons is .08."""
    shift = {"batch": 0.0, "layer": 0.45, "group": 0.0, "instance": 0.0, "none": 0.0}
    patterns = {"batch": (0, 0, 0), "layer": (-0.15, 0.0, 0.15), "group": (-1, 1, 0.5), "instance": (1, -1, 0.2)}
    patterns["none"] = (0.5, 0.5, -1)
    runs = [make_run(norm, seed) for norm in shift for seed in range(3)]
    for run in runs:
        norm, seed = run.name.split("_")
        score(run, {1: {"fid": 10 + int(seed) + shift[norm] + patterns[norm][int(seed)]}})
    alone = analyse([run for run in runs if run.name.startswith(("batch", "layer"))]).rows["layer", "fid/final"]
    among = analyse(runs).rows["layer", "fid/final"]
    assert alone.effect is not None and alone.effect.p is not None and 0.0125 < alone.effect.p < 0.05
    assert alone.verdict == "higher" and among.verdict != "higher"
    assert among.corrected is not None and among.corrected.p == pytest.approx(4 * alone.effect.p)
    assert among.flat()["p_holm"] == among.corrected.p
    assert among.effect is not None and among.effect.verdict == "higher"  # its own interval still excludes zero


def test_what_cannot_be_tested_is_not_counted_among_the_comparisons(make_run: MakeRun) -> None:
    """One seed of the third condition gives no p value, so Holm's method corrects over one comparison."""
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)] + [make_run("layer", 0)]
    for run in runs:
        score(run, {1: {"fid": 10 + int(run.name[-1])}})
    corrections = {key: c for key, row in analyse(runs).rows.items() if (c := row.corrected) is not None}
    assert "over 1 comparison." in family(corrections)
    assert family({key: c for key, c in corrections.items() if c.p is not None}) == family(corrections)


def test_equal_within_a_margin_is_apart_from_no_difference_shown(make_run: MakeRun) -> None:
    noise = {"group": (0.01, -0.01, 0.0), "layer": (4.0, -5.0, 2.0)}
    runs = [make_run(norm, seed) for norm in ("batch", "group", "layer") for seed in range(3)]
    for run in runs:
        norm, seed = run.name.split("_")
        score(run, {1: {"fid": 10 + noise.get(norm, (0, 0, 0))[int(seed)]}})
    rows = analyse(runs).rows
    assert rows["group", "fid/final"].verdict == "equal within ±25 %"
    assert rows["layer", "fid/final"].verdict == "no difference shown"
    assert rows["group", "fid/best"].corrected is None  # only last scores make the family
