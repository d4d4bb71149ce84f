"""Figures of batch dependence: the composition curve, and its named ends over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.comparison.quantities import TRAIN
from gannorm.comparison.verdicts import Point
from gannorm.report.curves import Curve, cut, draw_curve, legend, over_seeds
from gannorm.report.plots import INK, RULE, Panel, Plot
from gannorm.verdict import CONFLICT

CONFLICT_IN_WORDS = "conflict: a real image among fakes, a fake among real images"
# Composition → its words and its line style.
STYLES = {
    "pure": ("pure batches", "-"),
    "mixed": ("half and half", (0, (2, 2))),
    "conflict": ("conflict", (0, (5, 1.5, 1, 1.5))),
}


def composition_curve(
    comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]
) -> Plot | None:
    """AUC by the share of the own class among the other images, one line a condition; None where nothing was probed."""
    curves = [(c, comparison.curves[c.label]) for c in conditions if c.label in comparison.curves]
    if not curves:
        return None
    ends = [point.others for _, curve in curves for point in curve if point.share == CONFLICT]

    def draw(ax: Axes) -> None:
        ax.axhline(0.5, color=RULE, linewidth=0.8, linestyle=":", zorder=0)
        ax.annotate("chance", (1, 0.51), color=RULE, fontsize=8, ha="right", va="bottom")
        for condition, curve in curves:
            _draw_line(ax, curve, colours[condition.label])
        ax.set(xlim=(-0.04, 1.04), ylim=(-0.03, 1.03), ylabel="AUC: real above fake")
        ax.set_xlabel("share of the own class among the other images of the batch")
        _name_end(ax, "pure batches", 1.0, "right")
        if ends:
            _name_end(ax, CONFLICT_IN_WORDS, min(ends), "left")

    lines = []
    for condition, curve in curves:
        points = ", ".join(f"{point.auc.mean:.2f} at {point.others:.2f}" for point in curve)
        lines.append(f"{condition.title} {points}")
    words = "; ".join(lines)
    return Plot(
        "composition_curve",
        "The same images, beside fewer and fewer of their own class",
        "AUC is the share of pairs in which the discriminator ranks a real image above a fake. A flat line: it judges "
        "images. Below 0.5 at the conflict end: a real image among fakes is ranked below a fake among real images, so "
        "the other images outweigh the image. Lines: means over runs at the end of training; bands: from the lowest to "
        "the highest run.",
        [Panel(draw, f"Composition curve: AUC by the share of the own class among the other images. {words}.")],
        (5.6, 3.7),
        ("condition", "share", "share_of_others", "mean", "low", "high", "lowest", "highest", "n"),
        [
            (c.label, p.share, p.others, *p.auc.bounds, p.lowest, p.highest, p.auc.n)
            for c, curve in curves
            for p in curve
        ],
        legend([c for c, _ in curves], colours),
    )


def _name_end(ax: Axes, name: str, x: float, side: Literal["left", "right"]) -> None:
    """A name above the axes, with a dotted rule to its place."""
    ax.axvline(x, color=RULE, linewidth=0.8, linestyle=":", zorder=0)
    ax.annotate(name, (x, 1.045), fontsize=8, ha=side, va="bottom", annotation_clip=False)


def _draw_line(ax: Axes, curve: Sequence[Point], colour: str) -> None:
    x = [point.others for point in curve]
    ax.fill_between(x, [p.lowest for p in curve], [p.highest for p in curve], color=colour, alpha=0.16, linewidth=0)
    ax.plot(x, [p.auc.mean for p in curve], "o-", color=colour, markersize=4)


def auc_over_training(
    comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]
) -> Plot | None:
    """AUC in pure, mixed and conflict batches at every probe."""
    return _over_training(
        "auc_over_training",
        "AUC over training",
        "Where the lines differ, the discriminator's ranking depends on the other images of the batch. Dotted: chance.",
        "auc",
        "AUC",
        conditions,
        colours,
    )


def accuracy_over_training(
    comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]
) -> Plot | None:
    """Accuracy in pure, mixed and conflict batches at every probe."""
    return _over_training(
        "accuracy",
        "Accuracy over training",
        "The share of images on the right side of the threshold. Accuracy is about decisions, AUC about ranks.",
        "accuracy",
        "accuracy",
        conditions,
        colours,
    )


def _over_training(
    name: str,
    title: str,
    caption: str,
    kind: str,
    label: str,
    conditions: Sequence[Condition],
    colours: Mapping[str, str],
) -> Plot | None:
    panels, data = [], []
    for condition in conditions:
        curves = {
            end: curve
            for end in STYLES
            if (curve := over_seeds([run.series(f"{TRAIN}{kind}_{end}") for run in condition.runs]))
        }
        if curves:
            panels.append(_panel(condition.title, curves, colours[condition.label], label))
            data += [(condition.label, end, *point) for end, curve in curves.items() for point in curve]
    if not panels:
        return None
    caption = f"{caption} Lines: means over seeds; bands: from the lowest to the highest seed."
    header = ("condition", "batches", "step", "mean", "lowest", "highest", "n")
    return Plot(name, title, caption, panels, (4.4, 2.7), header, data)


def _panel(title: str, curves: Mapping[str, Curve], colour: str, label: str) -> Panel:
    def draw(ax: Axes) -> None:
        ax.axhline(0.5, color=RULE, linewidth=0.8, linestyle=":")
        for end, curve in curves.items():
            words, style = STYLES[end]
            draw_curve(ax, curve, INK if end == "mixed" else colour, words, linestyle=style)
        ax.set(ylim=(-0.02, 1.02), xlabel="step", ylabel=label, title=cut(title))
        ax.legend(  # below the axes, along which the line of the conflict end may run
            loc="upper left",
            bbox_to_anchor=(0, -0.24),
            ncols=len(curves),
            borderaxespad=0,
            handlelength=2.2,
            columnspacing=1,
        )

    ends = ", ".join(f"{curve[-1][1]:.2f} {STYLES[end][0]}" for end, curve in curves.items())
    return Panel(draw, f"{title}: {label} over training, at the last probe {ends}.")
