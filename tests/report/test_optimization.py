"""The second page: it holds what the optimization probes recorded, and is there only where they did."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gannorm.report.about import about
from gannorm.report.compare import analyse, compare
from gannorm.report.optimization import page, write
from gannorm.report.optimization_figures import figures
from gannorm.report.report import page as index
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


@pytest.fixture
def measured(make_run: MakeRun) -> Callable[..., RunDir]:
    """measured(norm, seed, beta) writes a run whose discriminator's effective β is `beta` and whose shift is none."""

    def make(norm: str, seed: int, beta: float, **more: object) -> RunDir:
        run = make_run(norm, seed, **more)
        for step in (0, 100, 200):
            values = {
                "covariate_shift_cosine": 0.5,
                "loss_low": 0.9,
                "loss_high": 1.1 + 0.01 * seed,
                "loss_band": 0.2 + 0.01 * seed,
                "predictiveness_low": 0.1,
                "predictiveness_high": beta / 2,
                "effective_beta": beta + 0.1 * seed,
            }
            run.append_metrics(step, {f"optimization/discriminator/{key}": value for key, value in values.items()})
        moments = {
            f"optimization/discriminator/moments/{key}": np.array([1.0, 2.0, beta]) for key in ("means", "variances")
        }
        np.savez(run.probe_file(0), **moments)
        return run

    return make


def test_the_page_compares_the_normalizers_and_is_linked(measured: Callable[..., RunDir], tmp_path: Path) -> None:
    runs = [measured(norm, seed, beta) for norm, beta in (("batch", 3.0), ("none", 30.0)) for seed in range(3)]
    compare(runs, tmp_path / "report")
    text = (tmp_path / "report" / "optimization.html").read_text()
    assert 'href="optimization.html"' in (tmp_path / "report" / "index.html").read_text()
    assert 'href="index.html"' in text
    headline = "The discriminator against BatchNorm: no difference in covariate shift shown; more roughness with no "
    assert f"<h1>{headline}normalizer.</h1>" in text
    assert "effective β: BatchNorm 3.10 (2.85 to 3.35); no normalizer 30.1, higher (3 paired seeds)" in text
    for figure in ("optimization_covariate_shift", "optimization_landscape", "optimization_depth"):
        assert (tmp_path / "report" / "figures" / f"{figure}.png").exists()
    assert "optimization_noise" not in text  # nobody measured it
    with (tmp_path / "report" / "figures" / "optimization_landscape.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["quantity"] == "effective_beta" and r["step"] == "200"]
    assert {r["condition"]: (float(r["mean"]), float(r["lowest"]), r["n"]) for r in rows} == {
        "batch": (pytest.approx(3.1), 3.0, "3"),
        "none": (pytest.approx(30.1), 30.0, "3"),
    }
    with (tmp_path / "report" / "figures" / "optimization_depth.csv").open() as file:
        depth = [float(r["mean"]) for r in csv.DictReader(file) if r["condition"] == "none"]
    assert depth == [2.0, 6.0, 930.0]  # mean² + variance


def test_what_a_step_changes_and_the_shape_of_the_inputs_have_figures_and_rows(
    measured: Callable[..., RunDir], tmp_path: Path
) -> None:
    values = {
        "gradient_consistency": 0.75,
        "sign_changes": 0.125,
        "radial": 0.0625,
        "unit_variance_ratio": -0.25,
        "input_skewness": 1.5,
        "input_kurtosis": 3.25,
        "saturated": 0.375,
    }
    runs = [measured(norm, seed, 3.0) for norm in ("batch", "none") for seed in range(2)]
    for run in runs:
        run.append_metrics(200, {f"optimization/discriminator/{key}": value for key, value in values.items()})
    compare(runs, tmp_path / "report")
    text = (tmp_path / "report" / "optimization.html").read_text()
    for title in ("What a step changes", "The shape of the layers", "Share of weights that change sign in a step"):
        assert title in text
    rows: dict[str, str] = {}
    for figure in ("step", "gradients", "shape"):
        with (tmp_path / "report" / "figures" / f"optimization_{figure}.csv").open() as file:
            rows |= {r["quantity"]: r["mean"] for r in csv.DictReader(file) if r["condition"] == "batch"}
    assert {key: float(rows[key]) for key in values} == values
    without = page_of(measured("group", 0, 1.0))
    assert "optimization_shape" not in without and "optimization_step" not in without  # nobody measured them


def test_the_headline_counts_conditions_that_are_many(measured: Callable[..., RunDir]) -> None:
    rough = [measured("none", seed, 30.0, name=f"r{n}_{seed}", probe_images=n) for n in range(6) for seed in range(2)]
    text = page(analyse([*(measured("batch", seed, 3.0) for seed in range(2)), *rough]), [])
    assert re.search("more roughness with .* and 3 more\\.", text)


def test_the_page_needs_nothing_from_outside_and_runs_no_script(measured: Callable[..., RunDir]) -> None:
    hostile = "<script>alert(1)</script>"
    text = page_of(measured("batch", 0, 1.0), measured(hostile, 0, 2.0, name="hostile"))
    assert hostile not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in text
    assert "script-src" not in text and "default-src 'none'" in text
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)', text))
    assert not re.findall(r"https?://", text)


def test_skipped_and_failed_measurements_are_said(measured: Callable[..., RunDir]) -> None:
    run = measured("batch", 0, 1.0)
    run.append_metrics(300, {"optimization/skipped": 2, "optimization/failed": 3})
    text = page_of(run)
    assert "2 measurements did not fit into the time budget" in text
    assert "3 probes failed" in text
    assert "with BatchNorm; there is no other condition yet" in text
    assert "Accuracy on held-out images" not in text
    run.append_metrics(400, {"test/accuracy": 0.75})
    assert "Accuracy on held-out images: BatchNorm 0.75." in page_of(run)


def test_conditions_that_are_not_drawn_are_said(measured: Callable[..., RunDir]) -> None:
    runs = [measured("batch", 0, 1.0, name=f"run_{steps}", steps=steps) for steps in range(9)]
    assert "sentences show the first 8 conditions; the table shows all." in page(analyse(runs), [])
    assert "the table shows all" not in page(analyse(runs[:8]), [])


def test_without_such_measurements_there_is_no_page(
    measured: Callable[..., RunDir], make_run: MakeRun, tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    comparison = analyse([measured("batch", 0, 1.0)])
    write(comparison, tmp_path, about(comparison))
    assert (tmp_path / "optimization.html").exists()
    unmeasured = analyse([make_run("group", 0)])
    write(unmeasured, tmp_path, about(unmeasured))
    assert not (tmp_path / "optimization.html").exists()  # that of other runs
    assert 'href="optimization.html"' not in index(unmeasured, [])


def test_damaged_arrays_cost_a_figure_and_not_the_report(measured: Callable[..., RunDir]) -> None:
    run = measured("batch", 0, 1.0)
    run.probe_file(0).write_bytes(b"PK\x03\x04 cut")
    text = page_of(run)
    assert "optimization_landscape" in text and "optimization_depth" not in text


def page_of(*runs: RunDir) -> str:
    comparison = analyse(runs)
    return page(comparison, list(figures(comparison)))
