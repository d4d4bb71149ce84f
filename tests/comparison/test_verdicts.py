"""The verdict of a condition is the rule of `gannorm.verdict` on its runs' values, wherever these are read from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_directories import dependence, probe, rewrite

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.comparison.verdicts import UNPROBED, evidence, share_of_others
from gannorm.rundir import RunDir
from gannorm.verdict import Evidence, over_runs

MakeRun = Callable[..., RunDir]
PAIRS = "it ranks a real image placed among fakes above a fake placed among real images in {} of 100 pairs"


def record(coupled: bool, pure: float, mixed: float, conflict: float, **more: float) -> dict[str, float]:
    values = dependence(coupled, pure, mixed, conflict) | more
    return {f"batch_dependence/train/{name}": value for name, value in values.items()}


def test_the_known_finding_is_made(compared: tuple[Comparison, Path]) -> None:
    comparison, _ = compared
    assert {label: v.kind for label, v in comparison.verdicts.items()} == {
        "batch": "judges batches",
        "group": "judges images",
    }


@pytest.mark.parametrize(
    ("curve", "kind"),
    [
        ((True, 0.95, 0.50, 0.10), "judges batches"),
        ((True, 0.95, 0.85, 0.70), "judges both"),
        ((True, 0.90, 0.90, 0.90), "judges images"),
        ((True, 0.50, 0.90, 0.60), "judges by contrast"),
        ((True, 0.50, 0.50, 0.50), "undecided"),
        ((False, 0.80, 0.80, 0.80), "judges images"),
        ((False, 0.20, 0.20, 0.20), "undecided"),  # the wrong way round
    ],
)
def test_the_comparison_says_of_the_same_numbers_what_the_probe_says(
    make_run: MakeRun, curve: tuple[bool, float, float, float], kind: str
) -> None:
    runs = [make_run("batch", seed) for seed in range(3)]
    for run in runs:
        rewrite(run, [record(*curve)] * 6)
    direct = Evidence.from_metrics(dependence(*curve))
    assert direct is not None
    verdict = analyse(runs).verdicts["batch"]
    assert verdict == over_runs([direct] * 3) and verdict.kind == kind


def test_a_contradicting_study_gets_the_contradicting_verdicts(make_run: MakeRun) -> None:
    """The names are swapped and nothing else: the words must follow the numbers."""
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    for run in runs:
        numbers = (False, 0.7, 0.7, 0.7) if "batch" in run.name else (True, 0.9, 0.4, 0.1)
        rewrite(run, [record(*numbers)])
    comparison = analyse(runs)
    assert comparison.headline == (
        f"With GroupNorm, the discriminator judges batches: {PAIRS.format(10)}, where guessing gives 50. "
        f"With BatchNorm, it judges images: {PAIRS.format(70)}, as in any other batch."
    )


def test_a_network_that_was_dead_at_the_end_judges_nothing(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [record(True, 0.9, 0.4, 0.1)] * 5 + [record(True, 0.5, 0.5, 0.5, constant=1.0)])
    verdict = analyse([run]).verdicts["batch"]
    assert verdict.kind == "undecided" and "dead" in verdict.reason


def test_without_the_conflict_end_the_verdict_is_undecided_and_says_so(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    rewrite(run, [{"probe/train/auc_pure": 0.9, "probe/train/auc_mixed": 0.4, "probe/train/swap_bitwise_equal": 0.0}])
    comparison = analyse([run])
    assert str(comparison.verdicts["batch"]) == "undecided: the conflict end was not measured"
    assert [point.share for point in comparison.curves["batch"]] == [1.0, 0.5]


def test_a_run_of_version_1_compares(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "run_v1", tmp_path / "run")
    run = RunDir(tmp_path / "run")
    run.set_status("finished", 4)  # it was stopped; what is read are its other files
    comparison = analyse([run])
    (condition,) = comparison.conditions
    assert str(comparison.verdicts[condition.label]) == "undecided: the conflict end was not measured"
    gap = comparison.row(condition.label, "batch_dependence/train/accuracy_gap")
    assert gap is not None
    assert comparison.row(condition.label, "batch_dependence/generator/coupling_ratio") is not None
    assert "undecided: the conflict end was not measured" in comparison.headline


def test_runs_without_a_probe_are_counted(make_run: MakeRun) -> None:
    runs = [make_run("group", seed) for seed in range(3)]
    rewrite(runs[1], [{"loss/d": 1.0}])
    assert analyse(runs).verdicts["group"].reason.endswith("(2 of 3 runs were probed)")
    for run in runs:
        rewrite(run, [{"loss/d": 1.0}])
    comparison = analyse(runs)
    assert comparison.verdicts["group"].reason == UNPROBED
    assert comparison.curves == {}
    assert comparison.headline.startswith("Inception score") or "nothing is known" in comparison.headline


def test_evidence_is_that_of_the_last_probes(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    early, late = record(True, 0.5, 0.5, 0.5), record(True, 0.9, 0.4, 0.1)
    rewrite(run, [early] * 10 + [late] * 5)
    (read,) = analyse([run]).conditions[0].runs
    whole = evidence(read)
    assert whole is not None and whole.curve[1.0].mean == pytest.approx(0.9)


def test_the_axis_of_the_curve_compares_batch_sizes(make_run: MakeRun) -> None:
    """k own images of N leave k − 1 of the own class among the N − 1 others: of one own image, none."""
    assert [share_of_others(s, 64) for s in (1, 0.5, 1 / 16)] == [1, 31 / 63, 3 / 63]
    assert [share_of_others(1 / 16, n) for n in (8, 16, 32)] == [0, 0, 1 / 31]
    rewrite(run := make_run("batch", 0), [probe(0.9, 0.5, auc_pure=0.9, auc_mixed=0.5, auc_conflict=0.1)])
    points = analyse([run]).curves["batch"]  # a probe that does not say its batch size: the training's
    assert [point.others for point in points] == [1, 31 / 63, 3 / 63]


def test_one_own_image_is_the_last_point_where_every_run_measured_it(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(2)]
    for run, alone in zip(runs, (0.02, 0.04), strict=True):
        rewrite(run, [record(True, 0.9, 0.5, 0.1, auc_one_own=alone)])
    *_, conflict, last = analyse(runs).curves["batch"]
    assert (last.share, last.others, last.lowest, last.highest) == (1 / 64, 0, 0.02, 0.04)
    assert last.auc.mean == pytest.approx(0.03) and conflict.share == 1 / 16
    rewrite(runs[1], [record(True, 0.9, 0.5, 0.1)])
    assert analyse(runs).curves["batch"][-1].share == 1 / 16
    rewrite(run, [record(True, 0.9, 0.5, 0.1, auc_one_own=0.1, batch_size=16)])  # there it is the conflict end
    assert [point.others for point in analyse([run]).curves["batch"]][-1] == 0
    assert analyse([run]).curves["batch"][-1].share == 1 / 16
