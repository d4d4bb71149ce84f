"""The second page: it holds what the optimization probes recorded, and is there only where they did."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gannorm.rundir import RunDir
from gannorm.studies.compare import compare

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
            run.append_metrics(step, {f"why/discriminator/{key}": value for key, value in values.items()})
        moments = {f"why/discriminator/moments/{key}": np.array([1.0, 2.0, beta]) for key in ("means", "variances")}
        np.savez(run.probe_file(0), **moments)
        return run

    return make


def test_the_page_compares_the_normalizers_and_is_linked(measured: Callable[..., RunDir], tmp_path: Path) -> None:
    runs = [measured(norm, seed, beta) for norm, beta in (("batch", 3.0), ("none", 30.0)) for seed in range(3)]
    compare(runs, tmp_path / "report")
    page = (tmp_path / "report" / "why.html").read_text()
    assert 'href="why.html"' in (tmp_path / "report" / "index.html").read_text()
    assert 'href="index.html"' in page
    assert "more shift than with BatchNorm is shown for no other condition" in page
    assert "more roughness than with BatchNorm is shown for no normalizer" in page
    assert "effective β: BatchNorm 3.10 (2.85 to 3.35); no normalizer 30.1, higher (3 paired seeds)" in page
    for figure in ("why_covariate_shift", "why_landscape", "why_depth"):
        assert (tmp_path / "report" / "figures" / f"{figure}.png").exists()
    assert "why_noise" not in page  # nobody measured it
    with (tmp_path / "report" / "figures" / "why_landscape.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["quantity"] == "effective_beta" and r["step"] == "200"]
    assert {r["condition"]: (float(r["mean"]), float(r["lowest"]), r["n"]) for r in rows} == {
        "batch": (pytest.approx(3.1), 3.0, "3"),
        "none": (pytest.approx(30.1), 30.0, "3"),
    }
    with (tmp_path / "report" / "figures" / "why_depth.csv").open() as file:
        depth = [float(r["mean"]) for r in csv.DictReader(file) if r["condition"] == "none"]
    assert depth == [2.0, 6.0, 930.0]  # mean² + variance


def test_the_page_needs_nothing_from_outside_and_runs_no_script(
    measured: Callable[..., RunDir], tmp_path: Path
) -> None:
    hostile = "<script>alert(1)</script>"
    compare([measured("batch", 0, 1.0), measured(hostile, 0, 2.0, name="hostile")], tmp_path / "report")
    page = (tmp_path / "report" / "why.html").read_text()
    assert hostile not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "script-src" not in page and "default-src 'none'" in page
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)', page))
    assert not re.findall(r"https?://", page)


def test_skipped_and_failed_measurements_are_said(measured: Callable[..., RunDir], tmp_path: Path) -> None:
    run = measured("batch", 0, 1.0)
    run.append_metrics(300, {"why/skipped": 2, "why/failed": 3})
    compare([run], tmp_path / "report")
    page = (tmp_path / "report" / "why.html").read_text()
    assert "2 measurements did not fit into the time budget" in page
    assert "3 probes failed" in page


def test_without_such_measurements_there_is_no_page(
    measured: Callable[..., RunDir], make_run: MakeRun, tmp_path: Path
) -> None:
    output = tmp_path / "report"
    compare([measured("batch", 0, 1.0)], output)
    assert (output / "why.html").exists()
    compare([make_run("group", 0)], output)
    assert not (output / "why.html").exists()  # that of other runs
    assert "why.html" not in (output / "index.html").read_text()


def test_damaged_arrays_cost_a_figure_and_not_the_report(measured: Callable[..., RunDir], tmp_path: Path) -> None:
    run = measured("batch", 0, 1.0)
    run.probe_file(0).write_bytes(b"PK\x03\x04 cut")
    compare([run], tmp_path / "report")
    page = (tmp_path / "report" / "why.html").read_text()
    assert "why_landscape" in page and "why_depth" not in page
