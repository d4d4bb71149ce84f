"""Each metric and score of a run is reduced to the number that its quantity says."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_directories import dependence, mean, probe, reconstruction, rewrite, score

from gannorm.comparison.analysis import analyse
from gannorm.comparison.quantities import QUANTITIES, measured
from gannorm.comparison.renamed import renamed
from gannorm.comparison.runs import read_runs
from gannorm.rundir import RunDir
from gannorm.verdict import Evidence, decide

MakeRun = Callable[..., RunDir]
TRAIN = "batch_dependence/train/"
DROPPED = ("icc_real", "icc_fake")  # of earlier versions: within pure batches an ICC cannot see what it is for


def test_a_runs_value_is_the_mean_of_its_last_five_probes(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [probe(0.0, 1.0)] * 3 + [probe(p, 0.5) for p in (0.6, 0.7, 0.8, 0.9, 1.0)] + [{"loss/d": 1.0}])
    comparison = analyse([run])
    assert mean(comparison, "batch_dependence/train/accuracy_pure") == pytest.approx(0.8)
    assert mean(comparison, "batch_dependence/train/accuracy_gap") == pytest.approx(0.3)


def test_swaps_report_the_worst_probe(make_run: MakeRun) -> None:
    """One unequal probe among the last five must not be averaged away."""
    run = make_run("group", 0)
    equal = probe(0.7, 0.7, swap_max_change=0.0, swap_bitwise_equal=1.0)
    rewrite(run, [*[equal] * 20, probe(0.7, 0.7, swap_max_change=0.2, swap_bitwise_equal=0.0), *[equal] * 4])
    comparison = analyse([run])
    assert mean(comparison, "batch_dependence/train/swap_bitwise_equal", "group") == 0
    assert mean(comparison, "batch_dependence/train/swap_max_change", "group") == 0.2


def test_the_speed_is_the_median_which_a_slow_start_or_a_busy_hour_does_not_move(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [{"images_per_second": rate} for rate in (1.0, 900.0, 901.0, 902.0, 903.0, 904.0, 2.0, 3.0, 900.0)])
    assert mean(analyse([run]), "images_per_second") == 900


def test_scores_are_given_as_last_best_and_level(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    (run.path / "scores.json").unlink()
    for step, value in ((0, 50.0), (10, 10.0), (20, 30.0)):
        run.add_scores({"step": step, "fid": value, "inception_score": value, "protocol": {}})
    comparison = analyse([run])
    assert [mean(comparison, f"fid/{kind}") for kind in ("final", "best", "level")] == [30, 10, 25]
    assert mean(comparison, "inception_score/best") == 50


def test_the_best_of_a_score_is_its_better_end(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    names = ("inception_score", "fid", "kid", "precision", "recall")
    score(run, {step: dict.fromkeys(names, v) | reconstruction(v) for step, v in ((10, 0.5), (20, 0.9), (30, 0.7))})
    comparison = analyse([run])
    lower = ("fid", "kid", "reconstruction")
    best = {name: mean(comparison, f"{name}/best") for name in (*names, "reconstruction")}
    assert best == {name: 0.5 if name in lower else 0.9 for name in best}


def test_every_mode_and_measure_is_read_from_its_own_probes(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    pairs = {
        "train/accuracy": (0.9, 0.5),
        "train/auc": (0.95, 0.65),
        "eval/accuracy": (0.8, 0.75),
        "eval/auc": (0.85, 0.7),
    }
    kinds = ("pure", "mixed")
    rewrite(
        run,
        [{f"batch_dependence/{p}_{kind}": v for p, pair in pairs.items() for kind, v in zip(kinds, pair, strict=True)}],
    )
    comparison = analyse([run])
    for name, (pure, mixed) in pairs.items():
        values = [mean(comparison, f"batch_dependence/{name}_{kind}") for kind in (*kinds, "gap")]
        assert values == [pure, mixed, pure - mixed]


def test_missing_and_null_values_are_absent_and_not_zero(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [probe(0.8, float("nan")), {"loss/d": 1.0}])
    comparison = analyse([run])
    assert mean(comparison, "batch_dependence/train/accuracy_pure") == 0.8
    for quantity in (
        "batch_dependence/train/accuracy_mixed",
        "batch_dependence/train/accuracy_gap",
        "batch_dependence/eval/auc_pure",
    ):
        assert comparison.row("batch", quantity) is None


def test_intervals_of_the_table_end_where_their_quantity_does(make_run: MakeRun) -> None:
    runs = []
    for norm, pure in (("batch", (0.01, 0.5)), ("group", (0.99, 0.6))):
        for seed in range(2):
            runs.append(make_run(norm, seed))
            rewrite(runs[-1], [probe(pure[seed], 0.5)])
    for condition, low, high in (("batch", 0, 1), ("group", 0, 1)):
        row = analyse(runs).row(condition, "batch_dependence/train/accuracy_pure")
        assert row is not None and (row.estimate.low, row.estimate.high) == (low, high)
    assert row.effect is not None  # of two accuracies
    assert (row.effect.difference.low, row.effect.difference.high) == (-1, 1)


def test_what_was_measured_lies_within_the_limits_of_each_quantity() -> None:
    """On the committed results, which hold every kind of run: a wrong limit would cut an interval that is right."""
    limits = {quantity.name: quantity.limits for quantity in QUANTITIES} | {"divergence_rate": (0.0, 1.0)}
    tables = list((Path(__file__).parents[2] / "results").glob("*/table.csv"))
    tables = [
        table for table in tables if table.parent.name != "cross"
    ]  # which has pairs of conditions, from its script
    assert len(tables) > 2
    for table in tables:
        with table.open() as file:
            for row in csv.DictReader(file):
                mode, _, rest = row["quantity"].partition("/")
                name = renamed(row["quantity"])
                if mode in ("train", "eval"):  # as tables of earlier versions have it
                    name = f"batch_dependence/{mode}/{rest.replace('_fall', '_gap')}"
                if name.split("/")[-1] in DROPPED:
                    continue
                least, most = limits[name]
                assert least - 1e-9 <= float(row["mean"]) <= most + 1e-9, row  # an FID of 0, up to rounding


def test_the_ends_of_an_interval_are_averaged_only_where_every_last_probe_has_them(make_run: MakeRun) -> None:
    """The mean of some probes' bounds beside the mean of all values would be an interval of something else."""
    run = make_run("batch", 0)
    whole = {f"{TRAIN}auc_pure": 0.9, f"{TRAIN}auc_pure_low": 0.8, f"{TRAIN}auc_pure_high": 1.0}
    rewrite(run, [whole] * 3 + [{name: v - 0.1 for name, v in whole.items()}] * 2)
    values = measured(read_runs([run])[0][0])
    assert values[f"{TRAIN}auc_pure_low"] == pytest.approx(0.76)
    run.append_metrics(6, {f"{TRAIN}auc_pure": 1.0})  # all pairs are ranked right: no interval
    values = measured(read_runs([run])[0][0])
    assert f"{TRAIN}auc_pure_low" not in values and f"{TRAIN}auc_pure" in values


