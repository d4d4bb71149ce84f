"""The figures of a report: pure against mixed batches, coupling, scores, and coupling against scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from gannorm.studies.conditions import Condition
from gannorm.studies.plots import COLOURS, INK, PAPER, RULE, Panel, Plot
from gannorm.studies.quantities import SCORES, Score, final
from gannorm.studies.table import Comparison

SHOWN = 8  # conditions that the figures show; the tables show all

# Coupling runs over orders of magnitude, and an exact zero is the finding: it has a colour outside the scale.
DECADES = 4
EXACT_ZERO, HALVES = "#d9dfe5", "#59616a"
COUPLING = LinearSegmentedColormap.from_list("coupling", ["#f7e3cf", "#e9a178", "#c8553d", "#7b2238", "#2b0f24"])

Curve = list[tuple[int, float, float, float, int]]  # (step, mean, lowest, highest, seeds)


def figures(comparison: Comparison) -> Iterator[Plot]:
    """The figures that the comparison has data for, in the order of the page."""
    shown = [c for c in comparison.conditions if c.runs][:SHOWN]
    colours = {c.label: COLOURS[i % len(COLOURS)] for i, c in enumerate(shown)}
    for make in (_summary, _accuracy, _coupling, _scores, _scatter):
        plot = make(comparison, shown, colours)
        if plot is not None:
            yield plot


# -- pure against mixed batches ---------------------------------------------------------------------------------------


def _summary(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    measured = []
    for c in shown:
        pure, mixed = (comparison.row(c.label, f"train/accuracy_{kind}") for kind in ("pure", "mixed"))
        if pure and mixed:
            measured.append((c, pure.estimate, mixed.estimate))
    if not measured:
        return None

    def draw(ax: Axes) -> None:
        ax.axvline(0.5, color=RULE, linewidth=0.8, linestyle=":", zorder=0)
        ax.annotate("chance", (0.5, len(measured) - 0.45), color=RULE, fontsize=8, ha="center", va="bottom")
        for y, (condition, pure, mixed) in enumerate(measured):
            colour = colours[condition.label]
            ax.plot([mixed.mean, pure.mean], [y, y], color=colour, linewidth=3, alpha=0.4, zorder=1)
            for estimate, face, offset in ((pure, colour, -0.18), (mixed, PAPER, 0.18)):
                if estimate.low is not None and estimate.high is not None:
                    whisker = [estimate.low, estimate.high], [y + offset] * 2
                    ax.plot(*whisker, color=colour, linewidth=1, zorder=1, dashes=(1, 0) if offset < 0 else (3, 1.5))
                ax.plot(estimate.mean, y, "o", markersize=8, markeredgecolor=colour, markerfacecolor=face, zorder=3)
        ax.plot([], [], "o", color=RULE, label="pure batches")
        ax.plot([], [], "o", markeredgecolor=RULE, markerfacecolor=PAPER, label="same images, mixed")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
        ax.set(yticks=range(len(measured)), yticklabels=[_cut(c.title) for c, *_ in measured])
        ax.set(xlim=(0, 1.03), ylim=(len(measured) - 0.4, -0.6), xlabel="accuracy of the discriminator")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    words = "; ".join(f"{c.title} {pure.mean:.2f} pure, {mixed.mean:.2f} mixed" for c, pure, mixed in measured)
    return Plot(
        "accuracy_summary",
        "The same images in other company",
        "Accuracy at the end of training. Full dots: batches of real images alone and of fakes alone. Hollow dots: the "
        "same images, shuffled together. Whiskers: 95 % intervals over seeds, solid for pure, dashed for mixed.",
        [Panel(draw, f"Accuracy in pure and in mixed batches: {words}.")],
        (5.2, 1.25 + 0.45 * len(measured)),
        ("condition", "batches", "mean", "low", "high", "n"),
        [
            (c.label, kind, e.mean, e.low, e.high, e.n)
            for c, pure, mixed in measured
            for kind, e in (("pure", pure), ("mixed", mixed))
        ],
    )


def _accuracy(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    panels, data = [], []
    for condition in shown:
        pure, mixed = (
            _over_seeds([run.series(f"probe/train/accuracy_{kind}") for run in condition.runs])
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
        _draw_curve(ax, pure, colour, "pure batches")
        _draw_curve(ax, mixed, INK, "same images, mixed", linestyle=(0, (2, 2)))  # ink: seen where the two coincide
        ax.set(ylim=(-0.02, 1.02), xlabel="step", ylabel="accuracy", title=_cut(title))
        ax.legend(loc="lower right", ncols=2, borderaxespad=0.1)

    ends = f"at step {pure[-1][0]} {pure[-1][1]:.2f} in pure and {mixed[-1][1]:.2f} in mixed batches"
    return Panel(draw, f"{title}: accuracy over training, {ends}.")


def _over_seeds(series: Sequence[Mapping[int, float]]) -> Curve:
    """Mean and range at the steps that every seed has, so that no curve jumps where a seed drops out."""
    series = [s for s in series if s]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    values = {step: [s[step] for s in series] for step in shared}
    return [(step, float(np.mean(v)), min(v), max(v), len(v)) for step, v in values.items()]


def _draw_curve(ax: Axes, curve: Curve, colour: str, label: str, linestyle: Any = "-") -> None:
    steps, mean, low, high, _ = (np.array(column) for column in zip(*curve, strict=True))
    ax.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
    ax.plot(steps, mean, color=colour, linestyle=linestyle, label=label, marker="o" if len(steps) == 1 else "")


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
        for step, file in reversed(run.directory.probes().items()):
            try:
                with file.open("rb") as stream, np.load(stream) as arrays:
                    matrix = np.asarray(arrays["coupling_train"], dtype=float)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError):
                continue  # a damaged file: the probe before it serves
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
        ax.set_title(f"{_cut(title)}\nshare off the diagonal: {share}", fontsize=9)
        figure = ax.figure
        assert isinstance(figure, Figure)
        bar = figure.colorbar(image, ax=ax, shrink=0.75, aspect=24, format="%g")
        bar.minorticks_off()
        bar.outline.set_visible(False)  # type: ignore[operator]

    return Panel(draw, f"{title}: heat map of the coupling among {n} images; share off the diagonal {share}.")


# -- scores -----------------------------------------------------------------------------------------------------------


def _scores(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    panels, data = [], []
    for score in SCORES:
        series = {c.label: [run.score(score.name) for run in c.runs] for c in shown}
        curves = {label: curve for label, s in series.items() if (curve := _over_seeds(s))}
        if not curves:
            continue
        runs = [run for c in shown for run in c.runs]
        reals = [v for run in runs for v in run.score(score.real).values()]
        real = float(np.mean(reals)) if reals else None
        ends = {label: [s[max(s)] for s in series[label] if s] for label in curves}
        titles = {c.label: c.title for c in shown}
        panels.append(_score_panel(score, curves, ends, real, titles, colours))
        data += [(score.name, label, *point, real) for label, curve in curves.items() for point in curve]
    if not panels:
        return None
    return Plot(
        "scores",
        "Scores of the generator",
        "Lines: means over seeds, bands from the lowest to the highest seed; where there is one evaluation a run, "
        "dots, one a seed, and a bar at their mean. Dotted: the score of real images themselves, for FID of one half "
        "against the other.",
        panels,
        (4.4, 2.8),
        ("score", "condition", "step", "mean", "lowest", "highest", "n", "real_against_real"),
        data,
    )


def _score_panel(
    score: Score,
    curves: Mapping[str, Curve],
    ends: Mapping[str, Sequence[float]],
    real: float | None,
    titles: Mapping[str, str],
    colours: Mapping[str, str],
) -> Panel:
    def draw(ax: Axes) -> None:
        if any(len(curve) > 1 for curve in curves.values()):
            for label, curve in curves.items():
                _draw_curve(ax, curve, colours[label], _cut(titles[label]))
            ax.set(xlabel="step")
            ax.legend(loc="best")
        else:
            for x, (label, values) in enumerate(ends.items()):
                spread = x + np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [x]
                ax.plot(spread, values, "o", color=colours[label], markersize=6, alpha=0.75)
                ax.plot([x - 0.25, x + 0.25], [np.mean(values)] * 2, color=colours[label])
            ax.set(xticks=range(len(ends)), xlim=(-0.6, len(ends) - 0.4))
            crowded = len(ends) > 4
            ax.set_xticklabels(
                [_cut(titles[t], 14) for t in ends], rotation=30 if crowded else 0, ha="right" if crowded else "center"
            )
        if real is not None:
            ax.axhline(real, color=INK, linewidth=1, linestyle=":")
            ax.annotate(
                "real images", (1, real), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        ax.set_title(f"{score.title} ({score.better} is better)")

    words = "; ".join(f"{titles[label]} {np.mean(values):.3g}" for label, values in ends.items())
    reference = "" if real is None else f"; real images {real:.3g}"
    return Panel(draw, f"{score.title}, {score.better} is better, at the end: {words}{reference}.")


def _scatter(comparison: Comparison, shown: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    panels, data = [], []
    coupling = final("probe/train/coupling_ratio")
    for score in SCORES[:2]:
        points = []
        for condition in shown:
            for run in condition.runs:
                ratio, curve = coupling(run), run.score(score.name)
                if ratio is not None and curve:
                    points.append((score.name, condition.label, run.seed, ratio, curve[max(curve)]))
        if points:
            panels.append(_scatter_panel(score, points, {c.label: c.title for c in shown}, colours))
            data += points
    if not panels:
        return None
    return Plot(
        "coupling_against_score",
        "Coupling against score",
        "One dot a run: the share of D's squared input gradient that falls on other images of the batch (mean of the "
        "last probes, train mode), and the last score of its generator. An association, not a cause.",
        panels,
        (4.4, 2.8),
        ("score", "condition", "seed", "coupling_ratio", "value"),
        data,
    )


def _scatter_panel(
    score: Score,
    points: Sequence[tuple[str, str, int, float, float]],
    titles: Mapping[str, str],
    colours: Mapping[str, str],
) -> Panel:
    def draw(ax: Axes) -> None:
        for label in dict.fromkeys(point[1] for point in points):
            own = [point for point in points if point[1] == label]
            x, y = [p[3] for p in own], [p[4] for p in own]
            ax.plot(x, y, "o", color=colours[label], alpha=0.75, markersize=6, label=_cut(titles[label]))
        ax.set(xlabel="coupling ratio", ylabel=score.title)
        ax.set_title(f"{score.title} ({score.better} is better)")
        ax.legend(loc="best")

    return Panel(draw, f"{score.title} of {len(points)} runs against the coupling ratio of their discriminators.")


def _cut(title: str, limit: int = 34) -> str:
    return title if len(title) <= limit else title[: limit - 1] + "…"
