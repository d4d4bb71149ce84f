"""Tasks side by side: progress, the time left, and a failure costs one task."""

from __future__ import annotations

import re

import pytest
from support.fake_study import FAKE, planned

from gannorm.rundir import RunDir
from gannorm.studies import local, runner
from gannorm.studies.execute import describe

HERE = local.Local(FAKE, 2)


pytestmark = pytest.mark.usefixtures("own_folder", "no_report")


def test_the_time_left_follows_from_the_speed_of_finished_runs() -> None:
    study = planned()
    assert "4 runs: 4 to do. The first run will show how long it takes." in describe(study, HERE)
    with RunDir.create(study.runs[0].directory.path, study.runs[0].config) as run:
        run.append_metrics(3, {"images_per_second": 0.5})
        run.append_metrics(6, {"images_per_second": 0.1})
        run.set_status("finished", 6)
    # 3 runs of 6 steps of 8 images, each of which takes the mean of 2 s and 10 s, in two processes.
    assert "4 runs: 1 finished, 3 to do. About 7 min of training remain, with 2 runs at once." in describe(study, HERE)


def test_the_time_left_is_that_of_the_images_of_each_run_that_is_left() -> None:
    study = planned(factors={"data.batch_size": [8, 16], "model.d_steps": [1, 3], "seed": [0]})
    for run, speed in zip(study.runs[:2], (0.1, 0.05), strict=True):
        with RunDir.create(run.directory.path, run.config) as made:
            made.append_metrics(6, {"images_per_second": speed})
            made.set_status("finished", 6)
    # 6 steps of 16 and of 3 · 16 images, each of which takes the mean of 10 s and 20 s, in two processes.
    assert "About 48 min of training remain, with 2 runs at once." in describe(study, HERE)


def test_a_damaged_run_tells_nothing_of_the_speed() -> None:
    study = planned()
    for run in study.runs[:2]:
        with RunDir.create(run.directory.path, run.config) as made:
            made.append_metrics(6, {"images_per_second": 0.1})
            made.set_status("finished", 6)
    (study.runs[0].directory.path / "metrics.jsonl").write_text("{")
    # 2 runs of 6 steps of 8 images, each of which takes 10 s, in two processes.
    assert "About 8 min of training remain, with 2 runs at once." in describe(study, HERE)


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
    view = runner._View([half, Task("whole", 10)], "training", "step")  # type: ignore[list-item]
    half.done = 5
    view.show({"half": half.progress})
    assert capsys.readouterr().err == ""  # too early
    view.begin, view.refreshed = view.begin - 31, view.refreshed - 31
    view.show({"half": half.progress})
    line = capsys.readouterr().err
    assert line.startswith("training:  75%") and "15/20" in line and "1/2: half" in line and line.endswith("\n")
    assert re.search(r"00:31<00:31, +6.\d+s/step", line)  # five steps in 31 s, and five to go
