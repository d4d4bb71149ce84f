"""Figures of classifiers: their accuracy on held-out images, at the end and over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from matplotlib.axes import Axes

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.comparison.intervals import mean_interval
from gannorm.comparison.scores import ACCURACY
from gannorm.report.curves import Curve, draw_curve, folded, legend, over_seeds
from gannorm.report.plots import Panel, Plot


def summary(comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    tested = [(c, row.estimate) for c in conditions if (row := comparison.row(c.label, f"{ACCURACY.name}/final"))]
    if not tested:
        return None

    def draw(ax: Axes) -> None:
        for y, (condition, estimate) in enumerate(tested):
            colour = colours[condition.label]
            for run in condition.runs:
                if (value := run.values.get(f"{ACCURACY.name}/final")) is not None:
                    ax.plot(value, y + 0.22, "o", color=colour, markersize=3, alpha=0.6)
            if estimate.low is not None and estimate.high is not None:
                ax.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1.7)
            ax.plot(estimate.mean, y, "o", color=colour, markersize=7)
        ax.set(yticks=range(len(tested)), yticklabels=[folded(c.title) for c, _ in tested])
        ax.set(ylim=(len(tested) - 0.4, -0.6), xlabel=ACCURACY.title.lower())
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    words = "; ".join(f"{c.title} {estimate.mean:.3g}" for c, estimate in tested)
    return Plot(
        "test_accuracy_summary",
        "Accuracy at the end of training",
        "Large dots: means over seeds, with 95 % intervals. Small dots: seeds.",
        [Panel(draw, f"{ACCURACY.title} at the end of training: {words}.")],
        (5.2, 1.25 + 0.45 * len(tested)),
        ("condition", "mean", "low", "high", "n"),
        [(c.label, *astuple(e)) for c, e in tested],
    )


def over_training(comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    curves = [
        (c, curve) for c in conditions if (curve := _with_intervals([run.series(ACCURACY.name) for run in c.runs]))
    ]
    if not curves:
        return None

    def draw(ax: Axes) -> None:
        for condition, curve in curves:
            draw_curve(ax, curve, colours[condition.label], condition.title, beside=len(curves))
        ax.set(xlabel="step", ylabel="accuracy")

    ends = "; ".join(f"{c.title} {curve[-1][1]:.3g} at step {curve[-1][0]}" for c, curve in curves)
    return Plot(
        "test_accuracy",
        f"{ACCURACY.title} over training",
        "Lines: means over seeds; bands: 95 % intervals, where there are two seeds or more.",
        [Panel(draw, f"{ACCURACY.title} over training: {ends}.")],
        (5.6, 3.2),
        ("condition", "step", "mean", "low", "high", "n"),
        [(c.label, *point) for c, curve in curves for point in curve],
        legend([c for c, _ in curves], colours),
    )


def _with_intervals(series: Sequence[Mapping[int, float]]) -> Curve:
    """Mean and interval at the steps that every seed has; the mean alone where one seed gives no interval."""
    points = []
    for step, *_ in over_seeds(series):
        e = mean_interval([s[step] for s in series if s], ACCURACY.limits)
        points.append((step, e.mean, e.mean if e.low is None else e.low, e.mean if e.high is None else e.high, e.n))
    return points
