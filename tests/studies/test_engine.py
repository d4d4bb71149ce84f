"""Executing a study: nothing that finished is repeated, a failure costs one run, nothing outlives the study.

`gannorm train` and `gannorm evaluate` are replaced by fake_gannorm.py, in real processes: the same files without the
seconds of imports. test_study_command.py uses the real ones.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gannorm.errors import UserError
from gannorm.rundir import RunDir
from gannorm.studies import processes
from gannorm.studies.engine import describe, execute, is_scored, state
from gannorm.studies.grid import Study, plan

FAKE = [sys.executable, str(Path(__file__).with_name("fake_gannorm.py"))]
NAMES = ["batch_0", "group_0", "batch_1", "group_1"]

# A study in a process of its own, which can be killed.
ALONE = """
import sys, types
from pathlib import Path
nothing = types.SimpleNamespace(to_text=str)
sys.modules["gannorm.studies.compare"] = types.SimpleNamespace(compare=lambda *args, **options: nothing)
from gannorm.studies.engine import execute
from gannorm.studies.grid import plan
execute(plan(Path("s.yaml"), Path("runs"), sys.argv[1:]), sys.argv[1:], 2, Path("report"))
"""


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the runs of each comparison, instead of its seconds of figures."""
    compared: list[list[str]] = []

    class Comparison:
        def to_text(self) -> str:
            return "compared"

    def compare(runs: list[RunDir], output: Path, baseline: str | None) -> Comparison:
        compared.append([run.name for run in runs if state(run) == "finished"])
        return Comparison()

    monkeypatch.setattr("gannorm.studies.compare.compare", compare)
    return compared


def test_a_study_is_trained_scored_and_compared_and_its_repetition_starts_nothing(no_report: list[list[str]]) -> None:
    study = planned(evaluate={"samples": 40})
    assert execute(study, FAKE, 2, Path("report")) == 0
    assert trained() == sorted(NAMES) == scored()
    before = calls()
    assert execute(planned(evaluate={"samples": 40}), FAKE, 2, Path("report")) == 0
    assert calls() == before
    assert no_report == [NAMES, NAMES]
    assert "4 runs: 4 finished. Nothing is left to train." in describe(study, None)


def test_other_scores_are_made_where_the_study_asks_for_another_protocol() -> None:
    execute(planned(evaluate={"samples": 40}), FAKE, 2, Path("report"))
    execute(planned(evaluate={"samples": 50}), FAKE, 2, Path("report"))
    assert scored() == sorted(NAMES * 2)
    run = RunDir("runs/s/batch_0")
    assert [s["protocol"]["fake_images"] for s in run.scores()] == [40, 50]
    assert is_scored(run, {"samples": 50}) and not is_scored(run, {"samples": 60})
    assert not is_scored(run, {"statistics": "standing"})
    run.checkpoint_file(9).touch()
    assert not is_scored(run, {}) and not is_scored(run, {"all_checkpoints": True})


def test_evaluation_can_be_left_out_and_diverged_runs_are_not_scored() -> None:
    execute(planned(evaluate=False), FAKE, 2, Path("report"))
    assert scored() == []
    execute(planned("other", behave={"group_1": "diverge"}), FAKE, 2, Path("report"))
    assert scored() == ["batch_0", "batch_1", "group_0"]
    assert trained().count("group_1") == 2  # once a study: a diverged run has ended


def test_a_run_that_fails_is_tried_once_more_and_what_it_left_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    behave = {"batch_1": "fail_once", "group_0": "kill_once"}
    assert execute(planned(behave=behave), FAKE, 2, Path("report")) == 0
    assert trained() == sorted([*NAMES, "batch_1", "group_0"])
    told = capsys.readouterr().err
    assert "batch_1: failed, to be tried again: MemoryError: no room (all it printed is in" in told
    assert "group_0: failed, to be tried again: killed by SIGKILL (out of memory?)" in told
    for name, left in (("batch_1", "failed"), ("group_0", "running")):
        assert RunDir(f"runs/s/plan/attempts/{name}_1").status()["state"] == left
        assert state(RunDir(f"runs/s/{name}")) == "finished"
    assert "MemoryError" in Path("runs/s/plan/batch_1.log").read_text()


def test_a_run_that_fails_twice_costs_that_run_only(
    capsys: pytest.CaptureFixture[str], no_report: list[list[str]]
) -> None:
    study = planned(behave={"batch_0": "fail"})
    assert execute(study, FAKE, 2, Path("report")) == 1
    assert trained().count("batch_0") == 2
    assert no_report == [["group_0", "batch_1", "group_1"]]
    assert "failed twice, and not compared: batch_0" in capsys.readouterr().err
    assert "4 runs: 1 failed, 3 finished." in describe(study, None)
    execute(study, FAKE, 2, Path("report"))
    assert trained().count("batch_0") == 4  # the next invocation tries again
    assert trained().count("batch_1") == 1


def test_a_callers_mistake_stops_the_study_at_once() -> None:
    study = planned(behave={"batch_0": "mistake"}, nap=2.0)
    with pytest.raises(UserError, match=r"^batch_0: unknown normalizer 'grup': did you mean 'group'\?$"):
        execute(study, FAKE, 2, Path("report"))
    assert set(trained()) <= {"batch_0", "group_0"}
    assert_all_gone()


def test_jobs_run_at_once_and_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    execute(planned(nap=0.1, evaluate=False), FAKE, 2, Path("report"))
    active, most = set[str](), 0
    for _, name, *_ in calls():
        active ^= {name}
        most = max(most, len(active))
    assert most == 2
    assert {threads for what, _, *more in calls() if what == "train" for threads in more[1:]} == {"8"}


