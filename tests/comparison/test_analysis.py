"""Runs become conditions, a baseline is chosen, and what cannot be compared is refused in one line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from support.run_directories import mean

from gannorm.comparison.analysis import analyse
from gannorm.errors import UserError
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_baseline_is_the_first_condition_or_the_named_one(make_run: MakeRun) -> None:
    runs = [make_run("batch", 0), make_run("group", 0)]
    assert analyse(runs).baseline == "batch"
    named = analyse(runs, baseline="group")
    assert [c.label for c in named.conditions] == ["group", "batch"]
    row = named.row("batch", "fid/final")
    assert row is not None and row.effect is not None
    with pytest.raises(UserError, match="did you mean 'group'"):
        analyse(runs, baseline="gruop")


def test_conditions_to_choose_from_are_told_apart(make_run: MakeRun) -> None:
    factors = itertools.product(("batch", "layer"), (8, 16))
    runs = [make_run(norm, 0, name=f"{norm}_{size}", data={"batch_size": size}) for norm, size in factors]
    with pytest.raises(UserError, match="choose from 'norm=batch, batch_size=8', 'norm=batch, batch_size=16', 'norm=l"):
        analyse(runs, baseline="instance")


def test_a_condition_whose_runs_all_diverged_is_no_baseline(make_run: MakeRun) -> None:
    comparison = analyse([make_run("batch", 0, status="diverged"), make_run("group", 0)])
    assert comparison.baseline == "group"
    assert mean(comparison, "divergence_rate") == 1


def test_unfinished_runs_are_named_in_the_text(make_run: MakeRun) -> None:
    runs = [make_run("batch", 0), make_run("group", 0), make_run("group", 1, name="half")]
    runs[-1].set_status("running", 300)
    with runs[-1].lock():
        assert "left out: half (running at step 1200)" in analyse(runs).to_text()
    text = analyse(runs).to_text()
    assert "left out: half (interrupted at step 1200)" in text  # no process has it: it was killed
    assert text.startswith("With")


def test_no_finished_run_is_one_clear_line(make_run: MakeRun) -> None:
    runs = [make_run("batch", 0), make_run("batch", 1, status="diverged"), make_run("batch", 2)]
    runs[0].set_status("running", 300)
    (runs[2].path / "config.yaml").write_text("{")
    with pytest.raises(UserError, match=r"one run must have finished: got 1 interrupted, 1 damaged, 1 diverged; "):
        analyse(runs)
    with pytest.raises(UserError, match="got none"):
        analyse([])


def test_gans_and_classifiers_are_compared_separately(make_run: MakeRun, make_classifier: MakeRun) -> None:
    runs = [make_run("batch", 0), make_run("batch", 1, status="diverged"), make_classifier("batch", 0, [0.9])]
    with pytest.raises(UserError, match=r"of one task: got 2 GANs and 1 classifier; compare them separately\.$"):
        analyse(runs)


def test_classifiers_are_not_compared_by_mode(make_classifier: MakeRun) -> None:
    with pytest.raises(
        UserError, match="only generators have sampling modes: got classifiers; compare them without --by_mode"
    ):
        analyse([make_classifier("batch", 0, [0.5])], by_mode=True)


def test_probes_of_no_number_of_steps_do_not_end_a_comparison(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run, every in zip(runs, (2, "often", [1]), strict=True):
        run.config_file.write_text(json.dumps({**run.config(), "probe_every": every}))  # which is YAML too
    assert len(analyse(runs).conditions[0].runs) == 3


def test_a_folder_of_runs_is_read_as_its_runs(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(2)]
    assert analyse(runs[0].path.parent).to_csv() == analyse(runs).to_csv()
