"""The two tasks of a run, training and scoring: when each is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_study import FAKE, NAMES, planned, scored, trained

from gannorm.rundir import RunDir
from gannorm.studies import local
from gannorm.studies.execute import describe, execute
from gannorm.studies.tasks import is_scored

HERE = local.Local(FAKE, 2)


pytestmark = pytest.mark.usefixtures("own_folder", "no_report")


def test_damaged_scores_cost_the_study_one_run(no_report: list[list[str]], capfd: pytest.CaptureFixture[str]) -> None:
    execute(planned(evaluate={"samples": 40}), HERE, Path("report"))
    damaged = Path("runs/s/batch_0/scores.json")
    damaged.write_text("{")
    execute(planned(evaluate={"samples": 50}), HERE, Path("report"))
    assert no_report == [NAMES, NAMES]  # compared all the same, which names the damaged one
    assert damaged.read_text() == "{"
    told = capfd.readouterr().err
    assert "evaluation_1: failed, twice: " in told and "scores.json must be well-formed" in told


def test_other_scores_are_made_where_the_study_asks_for_another_protocol() -> None:
    execute(planned(evaluate={"samples": 40}), HERE, Path("report"))
    execute(planned(evaluate={"samples": 50}), HERE, Path("report"))
    assert scored() == sorted(NAMES * 2)
    run = RunDir("runs/s/batch_0")
    assert [s["protocol"]["fake_images"] for s in run.scores()] == [40, 50]
    assert is_scored(run, {"samples": 50}) and not is_scored(run, {"samples": 60})
    assert not is_scored(run, {"statistics": "standing"})
    run.checkpoint_file(9).touch()
    assert not is_scored(run, {}) and not is_scored(run, {"all_checkpoints": True})


def test_evaluation_can_be_left_out_and_diverged_runs_are_not_scored() -> None:
    execute(planned(evaluate=False), HERE, Path("report"))
    assert scored() == []
    execute(planned("other", behave={"group_1": "diverge"}), HERE, Path("report"))
    assert scored() == ["batch_0", "batch_1", "group_0"]
    assert trained().count("group_1") == 2  # once a study: a diverged run has ended


def test_a_damaged_status_is_not_taken_for_a_finished_run() -> None:
    study = planned(evaluate=False)
    execute(study, HERE, Path("report"))
    Path("runs/s/group_0/status.json").write_text("{")
    assert "1 damaged" in describe(study, HERE)
    execute(study, HERE, Path("report"))
    assert trained() == sorted([*NAMES, "group_0"])
    assert Path("runs/s/plan/attempts/group_0_1/status.json").read_text() == "{"