@pytest.mark.parametrize(
    ("jobs", "tasks", "omp", "expected"),
    [
        (None, 100, "", (16, 1)),
        (None, 5, "", (5, 3)),
        (3, 100, "", (3, 5)),
        (40, 100, "", (40, 1)),
        (None, 100, "4", (4, 4)),
        (2, 100, "4", (2, 4)),
        (None, 0, "", (1, 16)),
    ],
)
def test_cores_are_shared_out(
    jobs: int | None, tasks: int, omp: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert processes.shares(jobs, tasks) == expected


def test_a_killed_study_leaves_no_process_and_goes_on_where_it_stopped() -> None:
    study = planned(nap=0.2, behave={"group_1": "parent"})
    process = alone()
    until(lambda: "group_1" in trained() and state(RunDir("runs/s/group_1")) == "running")
    assert state(RunDir("runs/s/batch_0")) == "finished"
    process.kill()
    process.communicate()
    until(lambda: state(RunDir("runs/s/group_1")) == "interrupted")
    assert "interrupted" in describe(study, None)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_leaves_no_process(number: signal.Signals) -> None:
    planned(nap=5.0, behave={"batch_0": "parent", "group_0": "parent"})
    process = alone()
    until(lambda: sum(line[0] == "sleep" for line in calls()) == 2)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert "stopped; the same command goes on from here." in told
    assert process.returncode != 0
    assert_all_gone()


def test_a_run_that_another_process_trains_is_awaited_and_not_repeated() -> None:
    study = planned(nap=0.2, evaluate=False)
    study.runs[0].config_file.parent.mkdir(parents=True)
    study.runs[0].config_file.write_text(study.runs[0].config_text())
    other = subprocess.Popen([*FAKE, "train", "--config", str(study.runs[0].config_file)])
    until(lambda: state(study.runs[0].directory) == "running")
    assert execute(study, FAKE, 4, Path("report")) == 0
    assert trained() == sorted(NAMES)
    assert other.wait() == 0


def test_a_study_is_executed_by_one_process() -> None:
    study = planned()
    (study.folder / "plan").mkdir(parents=True)
    with (study.folder / "plan/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"one process executes a study: another has .*s; wait for it"):
            execute(study, FAKE, 2, Path("report"))
    assert not Path("calls.txt").exists()


def test_a_damaged_status_is_not_taken_for_a_finished_run() -> None:
    study = planned(evaluate=False)
    execute(study, FAKE, 2, Path("report"))
    Path("runs/s/group_0/status.json").write_text("{")
    assert "1 damaged" in describe(study, None)
    execute(study, FAKE, 2, Path("report"))
    assert trained() == sorted([*NAMES, "group_0"])
    assert Path("runs/s/plan/attempts/group_0_1/status.json").read_text() == "{"


def test_the_time_left_follows_from_the_speed_of_finished_runs() -> None:
    study = planned()
    assert "4 runs: 4 to do. The time that it takes will be known after the first run." in describe(study, 2)
    with RunDir.create(study.runs[0].directory.path, study.runs[0].config) as run:
        run.append_metrics(3, {"images_per_second": 0.5})
        run.append_metrics(6, {"images_per_second": 0.1})
        run.set_status("finished", 6)
    # 3 runs of 6 steps of 8 images, each of which takes the mean of 2 s and 10 s, in two processes.
    assert "4 runs: 1 finished, 3 to do. About 7 min of training are left with 2 at once." in describe(study, 2)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Task:
        def __init__(self, name: str, done: int) -> None:
            self.name, self.total, self.done = name, 10, done

        def progress(self) -> int:
            return self.done

        def is_done(self) -> bool:
            return self.done == self.total

    half = Task("half", 8)  # by an attempt that died; now it is made anew
    view = processes._View([half, Task("whole", 10)], "training", "step")  # type: ignore[list-item]
    half.done = 5
    view.show(["half"])
    assert capsys.readouterr().err == ""  # too early
    view.begin, view.shown = view.begin - 31, view.shown - 31
    view.show(["half"])
    line = capsys.readouterr().err
    assert line.startswith("training:  75%") and "15/20" in line and "1/2: half" in line and line.endswith("\n")
    assert re.search(r"00:31<00:31, +6.\d+s/step", line)  # five steps in 31 s, and five to go


def test_a_child_that_says_nothing_is_known_by_its_status(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("what an attempt before it printed\n")
    child = processes.Child([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", {})
    until(lambda: child.status() is not None)
    assert child.last_line() == "exit status 3 without a word"


# -- building and looking ---------------------------------------------------------------------------------------------


def planned(name: str = "s", *, nap: float = 0.0, behave: dict[str, str] | None = None, **study: Any) -> Study:
    """norm × seed, of six steps; `behave` as in fake_gannorm.py."""
    base = {
        "steps": 6,
        "data": {"batch_size": 8},
        "model": {"d_steps": 1, "discriminator": {"norm": "batch"}},
        "trainer": {"nap": nap, **(behave or {})},
    }
    factors = {"model.discriminator.norm": ["batch", "group"], "seed": [0, 1]}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    Path(f"{name}.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "factors": factors, **study}, sort_keys=False))
    return plan(Path(f"{name}.yaml"), Path("runs"), ["false"])


def alone() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, *FAKE], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def calls() -> list[list[str]]:
    """What the fake commands have noted, in order."""
    file = Path("calls.txt")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def trained() -> list[str]:
    return sorted(line[1] for line in calls() if line[0] == "train")


def scored() -> list[str]:
    return sorted(line[1] for line in calls() if line[0] == "evaluate")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon; a minute at most, on a machine that is busy."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_all_gone() -> None:
    """No process that the fake commands have noted is alive."""
    pids = [int(line[2] if line[0] == "train" else line[1]) for line in calls() if line[0] in ("train", "sleep")]
    assert pids
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
