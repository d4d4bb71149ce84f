"""Scores compare only under one protocol; the sampling modes of G are conditions of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from support.run_directories import mean

from gannorm.comparison.analysis import analyse
from gannorm.errors import UserError
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_of_two_protocols_that_are_as_common_the_newer_one_is_compared(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
    for samples, fid in ((40, 9.0), (50, 5.0)):  # as a study leaves them whose `evaluate` was changed
        for run in runs:
            sought = {"error": fid, "protocol": {"images": samples}}
            record = {"step": 9999, "fid": fid, "protocol": {"fake_images": samples}, "reconstruction": sought}
            run.add_scores(record)
    comparison = analyse(runs)
    assert comparison.protocol is not None
    assert comparison.protocol["fake_images"] == comparison.protocol["reconstruction.images"] == 50
    assert comparison.rows["batch", "fid/final"].estimate.mean == 5.0


def test_scores_of_another_protocol_are_left_out_and_counted(make_run: MakeRun) -> None:
    run, other = make_run("batch", 0), make_run("batch", 1)
    own = mean(analyse([run, other]), "fid/final")
    other.add_scores({"step": 9999, "fid": 1e6, "protocol": {"extractor": "another"}})
    comparison = analyse([run, other])
    assert mean(comparison, "fid/final") == own
    assert any(remark.startswith("1 of 7 score records") for remark in comparison.remarks)


def test_a_score_of_another_seed_or_version_still_compares(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    protocol = run.scores()[-1]["protocol"] | {"seed": 7, "versions": {"torch": "9"}}
    run.add_scores({"step": 9999, "fid": 1.25, "protocol": protocol})
    assert mean(analyse([run]), "fid/final") == 1.25


def test_sampling_modes_are_conditions_of_the_same_runs(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
        modes = (("running", True, 0.0), ("batch", True, 1.0), ("running", False, 0.0), ("standing", True, 2.0))
        for statistics, ema, better in modes:
            pooled = 4096 if statistics == "standing" else None  # a part of the mode, not another protocol
            protocol = {"statistics": statistics, "standing_samples": pooled, "ema": ema, "extractor": "one"}
            fid = 10 * (1 + run.config()["seed"]) - better + 0.01 * run.config()["seed"] * better
            run.add_scores({"step": 1, "fid": fid, "protocol": protocol})
    comparison = analyse(runs, by_mode=True, baseline="statistics=running, weights=averaged")
    assert [(c.label, c.title, len(c.runs)) for c in comparison.conditions] == [
        ("statistics=running, weights=averaged", "running statistics with averaged weights", 3),
        ("statistics=running, weights=raw", "running statistics with raw weights", 3),
        ("statistics=batch, weights=averaged", "batch statistics with averaged weights", 3),
        ("statistics=standing, weights=averaged", "standing statistics with averaged weights", 3),
    ]
    row = comparison.row("statistics=standing, weights=averaged", "fid/final")
    assert row is not None and row.effect is not None and row.effect.difference.mean == pytest.approx(-1.98)
    row = comparison.row("statistics=batch, weights=averaged", "fid/final")
    assert row is not None and row.effect is not None and row.effect.paired
    assert row.effect.difference.mean == pytest.approx(-0.99)  # although seeds differ by tens
    assert comparison.headline == ""  # two crossed factors: the table speaks
    assert comparison.protocol == {"extractor": "one"} and comparison.remarks == []
    bare = make_run("batch", 9)
    (bare.path / "scores.json").unlink()
    with pytest.raises(UserError, match="by mode needs scores: the runs have none"):
        analyse([bare], by_mode=True)


def test_a_run_that_diverged_has_diverged_in_every_sampling_mode(make_run: MakeRun) -> None:
    runs = [make_run("batch", 0), make_run("batch", 1), make_run("batch", 2, status="diverged")]
    for run in runs:
        (run.path / "scores.json").unlink()
    for run, ema in itertools.product(runs[:2], (True, False)):
        run.add_scores({"step": 1, "fid": 3.0, "protocol": {"statistics": "running", "ema": ema}})
    assert [c.divergence for c in analyse(runs, by_mode=True).conditions] == ["1 of 3"] * 2
