"""The figures of a report, in its order; here those of batch dependence: pure against mixed batches, and coupling."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from gannorm.report import classifier_figures
from gannorm.comparison.conditions import Condition
from gannorm.report.curves import SHOWN, Curve, arrays, cut, draw_curve, folded, over_seeds
from gannorm.report.plots import INK, RULE, Panel, Plot, palette
from gannorm.report.score_figures import crossed, scatter, scores
from gannorm.comparison.table import Comparison

SUMMED = 24  # conditions that the first figure shows; the others show SHOWN, the tables all

# Coupling runs over orders of magnitude, and an exact zero is the finding: it has a colour outside the scale.
DECADES = 4
EXACT_ZERO, HALVES = "#d9dfe5", "#59616a"
COUPLING = LinearSegmentedColormap.from_list("coupling", ["#f7e3cf", "#e9a178", "#c8553d", "#7b2238", "#2b0f24"])


def figures(comparison: Comparison) -> Iterator[Plot]:
    """The figures that the comparison has data for, in the order of the page."""
    summed, shown = comparison.finished[:SUMMED], comparison.finished[:SHOWN]
    colours = palette(c.label for c in shown)
    first = (make(comparison, summed, colours) for make in (_summary, classifier_figures.summary))
    made = (_accuracy, _coupling, scores, classifier_figures.over_training, crossed, scatter)
    others = (make(comparison, shown, colours) for make in made)
    yield from filter(None, itertools.chain(first, others))


# -- pure against mixed batches ---------------------------------------------------------------------------------------


def _summary(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    measured = []
    for c in shown:
        pure, mixed = (comparison.row(c.label, f"train/accuracy_{kind}") for kind in ("pure", "mixed"))
        if pure and mixed:
            measured.append((c, pure.estimate, mixed.estimate))
    if not measured:
        return None

    coloured = all(c.label in colours for c, *_ in measured)

    def draw(ax: Axes) -> None:
        ax.axvline(0.5, color=RULE, linewidth=0.8, linestyle=":", zorder=0)
        ax.annotate("chance", (0.51, len(measured) - 0.45), color=RULE, fontsize=8, va="bottom")
        for y, (condition, pure, mixed) in enumerate(measured):
            colour = colours[condition.label] if coloured else INK
            ax.plot([mixed.mean, pure.mean], [y, y], color=colour, linewidth=3, alpha=0.4, zorder=1)
            for estimate, face, size, offset in ((pure, colour, 6, -0.28), (mixed, "none", 10, 0.28)):
                if estimate.low is not None and estimate.high is not None:
                    whisker = [estimate.low, estimate.high], [y + offset] * 2
                    ax.plot(*whisker, color=colour, linewidth=1, zorder=1, dashes=(1, 0) if offset < 0 else (3, 1.5))
                ax.plot(estimate.mean, y, "o", markersize=size, markeredgecolor=colour, markerfacecolor=face, zorder=3)
        ax.plot([], [], "o", markersize=6, color=RULE, label="pure batches")
        ax.plot([], [], "o", markersize=10, color=RULE, markerfacecolor="none", label="same images, mixed")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
        ax.set(yticks=range(len(measured)), yticklabels=[folded(c.title) for c, *_ in measured])
        ax.set(xlim=(0, 1.03), ylim=(len(measured) - 0.4, -0.6), xlabel="accuracy of the discriminator")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    words = "; ".join(f"{c.title} {pure.mean:.2f} pure, {mixed.mean:.2f} mixed" for c, pure, mixed in measured)
    return Plot(
        "accuracy_summary",
        "The same images in other company",
        "Accuracy at the end of training. Dots: batches of real images alone and of fakes alone. Rings: the same "
        "images, shuffled together. Whiskers: 95 % intervals over seeds, solid for pure, dashed for mixed.",
        [Panel(draw, f"Accuracy in pure and in mixed batches: {words}.")],
        (5.2, 1.25 + (0.45 if len(measured) <= SHOWN else 0.3) * len(measured)),
        ("condition", "batches", "mean", "low", "high", "n"),
        [(c.label, kind, *astuple(e)) for c, pure, mixed in measured for kind, e in (("pure", pure), ("mixed", mixed))],
    )


def _accuracy(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    panels, data = [], []
    for condition in shown:
        pure, mixed = (
            over_seeds([run.series(f"probe/train/accuracy_{kind}") for run in condition.runs])
            for kind in ("pure", "mixed")
        )
        if pure and mixed:
            panels.append(_accuracy_panel(condition.title, pure, mixed, colours[condition.label]))
            data += [(condition.label, kind, *p) for kind, curve in (("pure", pure), ("mixed", mixed)) for p in curve]
    if not panels:
        return None
    return Plot(
        "accuracy",
        "Accuracy in pure and mixed batches over training",
        "Lines: means over seeds; bands: from the lowest to the highest seed. Where the two lines part, the "
        "discriminator uses the company of an image, not the image.",
        panels,
        (4.4, 2.7),
        ("condition", "batches", "step", "mean", "lowest", "highest", "n"),
        data,
    )


def _accuracy_panel(title: str, pure: Curve, mixed: Curve, colour: str) -> Panel:
    def draw(ax: Axes) -> None:
        ax.axhline(0.5, color=RULE, linewidth=0.8, linestyle=":")
        draw_curve(ax, pure, colour, "pure batches")
        draw_curve(ax, mixed, INK, "same images, mixed", linestyle=(0, (2, 2)))  # ink: seen where the two coincide
        ax.set(ylim=(-0.02, 1.02), xlabel="step", ylabel="accuracy", title=cut(title))
        ax.legend(loc="lower right", ncols=2, borderaxespad=0.1)

    ends = f"at step {pure[-1][0]} {pure[-1][1]:.2f} in pure and {mixed[-1][1]:.2f} in mixed batches"
    return Panel(draw, f"{title}: accuracy over training, {ends}.")


# -- coupling ---------------------------------------------------------------------------------------------------------


def _coupling(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    found = [(c, *probe) for c in shown if (probe := _last_coupling(c)) is not None]
    if not found:
        return None
    scaled = [(c, matrix / (np.diag(matrix).mean() or 1.0)) for c, _, matrix in found]
    top = max(float(matrix.max()) for _, matrix in scaled) or 1.0
    norm = LogNorm(top / 10**DECADES, top)
    return Plot(
        "coupling",
        "Whose pixels move whose logit",
        "Row i, column j: how strongly the pixels of image j move the logit of image i, ‖∂fᵢ/∂xⱼ‖ relative to the mean "
        "of the diagonal, on one logarithmic scale for all panels. Grey is exactly zero. The first half of the batch "
        "is real, the second fake; D in train mode, last probe of the lowest seed. Share: squared norms off the "
        "diagonal over all squared norms.",
        [_coupling_panel(c.title, matrix, norm) for c, matrix in scaled],
        (4.0, 3.5),
        ("condition", "step", "i", "j", "coupling"),
        [(c.label, step, i, j, float(value)) for c, step, matrix in found for (i, j), value in np.ndenumerate(matrix)],
    )


def _last_coupling(condition: Condition) -> tuple[int, np.ndarray] | None:
    """(step, matrix) of the last readable probe in train mode, of the lowest seed that has one."""
    for run in sorted(condition.runs, key=lambda run: run.seed):
        for step, (matrix,) in arrays(reversed(run.directory.probes().items()), "coupling_train"):
            if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 1 and np.isfinite(matrix).all():
                return step, matrix
    return None


def _coupling_panel(title: str, matrix: np.ndarray, norm: LogNorm) -> Panel:
    n, floor = len(matrix), float(norm.vmin or 0)
    squares = np.square(matrix)
    others = float(squares[~np.eye(n, dtype=bool)].sum())
    share = f"{others / squares.sum():.2g}" if others > 0 else "exactly 0"

    def draw(ax: Axes) -> None:
        lifted = np.where(matrix > 0, np.maximum(matrix, floor), np.nan)  # small is not zero: it keeps a colour
        image = ax.imshow(lifted, norm=norm, cmap=COUPLING.with_extremes(bad=EXACT_ZERO), interpolation="none")
        ax.axhline(n / 2 - 0.5, color=HALVES, linewidth=0.7)
        ax.axvline(n / 2 - 0.5, color=HALVES, linewidth=0.7)
        ticks, names = (n / 4 - 0.5, 3 * n / 4 - 0.5), ("real", "fake")
        ax.set(xticks=ticks, xticklabels=names, yticks=ticks, xlabel="image j moves …", ylabel="… the logit of image i")
        ax.set_yticklabels(names, rotation=90, va="center")
        ax.tick_params(length=0)
        ax.set_title(f"{cut(title)}\nshare off the diagonal: {share}", fontsize=9)
        figure = ax.figure
        assert isinstance(figure, Figure)
        bar = figure.colorbar(image, ax=ax, shrink=0.75, aspect=24, format="%g")
        bar.minorticks_off()
        bar.outline.set_visible(False)  # type: ignore[operator]

    return Panel(draw, f"{title}: heat map of the coupling among {n} images; share off the diagonal {share}.")
