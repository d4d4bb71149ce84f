"""Crossed factors: planted effects come back as cells, changes and interactions, with the paired test's intervals."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gannorm.comparison.crossed import Line
from gannorm.report.compare import Comparison, analyse, compare
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]
BASELINE = "norm=batch, d_composition=separate, g_composition=fake"


def fid(norm: str, d: str, g: str, seed: int) -> float:
    """10, plus 1 for a joint D with BatchNorm alone, plus 0.5 for a joint G, plus what the seed gives to all."""
    interaction = norm == "batch" and d == "joint"
    noise = np.random.default_rng([seed, len(norm + d + g), norm == "batch", d == "joint"]).normal(0, 0.01)
    return 10 + interaction + 0.5 * (g == "joint") + seed + float(noise)


def grid(
    make_run: MakeRun, fid: Callable[..., float] = fid, g_steps: Sequence[str] = ("fake", "joint")
) -> list[RunDir]:
    runs = []
    for norm in ("batch", "group"):
        for d in ("joint", "separate"):
            for g in g_steps:
                for seed in range(3):
                    name = f"{norm}_{d}_{g}_{seed}"
                    model: dict[str, Any] = {"discriminator": {"norm": norm}, "d_composition": d, "g_composition": g}
                    run = make_run(norm, seed, name=name, model=model)
                    (run.path / "scores.json").unlink()
                    run.add_scores({"step": 1, "fid": fid(norm, d, g, seed), "protocol": {}})
                    runs.append(run)
    return runs


def line(comparison: Comparison, quantity: str, title: str) -> Line:
    (only,) = [entry for entry in comparison.crossed if (entry.quantity, entry.title) == (quantity, title)]
    return only


def test_a_change_is_paired_by_seed_at_its_setting_and_its_difference_is_the_interaction(make_run: MakeRun) -> None:
    comparison = analyse(grid(make_run), baseline=BASELINE)
    change = line(comparison, "fid/final", "D joint instead of D separate, G joint")
    expected = {
        norm: [fid(norm, "joint", "joint", s) - fid(norm, "separate", "joint", s) for s in range(3)]
        for norm in ("batch", "group")
    }
    for norm, title in (("batch", "BatchNorm"), ("group", "GroupNorm")):
        low, high = stats.t.interval(0.95, 2, loc=np.mean(expected[norm]), scale=stats.sem(expected[norm]))
        cell = change.cells[title]
        assert (cell.mean, cell.low, cell.high) == pytest.approx((np.mean(expected[norm]), low, high))  # float64 sums
    interaction = change.differences["GroupNorm"]
    assert interaction.paired and interaction.difference.n == 3
    assert interaction.difference.mean == pytest.approx(np.mean(expected["group"]) - np.mean(expected["batch"]))
    assert interaction.verdict == "lower"  # the planted one
    other = line(comparison, "fid/final", "G joint instead of G fake, D joint").cells["GroupNorm"]
    assert other.mean == pytest.approx(0.5, abs=0.05)  # planted; the noise has a deviation of 0.01


def test_lines_start_at_the_baseline_and_cells_are_the_conditions(make_run: MakeRun) -> None:
    comparison = analyse(grid(make_run), baseline=BASELINE)
    fids = [entry for entry in comparison.crossed if entry.quantity == "fid/final"]
    assert [entry.title for entry in fids] == [
        "D separate, G fake",
        "D separate, G joint",
        "D joint, G fake",
        "D joint, G joint",
        "D joint instead of D separate, G fake",
        "D joint instead of D separate, G joint",
        "G joint instead of G fake, D separate",
        "G joint instead of G fake, D joint",
    ]
    row = comparison.row("norm=group, d_composition=joint, g_composition=fake", "fid/final")
    assert row is not None and fids[2].cells["GroupNorm"] == row.estimate
    assert [c.label for c in comparison.conditions][:2] == [BASELINE, BASELINE.replace("fake", "joint")]


def test_a_change_that_helps_at_one_setting_and_harms_at_another_does_not_read_as_none(make_run: MakeRun) -> None:
    def reversing(norm: str, d: str, g: str, seed: int) -> float:
        return fid("group", d, "fake", seed) + 2 * (norm == "batch" and (d == "joint") != (g == "joint"))

    comparison = analyse(grid(make_run, reversing), baseline=BASELINE)
    for setting, change in (("G fake", 2), ("G joint", -2)):
        entry = line(comparison, "fid/final", f"D joint instead of D separate, {setting}")
        assert entry.cells["BatchNorm"].mean == pytest.approx(change, abs=0.05)  # the noise has a deviation of 0.01
        assert entry.cells["BatchNorm"].excludes_zero and not entry.cells["GroupNorm"].excludes_zero
        assert entry.differences["GroupNorm"].difference.excludes_zero


def test_numbers_are_in_order_of_size_wherever_the_baseline_is(make_run: MakeRun) -> None:
    runs = [
        make_run(norm, seed, name=f"{norm}_{size}_{seed}", data={"batch_size": size})
        for norm in ("batch", "group")
        for size in (128, 16, 8)
        for seed in (0, 1)
    ]
    comparison = analyse(runs, baseline="norm=batch, batch_size=128")
    titles = [entry.title for entry in comparison.crossed if entry.quantity == "fid/final"]
    assert titles[:3] == ["batch size 8", "batch size 16", "batch size 128"]
    assert titles[3:] == ["batch size 8 instead of batch size 128", "batch size 16 instead of batch size 128"]


@pytest.mark.parametrize("norms", [("batch", "group", "layer"), ("layer", "group", "batch")])
def test_the_page_compares_with_the_baseline_where_its_cell_is_missing(
    make_run: MakeRun, norms: Sequence[str], tmp_path: Path
) -> None:
    """A difference stands under the two levels that it is of, whichever of them was measured first."""
    runs = []
    for norm, d, seed in itertools.product(norms, ("separate", "joint"), range(3)):
        model = {"discriminator": {"norm": norm}, "d_composition": d}
        runs.append(run := make_run(norm, seed, name=f"{norm}_{d}_{seed}", model=model))
        for file in ("scores.json", "metrics.jsonl"):
            (run.path / file).unlink()
        if (norm, d) != ("batch", "separate"):
            run.add_scores({"step": 1, "fid": fid(norm, d, "fake", seed), "protocol": {}})
    comparison = compare(runs, tmp_path / "report", baseline="norm=batch, d_composition=separate")
    assert list(line(comparison, "fid/final", "D separate").cells) == [
        {"group": "GroupNorm", "layer": "LayerNorm"}[norm] for norm in norms if norm != "batch"
    ]
    source = (tmp_path / "report/index.html").read_text()
    (table,) = re.findall("<table><caption>At every setting.*?</table>", source, re.DOTALL)
    minus = [cell.split(" minus ") for cell in re.findall('<th scope="col">([^<]*)', table) if " minus " in cell]
    assert [baseline for _, baseline in minus] == ["BatchNorm"] * 2
    joint = line(comparison, "fid/final", "D joint")
    row = next(row for row in table.split("<tr>") if "FID <small>D joint<" in row)
    values = [float(value) for value in re.findall('value="([^"]*)"', row)]
    expected = [joint.cells[level].mean - joint.cells["BatchNorm"].mean for level, _ in minus]
    assert values[-2:] == pytest.approx(expected, rel=1e-9)  # mean of differences and difference of means: rounding


def test_numeric_columns_compare_with_the_baseline_and_not_with_the_smallest(make_run: MakeRun) -> None:
    runs = []
    for rate, seen, seed in itertools.product((1, 2), (8, 16), range(3)):
        model = {"discriminator": {"norm": "batch"}, "a": {"rate": rate}, "seen": seen}
        runs.append(run := make_run("batch", seed, name=f"{rate}_{seen}_{seed}", model=model))
        (run.path / "scores.json").unlink()
        value = 10 + rate * seen + seed + 0.01 * seed * rate * seen
        run.add_scores({"step": 1, "fid": value, "protocol": {}})
    comparison = analyse(runs, baseline="rate=2, seen=16")
    assert {entry.baseline for entry in comparison.crossed} == {"seen 16"}
    assert all(entry.differences.keys() == {"seen 8"} for entry in comparison.crossed)


def test_a_grid_with_a_hole_and_a_single_factor_have_no_table(make_run: MakeRun) -> None:
    runs = grid(make_run)
    assert analyse(runs[3:]).crossed == []
    assert analyse([run for run in runs if "separate_fake" in run.name]).crossed == []
    for run in runs[:3]:
        run.set_status("diverged", 1)  # as much a hole
    assert analyse(runs).crossed == []


def test_one_seed_shows_neither_a_difference_nor_none(make_run: MakeRun) -> None:
    comparison = analyse(grid(make_run)[::3], baseline=BASELINE)
    entry = line(comparison, "fid/final", "D joint instead of D separate, G fake")
    assert entry.cells["BatchNorm"].low is None
    assert entry.differences["GroupNorm"].verdict == "no interval from one seed"


def test_of_crossed_factors_the_table_speaks_and_no_sentence(make_run: MakeRun, tmp_path: Path) -> None:
    comparison = compare(grid(make_run), tmp_path / "report", baseline=BASELINE, question="Does the habit matter?")
    assert comparison.headline == "" and comparison.findings == []
    assert comparison.to_text().startswith("Does the discriminator judge images, or batches?\n")
    assert "<h1>Does the habit matter?</h1>" in (tmp_path / "report/index.html").read_text()


def test_the_page_and_the_csv_hold_every_line(make_run: MakeRun, tmp_path: Path) -> None:
    comparison = compare(grid(make_run, g_steps=["fake"]), tmp_path / "report")
    source = (tmp_path / "report/index.html").read_text()
    assert 'id="factors"' in source and 'class="plot crossed"' in source
    with (tmp_path / "report/figures/crossed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(entry.cells) for entry in comparison.crossed)
    for row in rows:
        entry = line(comparison, row["quantity"], ", ".join(filter(None, (row["change"], row["setting"]))))
        assert float(row["mean"]) == entry.cells[row["column"]].mean
        assert f'value="{entry.cells[row["column"]].mean!r}"' in source
        if row["difference"]:
            assert f'value="{entry.differences[row["column"]].difference.mean!r}"' in source
