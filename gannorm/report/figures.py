"""The figures of a report, in the order of its page."""

from __future__ import annotations

from collections.abc import Iterator

from gannorm.comparison.comparison import Comparison
from gannorm.report import classifier_figures, coupling_figure, dependence_figures, score_figures
from gannorm.report.curves import SHOWN
from gannorm.report.plots import Plot, palette

FIGURES = (
    dependence_figures.composition_curve,
    classifier_figures.summary,
    dependence_figures.auc_over_training,
    dependence_figures.accuracy_over_training,
    coupling_figure.coupling,
    score_figures.scores,
    classifier_figures.over_training,
    score_figures.crossed,
    score_figures.scatter,
)


def figures(comparison: Comparison) -> Iterator[Plot]:
    """The figures that the comparison has data for; each shows the first SHOWN conditions, the tables show all."""
    conditions = comparison.finished[:SHOWN]
    colours = palette(c.label for c in conditions)
    for figure in FIGURES:
        plot = figure(comparison, conditions, colours)
        if plot is not None:
            yield plot
