"""Reading run directories: what ended is a run; damaged and unfinished ones are named with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gannorm.comparison.runs import read_runs
from gannorm.rundir import RunDir


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.yaml", "{", "config.yaml must be well-formed"),
        ("config.yaml", "- a list", "mapping"),
        ("config.yaml", "norm: batch", "integer seed"),
        ("metrics.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n', "line 2"),
        ("metrics.jsonl", "[1]\n", "damaged"),
        ("metrics.jsonl", '{"loss_d": 1}\n', "step"),
        ("metrics.jsonl", '{"step": "one"}\n', "a step must be an integer"),
        ("scores.json", '{"version": 1}', "scores"),
        ("scores.json", '{"scores": [{"step": 1, "protocol": "none"}]}', "protocol"),
        ("status.json", "", "status.json must be well-formed"),
        ("status.json", '{"state": "<b>"}', "state must be one of"),
        ("status.json", "[]", "damaged"),
    ],
)
def test_a_damaged_run_is_named_and_the_rest_goes_on(
    make_run: Callable[..., RunDir], file: str, content: str, reason: str
) -> None:
    good, bad = make_run("batch", 0), make_run("batch", 1)
    (bad.path / file).write_text(content)
    runs, left_out = read_runs([bad, good])
    assert [run.name for run in runs] == ["batch_0"]
    assert [run.name for run in left_out] == ["batch_1"]
    assert reason in left_out[0].reason


@pytest.mark.parametrize(("state", "named"), [("running", "interrupted"), ("failed", "failed")])
def test_a_run_that_has_not_ended_is_named_with_its_step(
    make_run: Callable[..., RunDir], state: str, named: str
) -> None:
    run = make_run("batch", 0)
    run.set_status(state, 1250, "out of memory")
    assert [r.reason for r in read_runs([run])[1]] == [f"{named} at step 1250: out of memory"]


def test_a_cut_last_line_is_a_run_being_written(make_run: Callable[..., RunDir]) -> None:
    run = make_run("batch", 0)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1300, "loss')
    runs, left_out = read_runs([run])
    assert len(runs) == 1 and left_out == []


def test_equal_names_of_two_studies_are_told_apart(make_run: Callable[..., RunDir], tmp_path: Path) -> None:
    moved = tmp_path / "other" / "batch_0"
    moved.parent.mkdir()
    make_run("batch", 0).path.rename(moved)
    runs, _ = read_runs([make_run("batch", 0), RunDir(moved)])
    assert [run.name for run in runs] == ["study/batch_0", "other/batch_0"]
