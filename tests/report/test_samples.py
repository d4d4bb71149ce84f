"""Sample grids are shown by step, their images set apart; damaged ones are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.html_page import records
from support.run_directories import MakeRun

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.report.compare import compare
from gannorm.report.samples import GAP, SIDE, sample_strips, spaced


def test_damaged_pictures_and_arrays_are_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("batch", 0), make_run("group", 0)]
    for file in runs[0].probes().values():
        file.write_bytes(file.read_bytes()[:100])
    for file in runs[0].samples().values():
        file.write_text("<svg onload=alert(1)>")
    compare(runs, tmp_path / "report")
    source = (tmp_path / "report" / "index.html").read_text()
    assert "no grid at this step" in source
    assert {r["condition"] for r in records(tmp_path / "report/figures/coupling.csv")} == {"group"}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gaps_set_images_apart_and_change_no_pixel(mode: str) -> None:
    noise = np.random.default_rng(0)
    shape = (8 * 5, 8 * 7) if mode == "L" else (8 * 5, 8 * 7, 3)
    pixels = noise.integers(0, 256, shape, dtype=np.uint8)
    apart = np.asarray(spaced(Image.fromarray(pixels)))
    assert apart.shape[:2] == (40 + (SIDE - 1) * GAP, 56 + (SIDE - 1) * GAP)
    opaque = apart[..., -1] == 255
    rows, columns = opaque.any(1), opaque.any(0)
    kept = apart[rows][:, columns][..., :-1].squeeze()
    assert np.array_equal(kept, pixels)
    assert (~opaque).sum() == apart[..., 0].size - 40 * 56  # all else is transparent


def test_a_grid_of_another_shape_stays_as_it_is() -> None:
    picture = Image.fromarray(np.zeros((33, 40), dtype=np.uint8))
    assert spaced(picture).size == (40, 33)


def test_a_table_of_runs_has_no_samples(compared: tuple[Comparison, Path]) -> None:
    assert sample_strips(compared[0]) is not None
    assert sample_strips(analyse(compared[1] / "runs.csv")) is None
