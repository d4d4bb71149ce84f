"""The composition curve is drawn from the comparison's points, its ends are named."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from support.run_directories import MakeRun, rewrite

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.report.figures import figures


def drawn(comparison: Comparison) -> tuple[list[str], list[list[float]]]:
    """The texts of the first figure, and the x of each line with markers."""
    panel = next(iter(figures(comparison))).panels[0]
    panel.draw(axes := Figure().subplots())
    lines = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]  # type: ignore[arg-type]
    return [text.get_text() for text in axes.texts], lines


def test_the_curve_is_drawn_by_the_share_of_the_others(compared: tuple[Comparison, Path]) -> None:
    texts, lines = drawn(compared[0])
    assert lines == [[1, 47 / 63, 31 / 63, 15 / 63, 3 / 63]] * 2
    assert "chance" in texts and any(text.startswith("conflict") for text in texts)


def test_a_run_without_the_conflict_end_has_no_name_for_it(make_run: MakeRun) -> None:
    rewrite(run := make_run("batch", 0), [{"probe/train/auc_pure": 0.9, "probe/train/auc_mixed": 0.4}])
    texts, lines = drawn(analyse([run]))
    assert lines == [[1, 31 / 63]]
    assert not any(text.startswith("conflict") for text in texts)


def test_over_training_the_conflict_end_has_its_line(compared: tuple[Comparison, Path]) -> None:
    (plot,) = (plot for plot in figures(compared[0]) if plot.name == "auc_over_training")
    assert {row[1] for row in plot.data} == {"pure", "mixed", "conflict"}
    last = next(row for row in reversed(plot.data) if row[:2] == ("batch", "conflict"))
    assert last[3] < 0.1  # as simulated
