"""The comparisons that a study named: against scipy's tests on the same numbers, and on cases known in advance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gannorm.comparison.conditions import Condition, group
from gannorm.comparison.named import compare_named, named_csv, named_markdown, named_text
from gannorm.comparison.primary import Primary
from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import read_runs_csv, runs_csv
from gannorm.errors import UserError

NORM = "model.discriminator.norm"
ARMS = {name: {NORM: name} for name in ("batch", "running", "group", "reference")}
PAIRS = (("running", "batch"), ("group", "batch"), ("group", "running"))
PRIMARY = Primary("fid", "log", "welch", PAIRS, 0.25, ARMS)


def test_the_tests_are_scipys_on_logarithms_and_holm_is_over_the_named_ones() -> None:
    draw = np.random.default_rng(0)
    values = {
        name: np.exp(draw.normal(mean, 0.33, n))
        for name, mean, n in (("batch", 1, 20), ("running", 0.4, 19), ("group", 0.9, 18))
    }
    named = compare_named(PRIMARY, conditions(values))
    expected = []
    for (a, b), c in zip(PAIRS, named, strict=True):
        y, x = np.log(values[a]), np.log(values[b])
        welch = stats.ttest_ind(y, x, equal_var=False)
        low, high = welch.confidence_interval(0.95)
        assert c.change is not None
        assert c.change.bounds == pytest.approx(np.exp([y.mean() - x.mean(), low, high]))
        assert (c.arm.n, c.against.n) == (len(y), len(x)) and c.arm.mean == pytest.approx(stats.gmean(values[a]))
        above = stats.ttest_ind(y, x + math.log(1.25), equal_var=False, alternative="less").pvalue
        below = stats.ttest_ind(y, x - math.log(1.25), equal_var=False, alternative="greater").pvalue
        assert c.p_equal == pytest.approx(max(above, below))
        assert c.p_rank == pytest.approx(stats.mannwhitneyu(values[a], values[b]).pvalue)
        expected.append(welch.pvalue)
    assert [c.p for c in named] == pytest.approx(expected)
    # Holm by scipy's own step-down: sort, multiply by m, m−1, …, running maximum.
    order = np.argsort(expected)
    adjusted = np.minimum(1, np.maximum.accumulate(np.array(expected)[order] * [3, 2, 1]))
    assert [named[i].p_holm for i in order] == pytest.approx(adjusted)


def test_a_difference_an_equality_and_neither_are_told_apart() -> None:
    spread = np.exp(np.linspace(-0.1, 0.1, 10))
    named = compare_named(PRIMARY, conditions({"batch": 2 * spread, "running": spread, "group": 2.02 * spread}))
    assert [c.verdict for c in named] == ["lower", "equal within ±25 %", "higher"]
    assert [c.outcome for c in named] == ["better", "equal within ±25 %", "worse"]
    few = compare_named(PRIMARY, conditions({"batch": [2.0, 4.0], "running": [2.5, 3.0], "group": [3.0]}))
    assert [c.verdict for c in few] == ["no difference shown", "not enough runs", "not enough runs"]
    assert few[0].outcome == "not decided: no difference shown" and few[1].outcome == "not decided: not enough runs"


def test_better_is_higher_for_a_score_that_grows_and_of_an_auc_of_the_discriminator_neither() -> None:
    values = {"batch": [0.5, 0.51, 0.52], "running": [0.7, 0.71, 0.72], "group": [0.5, 0.51, 0.53]}
    recall = replace(PRIMARY, quantity="recall", scale="linear", margin=0.1)
    named = compare_named(recall, conditions(values, "recall"))
    assert [c.outcome for c in named] == ["better", "equal within ±0.1", "worse"]
    auc = replace(recall, quantity="batch_dependence/train/auc_one_own")
    runs = lines(values)
    for run in runs:
        run.values[auc.quantity] = run.values.pop("fid/final")
    named = compare_named(auc, grouped(runs))
    assert [c.outcome for c in named] == ["higher", "equal within ±0.1", "lower"]
    assert named[0].change is not None and named[0].change.mean == pytest.approx(0.2)


def test_what_stands_beside_is_by_itself() -> None:
    values = {name: np.exp(np.array([0.0, 0.1, 0.3]) + i / 3) for i, name in enumerate(("batch", "running", "group"))}
    beside = replace(PRIMARY, comparisons=PAIRS[:2], beside=[PAIRS[2]])
    *family, alone = compare_named(beside, conditions(values))
    assert alone.p is not None and alone.p_holm == alone.p and alone.arm.name == "group"
    assert family == compare_named(replace(PRIMARY, comparisons=PAIRS[:2]), conditions(values))
    assert "group against running, beside" in named_text(beside, [*family, alone])


def test_a_comparison_that_was_not_run_yet_counts_in_the_family() -> None:
    values = {"batch": np.exp([0.0, 0.1, 0.2]), "running": np.exp([0.5, 0.6, 0.7])}
    named = compare_named(PRIMARY, conditions(values))
    assert named[0].p is not None and named[0].p_holm == pytest.approx(3 * named[0].p)
    assert named[1].p_holm is None and named[1].arm.ended == 0 and named[1].verdict == "not enough runs"


def test_collapsed_runs_stay_in_with_their_last_finite_value_and_rank_last_without_one() -> None:
    runs = lines({"batch": [2.0, 2.1, 2.2, 2.3], "running": [1.0, 1.1, 1.2]})
    runs[0] = replace(runs[0], state="diverged", values={"fid/final": 40.0})
    runs[1] = replace(runs[1], values={"fid/last_finite": 50.0, "ends_without_images": 1.0})
    runs[2] = replace(runs[2], state="diverged", values={})
    runs.append(replace(runs[-1], seed=9, config=runs[-1].config | {"seed": 9}, values={}))  # finished, not scored
    primary = replace(PRIMARY, comparisons=[("running", "batch")], arms={k: ARMS[k] for k in ("running", "batch")})
    (c,) = compare_named(primary, grouped(runs))
    assert (c.against.n, c.against.collapsed, c.against.ended) == (3, 3, 4)
    assert c.against.mean == pytest.approx(stats.gmean([40.0, 50.0, 2.3]))
    assert (c.arm.n, c.arm.collapsed, c.arm.ended) == (3, 0, 4)
    assert c.p_rank == pytest.approx(stats.mannwhitneyu([1, 1.1, 1.2], [2.3, 40, 50, math.inf]).pvalue)
    (limited,) = compare_named(replace(primary, collapsed_above=1.15), grouped(runs))
    assert limited.arm.collapsed == 1 and limited.against.collapsed == 4


def test_pairs_and_a_linear_scale_are_scipys_too() -> None:
    x, y = np.array([0.5, 0.6, 0.9, 0.4]), np.array([0.55, 0.68, 0.93, 0.5])
    primary = Primary("recall", "linear", "paired", [("group", "batch")], 0.1, {k: ARMS[k] for k in ("group", "batch")})
    (c,) = compare_named(primary, conditions({"batch": x, "group": y}, "recall"))
    result = stats.ttest_rel(y, x)
    assert c.p == pytest.approx(result.pvalue) and c.change is not None
    assert c.change.bounds[1:] == pytest.approx(tuple(result.confidence_interval(0.95)))


def test_the_lines_of_a_file_give_the_same_and_the_forms_hold_it(tmp_path: Path) -> None:
    values = {"batch": [2.0, 2.5, 3.0], "running": [1.0, 1.2, 1.1], "group": [2.2, 2.6, 3.1]}
    named = compare_named(PRIMARY, conditions(values))
    file = tmp_path / "runs.csv"
    file.write_text(runs_csv(lines(values)))
    assert compare_named(PRIMARY, grouped(read_runs_csv(file)[0])) == named
    records = list(csv.DictReader(io.StringIO(named_csv(named))))
    assert [(r["arm_name"], r["against_name"]) for r in records] == list(PAIRS)
    assert float(records[0]["p_holm"]) == named[0].p_holm and records[0]["verdict"] == named[0].verdict
    assert [r["outcome"] for r in records] == [c.outcome for c in named]
    text = named_text(PRIMARY, named)
    assert "logarithms of fid at the end, Welch's test, Holm over 3, equal within ±25 %." in text
    assert "running against batch" in text and "0 of 3 and 0 of 3" in text
    table = named_markdown(PRIMARY, named).splitlines()[2:]
    assert len(table) == 2 + len(PAIRS) and len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| running against batch | 3 and 3 | ") and table[2].endswith(f" {named[0].outcome} |")


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(UserError, match="above 0: batch_0 has fid 0"):
        compare_named(PRIMARY, conditions({"batch": [0.0, 1.0], "running": [1.0, 2.0]}))
    split = lines({"batch": [1.0, 2.0]}) + [r for r in lines({"batch": [1.0, 2.0]}, loss="hinge")]
    with pytest.raises(UserError, match="must be one condition: 'batch' is"):
        compare_named(PRIMARY, grouped(split))


@pytest.mark.slow
def test_holm_over_five_equal_arms_errs_in_at_most_one_study_of_twenty() -> None:
    """Simulation: log FID with a standard deviation of .33 over 20 seeds, no arm differs."""
    names = ("batch", "with", "without", "running", "group")
    pairs = (*((name, "batch") for name in names[1:]), ("group", "running"))
    primary = replace(PRIMARY, comparisons=pairs, arms={name: {NORM: name} for name in names})
    draw = np.random.default_rng(1)
    studies = 200
    wrong = 0
    for _ in range(studies):
        values = {name: np.exp(draw.normal(0.7, 0.33, 20)) for name in names}
        wrong += any(c.verdict in ("lower", "higher") for c in compare_named(primary, conditions(values)))
    assert wrong <= 18  # 200 × .05 = 10; 18 is exceeded with probability .006


# -- building ---------------------------------------------------------------------------------------------------------


def lines(values: Mapping[str, Sequence[float] | np.ndarray], quantity: str = "fid", **model: str) -> list[Run]:
    """Runs as a runs.csv holds them: one arm a normalizer, one value a seed."""
    runs = []
    for norm, numbers in values.items():
        for seed, value in enumerate(numbers):
            config = {NORM: norm, "seed": seed, **{f"model.{key}": text for key, text in model.items()}}
            final = {f"{quantity}/final": float(value)}
            runs.append(Run(f"{norm}_{seed}", config, seed, "finished", 9, values=final, hash=norm, protocol="{}"))
    return runs


def grouped(runs: Sequence[Run]) -> list[Condition]:
    return group(runs)[0]


def conditions(values: Mapping[str, Sequence[float] | np.ndarray], quantity: str = "fid") -> list[Condition]:
    return grouped(lines(values, quantity))
