"""What a reader must know before believing a difference is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.run_directories import probe, reconstruction, rewrite, score

from gannorm.comparison.analysis import analyse
from gannorm.report.figures import figures
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_a_run_that_was_scored_earlier_than_the_others_is_named(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in (0, 1)]
    assert not any("scored earlier" in remark for remark in analyse(runs).remarks)
    records = runs[0].scores()[:-1]
    (runs[0].path / "scores.json").unlink()
    for record in records:
        runs[0].add_scores(record)
    expected = (
        "these runs were last scored earlier than the others, perhaps for a damaged checkpoint: "
        "batch_0 (400 steps before its end)."
    )
    assert expected in analyse(runs).remarks


@pytest.mark.parametrize("before", [{}, {600: {"fid": 1.0}}], ids=["one checkpoint", "an earlier one"])
def test_a_generator_that_ends_without_images_has_no_last_score_and_is_named(
    make_run: MakeRun, before: dict[int, dict[str, object]]
) -> None:
    """Its scores from before it diverged are no scores of its end, and the mean of the others is not of all."""
    runs = [make_run("none", seed) for seed in range(3)]
    for run in runs:
        score(run, before | {1200: {"fid": 10.0}})
    assert not any("not finite" in remark for remark in analyse(runs).remarks)
    score(runs[2], before | {1200: {"diverged": True}})
    comparison = analyse(runs)
    row = comparison.row("none", "fid/final")
    assert row is not None and (row.estimate.mean, row.estimate.n) == (10, 2)
    assert comparison.rows["none", "fid/level"].estimate.n == 2
    assert comparison.rows["none", "fid/best"].estimate.n == (3 if before else 2)
    (remark,) = [r for r in comparison.remarks if "not finite" in r]
    assert ": none_2. They have no last score" in remark
    assert not any("scored earlier" in remark for remark in comparison.remarks)  # its checkpoint is no damaged one


def test_a_best_of_more_checkpoints_is_said_to_be_one(make_run: MakeRun) -> None:
    """Conditions of equal generators, one scored twelve times as often: its best is better all the same."""
    noise = np.random.default_rng(0)
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(5)]
    for run in runs:
        steps = range(100, 1300, 100) if "group" in run.name else [1200]
        score(run, {step: {"fid": 20 + noise.normal()} for step in steps})
    comparison = analyse(runs)
    effect = comparison.rows["group", "fid/best"].effect
    assert effect is not None and effect.verdict == "lower"
    assert any("not all runs were scored at the same steps (FID): the best" in r for r in comparison.remarks)
    assert not any("same steps" in remark for remark in analyse(runs[:5]).remarks)
    (runs[0].path / "scores.json").unlink()  # scored at no step, and so at no other
    assert not any("same steps" in remark for remark in analyse(runs[:5]).remarks)


def test_a_score_that_is_missing_at_the_end_of_a_run_is_named_beside_others_that_are_not(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(2)]
    both = {"fid": 3.0, **reconstruction(2.0)}
    score(runs[0], {600: both, 1200: both})
    score(runs[1], {600: both, 1200: {"fid": 3.0}})
    assert any("earlier than the others" in r and "batch_1 (600 steps" in r for r in analyse(runs).remarks)


def test_runs_probed_at_other_steps_are_one_condition_and_a_remark_says_so(make_run: MakeRun) -> None:
    runs = [make_run("batch", 0, probe_every=1), make_run("batch", 1, probe_every=2), make_run("group", 0)]
    rewrite(runs[0], [probe(0.6, 0.5)] * 4)
    rewrite(runs[1], [{"loss/d": 1.0}, probe(0.8, 0.5)] * 2)
    comparison = analyse(runs)
    assert [len(c.runs) for c in comparison.conditions] == [2, 1]
    assert any(remark.startswith("probe_every is 1 or 2: a run's value is") for remark in comparison.remarks)
    (curve,) = [plot for plot in figures(comparison) if plot.name == "accuracy"]
    pure = [row[2:] for row in curve.data if row[:2] == ("batch", "pure")]
    assert pure == [(2, pytest.approx(0.7), 0.6, 0.8, 2), (4, pytest.approx(0.7), 0.6, 0.8, 2)]
    assert not any("probe_every" in remark for remark in analyse(runs[1:]).remarks)
    never = make_run("batch", 2, probe_every=0)  # there is no spacing
    assert not any("probe_every" in remark for remark in analyse([runs[0], never]).remarks)
