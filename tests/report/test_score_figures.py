"""Scores are drawn over training up to where a run has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support.run_directories import MakeRun

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.report.figures import figures


def test_generators_that_all_end_without_images_are_still_drawn_up_to_there(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(2)]
    for run in runs:
        (run.path / "scores.json").unlink()
        run.add_scores({"step": 600, "fid": 3.0, "protocol": {}})
        run.add_scores({"step": 1200, "diverged": True, "protocol": {}})
    (panel,) = next(plot for plot in figures(analyse(runs)) if plot.name == "scores").panels
    assert panel.alt == "FID, lower is better, at the end: no images."
    panel.draw(axes := Figure().subplots())
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[600, 3]]]


def test_a_table_of_runs_gives_the_last_scores_as_dots(compared: tuple[Comparison, Path]) -> None:
    again = analyse(compared[1] / "runs.csv")
    (plot,) = (plot for plot in figures(again) if plot.name == "scores")
    line = next(row for row in plot.data if row[:2] == ("fid", "group"))
    row = compared[0].rows["group", "fid/final"]
    assert line[2] == "last" and line[3] == pytest.approx(row.estimate.mean, rel=1e-12)  # two orders of one sum
