"""The table holds what the runs hold; the sentences follow the table, whatever it says."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gannorm.comparison.conditions import Condition
from gannorm.comparison.findings import DEPENDS, JUDGES_BATCHES, JUDGES_IMAGES, OPEN, UNPROBED, names, verdict
from gannorm.comparison.quantities import QUANTITIES
from gannorm.errors import UserError
from gannorm.report.compare import Comparison, analyse, compare
from gannorm.report.figures import figures
from gannorm.report.pages import linked_figures
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def mean(comparison: Comparison, quantity: str, condition: str = "batch") -> float:
    row = comparison.row(condition, quantity)
    assert row is not None
    return row.estimate.mean


def rewrite(run: RunDir, metrics: Sequence[dict[str, float]]) -> None:
    """Replace a run's metrics by records at steps 1, 2, …"""
    (run.path / "metrics.jsonl").unlink()
    for step, values in enumerate(metrics, start=1):
        run.append_metrics(step, values)


def probe(pure: float, mixed: float, **more: float) -> dict[str, float]:
    values = {"accuracy_pure": pure, "accuracy_mixed": mixed} | more
    return {f"probe/train/{name}": value for name, value in values.items()}


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_runs_value_is_the_mean_of_its_last_five_probes(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [probe(0.0, 1.0)] * 3 + [probe(p, 0.5) for p in (0.6, 0.7, 0.8, 0.9, 1.0)] + [{"loss_d": 1.0}])
    comparison = analyse([run])
    assert mean(comparison, "train/accuracy_pure") == pytest.approx(0.8)
    assert mean(comparison, "train/accuracy_fall") == pytest.approx(0.3)


def test_companion_swaps_report_the_worst_probe(make_run: MakeRun) -> None:
    """One unequal probe among many equal ones must not be averaged away."""
    run = make_run("group", 0)
    equal = probe(0.7, 0.7, swap_max_change=0.0, swap_bitwise_equal=1.0)
    rewrite(run, [equal, probe(0.7, 0.7, swap_max_change=0.2, swap_bitwise_equal=0.0), *[equal] * 20])
    comparison = analyse([run])
    assert mean(comparison, "train/swap_bitwise_equal", "group") == 0
    assert mean(comparison, "train/swap_max_change", "group") == 0.2
    assert verdict(comparison.rows, "group") == DEPENDS


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
    rewrite(run, [{f"probe/{p}_{kind}": v for p, pair in pairs.items() for kind, v in zip(kinds, pair, strict=True)}])
    comparison = analyse([run])
    for name, (pure, mixed) in pairs.items():
        found = [mean(comparison, f"{name}_{kind}") for kind in (*kinds, "fall")]
        assert found == [pure, mixed, pure - mixed]


def test_a_run_that_was_scored_earlier_than_the_others_is_named(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in (0, 1)]
    assert not any("scored earlier" in remark for remark in analyse(runs).remarks)
    records = runs[0].scores()[:-1]
    (runs[0].path / "scores.json").unlink()
    for record in records:
        runs[0].add_scores(record)
    told = "last scored earlier than the others, is a checkpoint damaged? batch_0 (400 steps before its end)."
    assert told in analyse(runs).remarks


def score(run: RunDir, records: dict[int, dict[str, object]]) -> None:
    """Replace a run's scores by these: step → scores."""
    (run.path / "scores.json").unlink()
    for step, record in records.items():
        run.add_scores({"step": step, "protocol": {}, **record})


@pytest.mark.parametrize("before", [{}, {600: {"fid": 1.0}}], ids=["one checkpoint", "an earlier one"])
def test_a_generator_that_ends_without_images_has_no_last_score_and_is_named(
    make_run: MakeRun, before: dict[int, dict[str, object]]
) -> None:
    """Its scores from before it diverged are no scores of its end, and the mean of the others is not of all."""
    runs = [make_run("none", seed) for seed in range(3)]
    for run in runs:
        score(run, before | {1200: {"fid": 10.0}})
    assert not any("not finite" in remark for remark in analyse(runs).remarks)
    score(runs[2], before | {1200: {"diverged": True}})
    comparison = analyse(runs)
    row = comparison.row("none", "fid/final")
    assert row is not None and (row.estimate.mean, row.estimate.n) == (10, 2)
    assert comparison.rows["none", "fid/level"].estimate.n == 2
    assert comparison.rows["none", "fid/best"].estimate.n == (3 if before else 2)
    (told,) = [remark for remark in comparison.remarks if "not finite" in remark]
    assert ": none_2. They have no last score" in told
    assert not any("scored earlier" in remark for remark in comparison.remarks)  # its checkpoint is no damaged one


