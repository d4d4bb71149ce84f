"""Factors are found, not declared; runs that cannot be compared are named."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from gannorm.comparison.conditions import group
from gannorm.comparison.runs import read_runs
from gannorm.rundir import RunDir


def test_runs_that_differ_in_seed_and_name_are_one_condition(make_run: Callable[..., RunDir]) -> None:
    elsewhere = {"study": "another", "output": "there", "wandb": "off", "progress": False, "log_every": 7}
    runs, left_out = read_runs([make_run("batch", 0), make_run("batch", 1, **elsewhere)])
    conditions, repeats, remarks = group(runs)
    assert [[run.seed for run in c.runs] for c in conditions] == [[0, 1]]
    assert (left_out, repeats, remarks) == ([], [], [])


def test_a_key_that_is_the_tail_of_another_is_named_in_full(make_run: Callable[..., RunDir]) -> None:
    settings = itertools.product(("auto", "exact"), ("32-true", "64-true"))
    runs = [make_run("batch", i, precision=p, trainer={"precision": t}) for i, (p, t) in enumerate(settings)]
    conditions, *_ = group(read_runs(runs)[0])
    assert conditions[0].label == "precision=auto, trainer.precision=32-true"


@pytest.mark.parametrize("key", ["steps", "probe_images", "a_key_of_tomorrow"])
def test_any_other_key_that_differs_is_a_factor(make_run: Callable[..., RunDir], key: str) -> None:
    runs, _ = read_runs([make_run("batch", 0, **{key: 1}), make_run("batch", 1, **{key: 2})])
    assert [c.label for c in group(runs)[0]] == [f"{key}=1", f"{key}=2"]


def test_one_factor_is_called_by_its_value_and_its_options_are_kept(make_run: Callable[..., RunDir]) -> None:
    runs, _ = read_runs([make_run("batch", 0), make_run("group", 0)])
    conditions, _, remarks = group(runs)
    assert [(c.label, c.title) for c in conditions] == [("batch", "BatchNorm"), ("group", "GroupNorm")]
    assert [c.values["model.discriminator.norm_options.groups"] for c in conditions] == [None, 8]
    assert remarks == []


@pytest.mark.parametrize("norms", [("batch",), ("batch", "group")])
def test_a_classifier_is_called_by_its_normalizer(make_run: Callable[..., RunDir], norms: tuple[str, ...]) -> None:
    runs, _ = read_runs([make_run(norm, 0, model={"classifier": {"norm": norm, "width": 16}}) for norm in norms])
    called = {"batch": "BatchNorm", "group": "GroupNorm"}
    assert [(c.label, c.title) for c in group(runs)[0]] == [(norm, called[norm]) for norm in norms]


def test_what_shows_or_stops_a_run_is_no_factor_and_what_computes_it_is(make_run: Callable[..., RunDir]) -> None:
    shown = {"max_time": "00:01:00:00", "profiler": "simple", "log_every_n_steps": 7, "enable_model_summary": True}
    runs = [make_run("batch", 0, probe_every=0), make_run("batch", 1, probe_every=7, trainer=shown)]
    assert len(group(read_runs(runs)[0])[0]) == 1
    runs += [make_run("batch", seed, trainer=o) for seed, o in ((2, {"precision": "64"}), (3, {"devices": 2}))]
    assert len(group(read_runs(runs)[0])[0]) == 3


def test_how_often_a_run_is_looked_at_and_where_its_images_lie_is_no_factor(make_run: Callable[..., RunDir]) -> None:
    """Each of these, taken for a factor, would tear the seeds of a condition apart."""
    looks = ("log", "sample", "probe", "test", "checkpoint", "why")
    shown = {f"{what}_every": 7 for what in looks} | {"optimization_budget": 0.5, "optimization_layers": ["features.0"]}
    data = {"name": "digits", "image_size": 16, "batch_size": 64, "root": "there", "download": True}
    runs, _ = read_runs([make_run("batch", 0), make_run("batch", 1, data=data, **shown)])
    assert [len(c.runs) for c in group(runs)[0]] == [2]


def test_how_kernels_are_launched_is_no_factor(make_run: Callable[..., RunDir]) -> None:
    """A run from before the key was there has the bits of one that has it."""
    runs, _ = read_runs([make_run("batch", 0), make_run("batch", 1, **{"model.cuda_graph": True})])
    assert len(group(runs)[0]) == 1


def test_two_factors_are_called_by_short_keys_and_ordered_by_size(make_run: Callable[..., RunDir]) -> None:
    """Names sort as "128" < "32" < "8"; batch sizes must not."""
    made = [
        make_run(norm, 0, name=f"{norm}_{size}", data={"name": "digits", "batch_size": size})
        for norm in ("batch", "layer")
        for size in (128, 32, 8)
    ]
    conditions, _, remarks = group(read_runs(made)[0])
    assert [c.label for c in conditions[:4]] == [
        "norm=batch, batch_size=8",
        "norm=batch, batch_size=32",
        "norm=batch, batch_size=128",
        "norm=layer, batch_size=8",
    ]
    assert conditions[0].title == "BatchNorm (batch size 8)"
    assert remarks == []


def test_factors_that_only_move_together_are_remarked(make_run: Callable[..., RunDir]) -> None:
    made = [make_run("batch", 0, data={"batch_size": 64}), make_run("layer", 0, data={"batch_size": 32})]
    _, _, remarks = group(read_runs(made)[0])
    assert len(remarks) == 1
    assert "data.batch_size" in remarks[0] and "model.discriminator.norm" in remarks[0]


def test_the_second_run_of_a_seed_is_left_out(make_run: Callable[..., RunDir]) -> None:
    conditions, repeats, _ = group(read_runs([make_run("batch", 0), make_run("batch", 0, name="again")])[0])
    assert [run.name for run in conditions[0].runs] == ["batch_0"]
    assert [(r.name, r.reason) for r in repeats] == [("again", "same condition and seed as batch_0")]


def test_copies_of_a_diverged_run_diverged_once(make_run: Callable[..., RunDir]) -> None:
    """A seed is one draw, however it ended: copies must not raise the rate and narrow its interval."""
    made = [make_run("batch", seed) for seed in range(3)]
    made += [make_run("batch", 3, name=name, status="diverged") for name in ("lost", "copy", "copy_of_copy")]
    conditions, repeats, _ = group(read_runs(made)[0])
    assert conditions[0].divergence == "1 of 4"
    assert [(r.name, r.reason) for r in repeats] == [
        (name, "same condition and seed as lost") for name in ("copy", "copy_of_copy")
    ]


@pytest.mark.parametrize(("name", "said"), [("folder", True), ("mnist", False)])
def test_folders_that_may_hold_other_images_are_remarked(
    make_run: Callable[..., RunDir], name: str, said: bool
) -> None:
    """The root of a named data set is where it lies; that of a folder is which images they are."""
    made = [make_run("batch", i, data={"name": name, "root": root}) for i, root in enumerate(("cats", "dogs"))]
    conditions, _, remarks = group(read_runs(made)[0])
    assert len(conditions) == 1
    assert ["data.root is cats or dogs" in remark for remark in remarks] == [True] * said


def test_diverged_runs_are_apart_from_finished_ones(make_run: Callable[..., RunDir]) -> None:
    conditions, _, _ = group(read_runs([make_run("batch", 0), make_run("batch", 1, status="diverged")])[0])
    assert [run.seed for run in conditions[0].runs] == [0]
    assert conditions[0].divergence == "1 of 2"
