"""A row holds the estimate over runs that its quantity asks for, and the effect that can be tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.run_directories import probe, rewrite, score

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]
TRAIN = "batch_dependence/train/"


def test_diverged_runs_count_in_their_rate_and_in_no_mean(compared: tuple[Comparison, Path]) -> None:
    comparison, _ = compared
    rate = comparison.row("batch", "divergence_rate")
    gap = comparison.row("batch", "batch_dependence/train/auc_gap")
    assert rate is not None and (rate.estimate.mean, rate.estimate.n) == (0.25, 4)
    assert gap is not None and gap.estimate.n == 3


def test_a_line_of_the_csv_tells_what_its_difference_is_of(make_run: MakeRun) -> None:
    values = {"batch": {0: 10.0, 1: 11.0, 2: 12.5}, "group": {0: 15.0, 1: 17.0, 8: 30.0}, "layer": {7: 15.0, 8: 17.0}}
    runs = [make_run(norm, seed) for norm in values for seed in values[norm]]
    for run in runs:
        norm, seed = run.name.split("_")
        score(run, {1: {"fid": values[norm][int(seed)]}})
    comparison = analyse(runs)
    paired, unpaired = (comparison.rows[norm, "fid/final"].flat() for norm in ("group", "layer"))
    assert (paired["pairing"], paired["n"], paired["difference_n"]) == ("by seed", 3, 2)
    assert unpaired["pairing"] == "none"
    assert paired["difference"] == 5.5 and unpaired["difference"] == pytest.approx(16 - 33.5 / 3)
    assert paired["percent"] == pytest.approx(100 * 5.5 / 10.5)  # of the baseline in the seeds that both have
    for line in (paired, unpaired):
        for name in ("difference", "percent"):
            assert line[f"{name}_low"] < line[name] < line[f"{name}_high"]


def test_the_worst_of_all_runs_has_no_interval_and_no_effect(make_run: MakeRun) -> None:
    """Student's t says nothing of a maximum over probes."""
    runs = [make_run(norm, seed) for norm in ("batch", "layer") for seed in range(3)]
    for run in runs:
        rewrite(run, [probe(0.8, 0.5, swap_max_change=0.1 * (1 + run.config()["seed"]), swap_bitwise_equal=0.0)])
    comparison = analyse(runs)
    for condition in ("batch", "layer"):
        row = comparison.rows[condition, f"{TRAIN}swap_max_change"]
        assert row.estimate.bounds == (pytest.approx(0.3), None, None) and row.effect is None
        assert comparison.rows[condition, f"{TRAIN}swap_bitwise_equal"].estimate.low is None


def test_the_leak_ratio_of_a_condition_is_that_of_its_mean_slopes(make_run: MakeRun) -> None:
    """One run whose own slope is near 0 must not decide: a mean of the runs' ratios would be above 100."""
    own, context = [1.0, 0.001, 1.2], [0.5, 0.5, 0.6]
    runs = [make_run("batch", seed) for seed in range(3)]
    for run, o, c in zip(runs, own, context, strict=True):
        rewrite(run, [probe(0.8, 0.5, leak_own=o, leak_context=c, leak_ratio=c / o)])
    row = analyse(runs).rows["batch", f"{TRAIN}leak_ratio"]
    assert row.estimate.mean == pytest.approx(np.mean(context) / np.mean(own))
    assert row.effect is None
    assert row.estimate.low is None  # the own slope may be zero: the set of ratios is unbounded


def test_the_interval_of_a_leak_ratio_is_fiellers(make_run: MakeRun) -> None:
    """Its definition: at each bound the t test of context − ρ·own just rejects. The ratio is absolute."""
    own, context = np.array([1.0, 1.1, 1.2, 0.9]), -np.array([0.5, 0.52, 0.6, 0.41])
    runs = [make_run("batch", seed) for seed in range(4)]
    for run, o, c in zip(runs, own.tolist(), context.tolist(), strict=True):
        rewrite(run, [probe(0.8, 0.5, leak_own=o, leak_context=c)])
    estimate = analyse(runs).rows["batch", f"{TRAIN}leak_ratio"].estimate
    assert estimate.low is not None and estimate.high is not None and 0 < estimate.low < estimate.mean < estimate.high
    for bound in (estimate.low, estimate.high):
        t = stats.ttest_rel(context, -bound * own).statistic
        assert abs(t) == pytest.approx(stats.t.ppf(0.975, 3), rel=1e-7)  # two routes to one float64 root