def test_a_best_of_more_checkpoints_is_said_to_be_one(make_run: MakeRun) -> None:
    """Conditions of equal generators, one scored twelve times as often: its best is better all the same."""
    noise = np.random.default_rng(0)
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(5)]
    for run in runs:
        steps = range(100, 1300, 100) if "group" in run.name else [1200]
        score(run, {step: {"fid": 20 + noise.normal()} for step in steps})
    comparison = analyse(runs)
    effect = comparison.rows["group", "fid/best"].effect
    assert effect is not None and effect.verdict == "lower"
    assert any("not all runs were scored at the same steps (FID): the best" in r for r in comparison.remarks)
    assert not any("same steps" in remark for remark in analyse(runs[:5]).remarks)
    (runs[0].path / "scores.json").unlink()  # scored at no step, and so at no other
    assert not any("same steps" in remark for remark in analyse(runs[:5]).remarks)


def test_a_score_that_is_missing_at_the_end_of_a_run_is_named_beside_others_that_are_not(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(2)]
    both = {"fid": 3.0, **reconstruction(2.0)}
    score(runs[0], {600: both, 1200: both})
    score(runs[1], {600: both, 1200: {"fid": 3.0}})
    assert any("earlier than the others" in r and "batch_1 (600 steps" in r for r in analyse(runs).remarks)


def test_a_strangers_run_does_not_steer_the_terminal(make_run: MakeRun) -> None:
    whole, damaged = make_run("batch", 0), make_run("batch", 1)
    (damaged.path / "status.json").write_text("{")
    damaged.path.rename(hostile := damaged.path.with_name("\x1b[2J\u202ename"))
    text = analyse([whole, RunDir.open(hostile)]).to_text()
    assert "left out: ?[2J?name" in text
    assert not set(text) & {"\x1b", "\u202e"}