def test_facts_are_the_worst_case_of_the_last_probes(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    facts = [dependence(False, 0.8, 0.8, 0.8) for _ in range(7)]
    facts[0] |= {"constant": 1.0}  # a network whose head is zero at the start
    facts[1] |= {"repeats": 0.0}
    facts[2] |= {"forward_coupled": 1.0}
    facts[-1] |= {"images": 128}
    rewrite(run, [{f"{TRAIN}{name}": value for name, value in record.items()} for record in facts])
    values = measured(read_runs([run])[0][0])
    facts_of_run = {name: values[f"{TRAIN}{name}"] for name in ("forward_coupled", "constant", "repeats", "images")}
    assert facts_of_run == {"forward_coupled": 1, "constant": 0, "repeats": 1, "images": 128}


def test_a_layer_that_couples_at_first_alone_does_not_couple_at_the_end(make_run: MakeRun) -> None:
    """As batch renormalization, which is BatchNorm until its limits open: its verdict is of the end."""
    run = make_run("renorm", 0)
    records = [dependence(coupled, 0.8, 0.8, 0.8) | {"gradient_coupled": 1.0} for coupled in (True, *[False] * 5)]
    rewrite(run, [{f"{TRAIN}{name}": value for name, value in record.items()} for record in records])
    found = Evidence.from_metrics(measured(read_runs([run])[0][0]), TRAIN)
    assert found is not None
    assert decide(found).kind == "learns from batches"


def test_a_mean_of_bounds_covers_the_mean_of_values_of_probes_that_share_images() -> None:
    """Its soundness: of five correlated estimates the mean lies within the mean interval in at least 95 % of cases."""
    import numpy as np

    noise = np.random.default_rng(0)
    for shared in (0.0, 0.7, 1.0):
        errors = shared * noise.normal(size=(4000, 1)) + np.sqrt(1 - shared**2) * noise.normal(size=(4000, 5))
        held = (np.abs(errors.mean(1)) <= 1.96).mean()  # every probe's interval is ±1.96 of its own deviation
        assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 4000)  # four standard errors of a share of 4000
