"""Every figure is in the page, in its order, and a file with its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from support.html_page import Page, records
from support.run_directories import MakeRun

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.report.figures import figures
from gannorm.report.report import page as page_of

FIGURES = (
    "composition_curve",
    "auc_over_training",
    "accuracy",
    "coupling",
    "scores",
    "conflict_against_score",
)
TRAIN = "batch_dependence/train/"


def test_every_figure_is_in_the_page_and_a_file_with_its_data(compared: tuple[Comparison, Path]) -> None:
    _, output = compared
    page = Page((output / "index.html").read_text())
    for name in FIGURES:
        assert f'class="plot {name}"' in page.source
        with Image.open(output / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5  # grey levels; a blank figure has 0
        lines = records(output / "figures" / f"{name}.csv")
        assert lines and all(None not in line and None not in line.values() for line in lines)  # no ragged line
    curve = records(output / "figures" / "composition_curve.csv")
    pure = compared[0].row("batch", TRAIN + "auc_pure")
    assert pure is not None and float(curve[0]["mean"]) == pure.estimate.mean
    assert [float(line["share_of_others"]) for line in curve[:5]] == [1, 47 / 63, 31 / 63, 15 / 63, 3 / 63]
    assert page.source.index('class="plot composition_curve"') < page.source.index("<table>")  # it opens the page


def test_the_page_says_what_its_figures_leave_out(make_run: MakeRun) -> None:
    runs = [make_run("group", 0, name=f"g{size}", data={"batch_size": size}) for size in range(20)]
    comparison = analyse(runs)
    first = next(iter(figures(comparison)))
    assert first.name == "composition_curve" and len({row[0] for row in first.data}) == 8
    assert "Of 20 conditions the figures show 8; the tables show all." in page_of(comparison, [first])
