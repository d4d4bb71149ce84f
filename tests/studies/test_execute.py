"""Executing a study: nothing that finished is repeated, a failure costs one run, nothing outlives the study.

`gannorm train` and `gannorm evaluate` are replaced by fake_gannorm.py, in real processes: the same files without the
seconds of imports. test_study_command.py uses the real ones.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.fake_study import FAKE, NAMES, assert_all_gone, calls, planned, scored, trained, until

from gannorm.errors import UserError
from gannorm.rundir import RunDir
from gannorm.studies import local
from gannorm.studies.execute import describe, execute, save_configs
from gannorm.studies.tasks import state

HERE = local.Local(FAKE, 2)

# A study in a process of its own, which can be killed.
ALONE = """
import sys, types
from pathlib import Path
nothing = types.SimpleNamespace(to_text=str)
sys.modules["gannorm.report.compare"] = types.SimpleNamespace(compare=lambda *args, **options: nothing)
from gannorm.studies.execute import execute
from gannorm.studies.plan import plan
from gannorm.studies.local import Local
execute(plan(Path("s.yaml"), Path("runs")), Local(sys.argv[1:], 2), Path("report"))
"""


pytestmark = pytest.mark.usefixtures("own_folder", "no_report")


def test_a_study_is_trained_scored_and_compared_and_its_repetition_starts_nothing(no_report: list[list[str]]) -> None:
    study = planned(evaluate={"samples": 40})
    assert execute(study, HERE, Path("report")) == 0
    assert trained() == sorted(NAMES) == scored()
    before = calls()
    assert execute(planned(evaluate={"samples": 40}), HERE, Path("report")) == 0
    assert calls() == before
    assert no_report == [NAMES, NAMES]
    assert "4 runs: 4 finished. All runs are trained." in describe(study, HERE)


def test_a_run_that_fails_is_made_anew_once_and_what_it_left_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(planned(behave={"batch_1": "fail_once"}), HERE, Path("report")) == 0
    assert trained() == sorted([*NAMES, "batch_1"]) and "resume" not in [call[0] for call in calls()]
    assert "batch_1: failed, will be retried: MemoryError: no room (its output is in" in capsys.readouterr().err
    assert RunDir("runs/s/plan/attempts/batch_1_1").status()["state"] == "failed"
    assert state(RunDir("runs/s/batch_1")) == "finished"
    assert "MemoryError" in Path("runs/s/plan/batch_1.log").read_text()


def test_a_run_that_is_killed_or_stopped_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(planned(behave={"group_0": "kill_once", "group_1": "stop_once"}), HERE, Path("report")) == 0
    assert trained() == sorted([*NAMES, "group_0", "group_1"])
    assert sorted(call[1:] for call in calls() if call[0] == "resume") == [["group_0", "1"], ["group_1", "1"]]
    assert "group_0: failed, will be retried: killed by SIGKILL (out of memory?)" in capsys.readouterr().err
    for name in NAMES:
        assert [record["step"] for record in RunDir(f"runs/s/{name}").metrics()] == [1, 2, 3, 4, 5, 6]
        assert state(RunDir(f"runs/s/{name}")) == "finished"
    assert not Path("runs/s/plan/attempts").exists()


def test_a_run_that_its_trainer_stopped_goes_on_where_it_was() -> None:
    assert execute(planned(behave={"group_0": "late_once"}), HERE, Path("report")) == 0
    assert [call[1:] for call in calls() if call[0] == "resume"] == [["group_0", "1"]]
    assert not Path("runs/s/plan/attempts").exists()


def test_a_run_that_fails_twice_costs_that_run_only(
    capsys: pytest.CaptureFixture[str], no_report: list[list[str]]
) -> None:
    study = planned(behave={"batch_0": "fail"})
    assert execute(study, HERE, Path("report")) == 1
    assert trained().count("batch_0") == 2
    assert no_report == [["group_0", "batch_1", "group_1"]]
    assert "failed twice, and not compared: batch_0" in capsys.readouterr().err
    assert "4 runs: 1 failed, 3 finished." in describe(study, HERE)
    execute(study, HERE, Path("report"))
    assert trained().count("batch_0") == 4  # the next invocation tries again
    assert trained().count("batch_1") == 1


def test_a_run_whose_last_checkpoint_has_no_scores_is_named_with_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    study = planned(behave={"batch_0": "damage"})
    assert execute(study, HERE, Path("report")) == 1
    assert scored() == sorted([*NAMES, "batch_0"])  # tried once more; the others' scores are kept
    said = capsys.readouterr().err
    assert "failed twice, and not scored (see runs/s/plan/evaluation_*.log): batch_0 (step 6);" in said


def test_a_callers_mistake_stops_the_study_at_once() -> None:
    study = planned(behave={"batch_0": "mistake"}, nap=2.0)
    with pytest.raises(UserError, match=r"^batch_0: unknown normalizer 'grup': did you mean 'group'\?$"):
        execute(study, HERE, Path("report"))
    assert set(trained()) <= {"batch_0", "group_0"}
    assert_all_gone()


def test_jobs_run_at_once_and_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    execute(planned(nap=0.1, evaluate=False), HERE, Path("report"))
    active, most = set[str](), 0
    for _, name, *_ in calls():
        active ^= {name}
        most = max(most, len(active))
    assert most == 2
    assert {threads for what, _, *more in calls() if what == "train" for threads in more[1:]} == {"8"}


def test_a_killed_study_leaves_no_process_and_goes_on_where_it_stopped() -> None:
    study = planned(nap=0.2, behave={"group_1": "parent"})
    process = alone()
    until(lambda: "group_1" in trained() and state(RunDir("runs/s/group_1")) == "running")
    assert state(RunDir("runs/s/batch_0")) == "finished"
    process.kill()
    process.communicate()
    until(lambda: state(RunDir("runs/s/group_1")) == "interrupted")
    assert "interrupted" in describe(study, HERE)
    finished = [run.name for run in study.runs if state(run.directory) == "finished"]
    process = alone()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert sorted(set(trained())) == sorted(NAMES)
    assert all(trained().count(name) == 1 for name in finished)
    assert trained().count("group_1") == 2
    for line in calls():  # what a killed run had started is on its own: it must end by itself, as W&B's service does
        if line[0] == "sleep":
            os.kill(int(line[1]), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_study_leaves_no_process(number: signal.Signals) -> None:
    planned(nap=5.0, behave={"batch_0": "parent", "group_0": "parent"})
    process = alone()
    until(lambda: sum(line[0] == "sleep" for line in calls()) == 2)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    if number == signal.SIGHUP:
        assert told == ""  # its terminal, say, is gone
    else:
        assert "stopped; run the same command again to continue." in told
    assert process.returncode != 0
    assert_all_gone()


def test_under_nohup_a_study_outlives_its_terminal() -> None:
    planned(nap=0.2, evaluate=False)
    process = alone("nohup")
    until(lambda: len(trained()) == 2)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert trained() == sorted(NAMES)


def test_a_run_that_another_process_trains_is_awaited_and_not_repeated() -> None:
    study = planned(nap=0.2, evaluate=False)
    study.runs[0].config_file.parent.mkdir(parents=True)
    study.runs[0].config_file.write_text(study.runs[0].config_text())
    other = subprocess.Popen([*FAKE, "train", "--config", str(study.runs[0].config_file)])
    until(lambda: state(study.runs[0].directory) == "running")
    assert execute(study, local.Local(FAKE, 4), Path("report")) == 0
    assert trained() == sorted(NAMES)
    assert other.wait() == 0


def test_a_study_is_executed_by_one_process() -> None:
    study = planned()
    (study.folder / "plan").mkdir(parents=True)
    with (study.folder / "plan/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"only one process may execute a study: another executes .*s; wait for it"):
            execute(study, HERE, Path("report"))
    assert not Path("calls.txt").exists()


def test_a_report_that_would_replace_another_page_stops_a_study_before_it_starts() -> None:
    study = planned()
    Path("report").mkdir()
    Path("report/index.html").write_text("mine")
    with pytest.raises(UserError, match="may only replace a report"):
        execute(study, HERE, Path("report"))
    assert not study.folder.exists() and not Path("calls.txt").exists()


def test_what_is_planned_no_more_leaves_the_plan_and_nothing_else_does() -> None:
    plan = save_configs(planned())
    (plan / "notes.txt").touch()
    save_configs(planned(factors={"model.discriminator.norm": ["batch", "layer"], "seed": [0]}))
    assert sorted(file.name for file in plan.iterdir()) == ["batch.yaml", "layer.yaml", "notes.txt"]


def test_the_comparison_has_the_baseline_and_the_modes_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def note(runs: list[RunDir], output: Path, **options: object) -> SimpleNamespace:
        asked.append(options)
        return SimpleNamespace(to_text=str)

    monkeypatch.setattr("gannorm.report.compare.compare", note)
    baseline = "statistics=batch, weights=raw"
    execute(planned(factors={"seed": [0]}, evaluate={"statistics": "all"}, baseline=baseline), HERE, Path("report"))
    execute(planned("other", evaluate=False, baseline="group"), HERE, Path("report"))
    commands = [options.pop("command") for options in asked]
    assert asked == [
        {"baseline": baseline, "by_mode": True, "question": ""},
        {"baseline": "group", "by_mode": False, "question": ""},
    ]
    assert commands == [
        "gannorm compare runs/s --baseline 'statistics=batch, weights=raw' --by_mode true",
        "gannorm compare runs/other --baseline group",
    ]


def test_a_child_that_says_nothing_is_known_by_its_status(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("what an attempt before it printed\n")
    child = local.Child([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", lambda: 0, 1)
    until(lambda: child.status() is not None)
    assert child.last_line() == "exit status 3 without any output"


def alone(*before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", ALONE, *FAKE]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