def test_of_two_protocols_that_are_as_common_the_newer_one_is_compared(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
    for samples, fid in ((40, 9.0), (50, 5.0)):  # as a study leaves them whose `evaluate` was changed
        for run in runs:
            found = {"error": fid, "protocol": {"images": samples}}
            record = {"step": 9999, "fid": fid, "protocol": {"fake_images": samples}, "reconstruction": found}
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


def reconstruction(error: float, images: int = 64) -> dict[str, object]:
    return {"reconstruction": {"error": error, "protocol": {"images": images}}}


def test_a_reconstruction_is_a_score_whose_lower_value_is_better(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
        for step, more in ((1, 0.0), (2, 0.5)):  # it peaks and falls
            error = 2 + more - ("group" in run.name) + 0.01 * run.config()["seed"]
            run.add_scores({"step": step, "fid": 3.0, "protocol": {}, **reconstruction(error)})
    comparison = analyse(runs)
    kinds = [mean(comparison, f"reconstruction/{kind}", "group") for kind in ("final", "best", "level")]
    assert kinds == pytest.approx([1.51, 1.01, 1.26])
    (told,) = [f for f in comparison.findings if f.startswith("Reconstruction error")]
    assert told.endswith("better (3 paired seeds).")
    runs[0].add_scores({"step": 3, "fid": 4.0, "protocol": {}, **reconstruction(9.0, images=8)})
    comparison = analyse(runs)
    assert mean(comparison, "reconstruction/best") == pytest.approx(2.01)
    assert any(remark.startswith("1 reconstructions are left out") for remark in comparison.remarks)
    assert mean(comparison, "fid/final") == pytest.approx(10 / 3)  # its other scores stay


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
    assert "better with batch statistics with averaged weights" in comparison.headline
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


def test_missing_and_null_values_are_absent_and_not_zero(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [probe(0.8, float("nan")), {"loss_d": 1.0}])
    comparison = analyse([run])
    assert mean(comparison, "train/accuracy_pure") == 0.8
    for quantity in ("train/accuracy_mixed", "train/accuracy_fall", "eval/auc_pure"):
        assert comparison.row("batch", quantity) is None


def test_diverged_runs_count_in_their_rate_and_in_no_mean(compared: tuple[Comparison, Path]) -> None:
    comparison, _ = compared
    rate = comparison.row("batch", "divergence_rate")
    fall = comparison.row("batch", "train/accuracy_fall")
    assert rate is not None and (rate.estimate.mean, rate.estimate.n) == (0.25, 4)
    assert fall is not None and fall.estimate.n == 3


def test_csv_and_json_hold_the_rows(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    written = list(csv.DictReader(io.StringIO((output / "table.csv").read_text())))
    content = json.loads((output / "table.json").read_text())
    assert len(written) == len(content["rows"]) == len(comparison.rows) > 20
    for line, entry, row in zip(written, content["rows"], comparison.rows.values(), strict=True):
        assert entry == row.flat()
        assert line == {k: "" if v is None else str(v) for k, v in row.flat().items()}
    assert content["headline"] == comparison.headline
    batch = content["conditions"][0]
    assert (batch["runs"], batch["diverged"]) == ({f"batch_{seed}": seed for seed in range(3)}, ["batch_3"])


def test_a_line_of_the_csv_tells_what_its_difference_is_of(make_run: MakeRun) -> None:
    values = {"batch": {0: 10.0, 1: 11.0, 2: 12.5}, "group": {0: 15.0, 1: 17.0, 8: 30.0}, "layer": {7: 15.0, 8: 17.0}}
    runs = [make_run(norm, seed) for norm in values for seed in values[norm]]
    for run in runs:
        norm, seed = run.name.split("_")
        score(run, {1: {"fid": values[norm][int(seed)]}})
    comparison = analyse(runs)
    paired, unpaired = (comparison.rows[norm, "fid/final"].flat() for norm in ("group", "layer"))
    assert (paired["pairing"], paired["n"], paired["difference_n"]) == ("by seed", 3, 2)
    assert unpaired["pairing"] == "none"
    assert paired["difference"] == 5.5 and unpaired["difference"] == pytest.approx(16 - 33.5 / 3)
    assert paired["percent"] == pytest.approx(100 * 5.5 / 10.5)  # of the baseline in the seeds that both have
    for line in (paired, unpaired):
        for name in ("difference", "percent"):
            assert line[f"{name}_low"] < line[name] < line[f"{name}_high"]


def test_the_terminals_columns_stand_under_their_headings(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [probe(0.8, 0.5)])
    score(run, {1: {"fid": 7.0, "inception_score": 4.0}})
    head, line = (text.split() for text in analyse([run]).to_text().splitlines() if text.endswith(("FID", "7.00")))
    assert head == ["seeds", "diverged", "pure", "mixed", "fall", "IS", "FID"]
    assert line == ["batch", "1", "0", "of", "1", "0.80", "0.50", "0.30", "4.00", "7.00"]


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


def test_runs_probed_at_other_steps_are_one_condition_and_a_remark_says_so(make_run: MakeRun) -> None:
    runs = [make_run("batch", 0, probe_every=1), make_run("batch", 1, probe_every=2), make_run("group", 0)]
    rewrite(runs[0], [probe(0.6, 0.5)] * 4)
    rewrite(runs[1], [{"loss_d": 1.0}, probe(0.8, 0.5)] * 2)
    comparison = analyse(runs)
    assert [len(c.runs) for c in comparison.conditions] == [2, 1]
    assert any(remark.startswith("probe_every is 1 or 2: a run's value is") for remark in comparison.remarks)
    (curve,) = [plot for plot in figures(comparison) if plot.name == "accuracy"]
    pure = [row[2:] for row in curve.data if row[:2] == ("batch", "pure")]
    assert pure == [(2, pytest.approx(0.7), 0.6, 0.8, 2), (4, pytest.approx(0.7), 0.6, 0.8, 2)]
    assert not any("probe_every" in remark for remark in analyse(runs[1:]).remarks)
    never = make_run("batch", 2, probe_every=0)  # there is no spacing
    assert not any("probe_every" in remark for remark in analyse([runs[0], never]).remarks)


def test_a_condition_whose_runs_all_diverged_is_no_baseline(make_run: MakeRun) -> None:
    comparison = analyse([make_run("batch", 0, status="diverged"), make_run("group", 0)])
    assert comparison.baseline == "group"
    assert mean(comparison, "divergence_rate") == 1


# -- the sentences ----------------------------------------------------------------------------------------------------


def test_a_rise_is_not_called_a_fall_and_images_judged_at_chance_are_said_to_be(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in (0, 1, 2)]
    for run in runs[:3]:
        rewrite(run, [probe(0.45 + 0.01 * run.config()["seed"], 0.96, swap_bitwise_equal=0.0, swap_max_change=0.3)])
    for run in runs[3:]:
        accuracy = 0.49 + 0.01 * run.config()["seed"]
        rewrite(run, [probe(accuracy, accuracy, swap_bitwise_equal=1.0, swap_max_change=0.0)])
    batch, group, *_ = analyse(runs).findings
    assert "0.46 in pure batches, 0.96 when the same images are mixed, a rise of 0.50 (0.48 to 0.52)" in batch
    assert "judges images: accuracy 0.50 in pure batches, not shown to be above chance, the same when" in group


@pytest.mark.parametrize("level", [0.3, 0.48, 0.5])
def test_a_discriminator_at_chance_judges_no_batches(make_run: MakeRun, level: float) -> None:
    """Half of what lay above chance is nothing where nothing lay above it, and any fall would be enough."""
    runs = [make_run("batch", seed) for seed in range(3)]
    for seed, run in enumerate(runs):
        rewrite(run, [probe(level, level - 0.02 - 0.001 * seed, swap_bitwise_equal=0.0)])
    assert verdict(analyse(runs).rows, "batch") == DEPENDS


def test_a_finding_counts_the_seeds_that_were_probed(make_run: MakeRun) -> None:
    runs = [make_run("group", seed) for seed in range(3)]
    (told, *_) = analyse(runs).findings
    assert told.startswith("GroupNorm (3 seeds) judges images")
    for run in runs[1:]:
        rewrite(run, [{"loss_d": 1.0}])
    (told, *_) = analyse(runs).findings
    assert told.startswith("GroupNorm (1 of 3 seeds) judges images")
    rewrite(runs[1], [probe(0.7, 0.7)])  # without a swap, by which images are judged
    (told, *_) = analyse(runs).findings
    assert told.startswith("GroupNorm (1 of 3 seeds) judges images")


def test_falls_that_cancel_are_not_called_the_same(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run, fall in zip(runs, (-0.125, 0.0, 0.125), strict=True):
        rewrite(run, [probe(0.75, 0.75 - fall, swap_bitwise_equal=0.0, swap_max_change=0.3)])
    (told,) = [f for f in analyse(runs).findings if f.startswith("BatchNorm")]
    assert "the same when" not in told
    assert "0.75 in pure batches, 0.75 when the same images are mixed, a fall of 0 (−0.31 to 0.31): no diff" in told


def test_many_conditions_of_one_seed_are_said_to_have_no_interval(make_run: MakeRun) -> None:
    runs = [make_run(norm, 0) for norm in ("batch", "group", "layer", "instance", "none", "frn")]
    for run in runs:
        score(run, {1: {"fid": 3.0 + len(run.name)}})
    (told,) = [f for f in analyse(runs).findings if f.startswith("FID")]
    assert ": no interval from one seed with GroupNorm, LayerNorm, InstanceNorm and 2 more." in told


def test_an_effect_of_the_shared_seeds_alone_says_so(make_run: MakeRun) -> None:
    """The means beside it are over all seeds, and may lie the other way round."""
    values = {"batch": {0: 10.0, 1: 11.0, 2: 60.0, 3: 62.0}, "group": {0: 11.0, 1: 12.001, 8: 20.0, 9: 21.0}}
    runs = [make_run(norm, seed) for norm in values for seed in values[norm]]
    for run in runs:
        norm, seed = run.name.split("_")
        score(run, {1: {"fid": values[norm][int(seed)]}})
    (told,) = [f for f in analyse(runs).findings if f.startswith("FID")]
    assert told.endswith("worse (2 paired seeds of 6).")


def test_names_are_counted_where_they_are_many_or_long() -> None:
    def conditions(titles: Sequence[str]) -> list[Condition]:
        return [Condition(title, title, ["loss"], {"loss": title}, [], []) for title in titles]

    few, long = conditions("abcde"), conditions([f"the loss of the paper by {who} and others" for who in "abcde"])
    assert [names(few[:n], few) for n in (1, 2, 4)] == ["a", "a and b", "a, b, c and d"]
    assert names(few, [*few, *long]) == "a, b, c and 2 more"
    assert names(long[:2], long) == f"{long[0].title} and {long[1].title}"
    assert names(long[:4], long) == f"{long[0].title}, {long[1].title} and 2 more"


def test_the_terminal_tells_the_first_findings_and_counts_the_rest(compared: tuple[Comparison, Path]) -> None:
    comparison = replace(compared[0], findings=[f"finding {n}." for n in range(10)])
    text = comparison.to_text()
    assert "  finding 7.\n  2 more in the report\n\n" in text and "finding 8." not in text
    assert "more in the report" not in compared[0].to_text()


def test_the_known_finding_is_found(compared: tuple[Comparison, Path]) -> None:
    comparison, _ = compared
    assert [verdict(comparison.rows, label) for label in ("batch", "group")] == [JUDGES_BATCHES, JUDGES_IMAGES]
    assert comparison.headline.startswith("With BatchNorm the discriminator judges batches: accuracy 0.8")
    assert "with GroupNorm it judges images" in comparison.headline
    assert any("GroupNorm" in f and "better (3 paired seeds)" in f for f in comparison.findings)


def test_a_contradicting_study_gets_the_contradicting_sentence(make_run: MakeRun) -> None:
    """The names are swapped and nothing else: the sentence must follow the numbers."""
    fair = probe(0.7, 0.7, swap_bitwise_equal=1.0, swap_max_change=0.0)
    unfair = [probe(p, 0.5, swap_bitwise_equal=0.0, swap_max_change=0.3) for p in (0.80, 0.82, 0.84)]
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    for run in runs:
        seed = run.config()["seed"]
        rewrite(run, [fair if "batch" in run.name else unfair[seed]])
    assert analyse(runs).headline == (
        "With GroupNorm the discriminator judges batches: accuracy 0.82 in pure batches, 0.50 in mixed ones; "
        "with BatchNorm it judges images: accuracy 0.70 in pure and mixed batches alike."
    )


@pytest.mark.parametrize(
    ("falls", "bitwise", "expected"),
    [
        ([0.30, 0.32, 0.34], 0.0, JUDGES_BATCHES),
        ([0.30, 0.32, 0.34], None, JUDGES_BATCHES),
        ([-0.30, -0.32, -0.34], 0.0, DEPENDS),  # dependent, and better in mixed batches
        ([0.140, 0.145, 0.149], 0.0, DEPENDS),  # less than half of the 0.3 above chance
        ([0.151, 0.155, 0.159], 0.0, JUDGES_BATCHES),  # more than half
        ([0.30, -0.32, 0.04], 0.0, DEPENDS),
        ([0.30, -0.32, 0.04], None, OPEN),
        ([0.30], 0.0, DEPENDS),  # one seed: no interval, and so no claim about accuracy
        ([0.30], None, OPEN),
        ([0.0, 0.0, 0.0], 1.0, JUDGES_IMAGES),
        ([0.0, 0.0, 0.0], 0.0, DEPENDS),
        ([None, None, None], None, UNPROBED),
    ],
)
def test_verdict(make_run: MakeRun, falls: list[float | None], bitwise: float | None, expected: str) -> None:
    runs = [make_run("batch", seed) for seed in range(len(falls))]
    for run, fall in zip(runs, falls, strict=True):
        swap = {} if bitwise is None else {"swap_bitwise_equal": bitwise}
        rewrite(run, [{"loss_d": 1.0} if fall is None else probe(0.8, 0.8 - fall, **swap)])
    comparison = analyse(runs)
    assert verdict(comparison.rows, "batch") == expected
    assert expected == UNPROBED or expected in comparison.headline


def test_no_difference_shown_is_said_where_the_interval_holds_zero(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    noise = np.random.default_rng(0)
    for run in runs:
        (run.path / "scores.json").unlink()
        run.add_scores({"step": 1, "fid": 10 + noise.normal(), "protocol": {}})
    (sentence,) = [f for f in analyse(runs).findings if f.startswith("FID")]
    assert sentence.endswith("no difference shown (3 paired seeds).")


def test_lower_fid_is_better_and_lower_inception_score_is_worse(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
        value = 5 + 0.01 * run.config()["seed"] - ("group" in run.name)
        run.add_scores({"step": 1, "fid": value, "inception_score": value, "protocol": {}})
    inception, fid = analyse(runs).findings[-2:]
    assert "worse (3 paired seeds)" in inception and "better (3 paired seeds)" in fid


# -- what is left out, and errors -------------------------------------------------------------------------------------


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


def test_gans_and_classifiers_are_compared_apart(make_run: MakeRun, make_classifier: MakeRun) -> None:
    runs = [make_run("batch", 0), make_run("batch", 1, status="diverged"), make_classifier("batch", 0, [0.9])]
    with pytest.raises(UserError, match=r"of one task: got 2 GANs and 1 classifier; compare them apart\.$"):
        analyse(runs)


def test_classifiers_are_not_compared_by_mode(make_classifier: MakeRun) -> None:
    with pytest.raises(UserError, match="a generator's: got classifiers; compare them without --by_mode"):
        analyse([make_classifier("batch", 0, [0.5])], by_mode=True)


def test_a_page_of_somebody_else_is_not_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("batch", 0)
    for name in ("index.html", "why.html"):
        output = tmp_path / name.removesuffix(".html")
        output.mkdir()
        (output / name).write_text("<title>My thesis</title>")
        with pytest.raises(UserError, match=rf"replaces nothing but a report: .*{name} is another page; choose"):
            compare([run], output)
        assert [file.name for file in output.iterdir()] == [name]
        assert (output / name).read_text() == "<title>My thesis</title>"


def test_a_folder_that_cannot_be_looked_into_is_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the output must be writable: .*: File name too long"):
        compare([make_run("batch", 0)], tmp_path / ("a" * 300))


def test_probes_of_no_number_of_steps_do_not_end_a_comparison(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run, every in zip(runs, (2, "often", [1]), strict=True):
        run.config_file.write_text(json.dumps({**run.config(), "probe_every": every}))  # which is YAML too
    assert len(analyse(runs).conditions[0].runs) == 3


def test_a_report_replaces_a_report_of_any_age(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("batch", 0)
    (tmp_path / "index.html").write_text("<title>Images or batches? A gannorm comparison</title>")  # without generator
    (tmp_path / "why.html").write_text("<title>Why? A gannorm comparison</title>")
    compare([run], tmp_path)
    first = (tmp_path / "index.html").read_text()
    assert '<meta name="generator" content="gannorm ' in first
    compare([run], tmp_path)
    assert (tmp_path / "index.html").read_text() == first
    assert not (tmp_path / "why.html").exists()
    (tmp_path / "index.html").write_bytes(first.encode() + b"\xff")  # damaged
    compare([run], tmp_path)
    assert (tmp_path / "index.html").read_text() == first


def test_figures_of_the_report_before_go_and_other_files_stay(make_run: MakeRun, tmp_path: Path) -> None:
    probed, bare = make_run("batch", 0), make_run("group", 0)
    shutil.rmtree(bare.path / "probes")
    compare([probed], tmp_path)
    first = set(linked_figures(tmp_path))
    assert first == {file for file in (tmp_path / "figures").iterdir()}
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    compare([bare], tmp_path)
    assert set((tmp_path / "figures").iterdir()) == {*linked_figures(tmp_path), tmp_path / "figures" / "mine.png"}
    assert tmp_path / "figures" / "coupling.png" in first - set(linked_figures(tmp_path))


def test_an_output_that_is_a_file_is_one_clear_line(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UserError, match="output must be writable"):
        compare([make_run("batch", 0)], tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"


def test_intervals_of_the_table_end_where_their_quantity_does(make_run: MakeRun) -> None:
    runs = []
    for norm, pure in (("batch", (0.01, 0.5)), ("group", (0.99, 0.6))):
        for seed in range(2):
            runs.append(make_run(norm, seed))
            rewrite(runs[-1], [probe(pure[seed], 0.5)])
    for condition, low, high in (("batch", 0, 1), ("group", 0, 1)):
        row = analyse(runs).row(condition, "train/accuracy_pure")
        assert row is not None and (row.estimate.low, row.estimate.high) == (low, high)
    assert row.effect is not None  # of two accuracies
    assert (row.effect.difference.low, row.effect.difference.high) == (-1, 1)


def test_what_was_measured_lies_within_the_limits_of_each_quantity() -> None:
    """On the committed results, which hold every kind of run: a wrong limit would cut an interval that is right."""
    limits = {quantity.name: quantity.limits for quantity in QUANTITIES} | {"divergence_rate": (0.0, 1.0)}
    tables = list((Path(__file__).parents[2] / "results").glob("*/table.csv"))
    assert len(tables) > 2
    for table in tables:
        with table.open() as file:
            for row in csv.DictReader(file):
                least, most = limits[row["quantity"]]
                assert least - 1e-9 <= float(row["mean"]) <= most + 1e-9, row  # an FID of 0, up to rounding
