"""Local processes: how cores and GPUs are shared out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.fake_study import until

from gannorm.studies import local

pytestmark = pytest.mark.usefixtures("own_folder", "no_report")


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
    assert local.shares(jobs, tasks) == expected


@pytest.mark.parametrize(("jobs", "expected"), [(None, (8, 2)), (12, (12, 1))])
def test_a_gpu_takes_four_processes_unless_more_are_asked_for(
    jobs: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert local.shares(jobs, 100, gpus=2) == expected


def test_each_process_sees_the_gpu_that_fewest_use(tmp_path: Path) -> None:
    show = [sys.executable, "-c", "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES']); sys.stdin.read()"]
    task = SimpleNamespace(prepare=lambda: None, progress=lambda: 0, arguments=lambda: [])
    engine = local.Local(["sleep", "60"], gpus=["0", "GPU-5f"])
    children = [engine.start(task, tmp_path / str(i), 1) for i in range(3)]
    try:
        assert [gpu for gpu, _ in engine._users] == ["0", "GPU-5f", "0"]
        children[0].close()
        children[2].close()
        engine.gannorm = show
        children.append(engine.start(task, tmp_path / "3", 1))
        until(lambda: children[3].last_line() == "0")  # nobody uses it any longer
    finally:
        for child in children:
            child.close()


@pytest.mark.parametrize(
    ("variable", "listed", "expected"),
    [
        ("2,GPU-5f", "", ["2", "GPU-5f"]),
        ("", "GPU 0: one", []),
        (None, "GPU 0: one\nGPU 1: another\n", ["0", "1"]),
        (None, None, []),
    ],
)
def test_gpus_are_those_that_cuda_shows(
    variable: str | None, listed: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setenv("PATH", str(tmp_path))
    if listed is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{listed}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert local.visible_gpus() == expected
