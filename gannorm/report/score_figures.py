"""Figures of the scores: over training, at the settings of crossed factors, and against the conflict end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import numpy as np
from matplotlib.axes import Axes

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.comparison.crossed import CONFLICT, TITLES, Line
from gannorm.comparison.scores import SCORES, Score
from gannorm.report.curves import Curve, cut, draw_curve, legend, over_seeds
from gannorm.report.plots import INK, RULE, Panel, Plot, palette


def scores(comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    """Each score over training; of runs.csv, and where there is one evaluation a run, its last values alone."""
    panels: list[Panel] = []
    data: list[tuple[object, ...]] = []
    titles = {c.label: c.title for c in conditions}
    for score in SCORES:
        curves: dict[str, Curve] = {}
        ends: dict[str, list[float]] = {}
        for c in conditions:
            if curve := over_seeds([run.score(score.name) for run in c.runs]):
                curves[c.label] = curve
            if values := _last(c, score):
                ends[c.label] = values
        if not curves and not ends:
            continue
        reals = [v for c in conditions for run in c.runs for v in run.score(score.real).values()]
        real = float(np.mean(reals)) if reals else None
        panels.append(_score_panel(score, curves, ends, real, titles, colours))
        data += [(score.name, label, *point, real) for label, curve in curves.items() for point in curve]
        for label, values in ends.items():
            if label not in curves:
                points = (float(np.mean(values)), min(values), max(values), len(values))
                data.append((score.name, label, "last", *points, real))
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
        legend(conditions, colours),
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
        if not ends or any(len(curve) > 1 for curve in curves.values()):
            for label, curve in curves.items():
                draw_curve(ax, curve, colours[label], titles[label], beside=len(curves))
            ax.set(xlabel="step")
        else:
            for x, (label, values) in enumerate(ends.items()):
                spread = x + np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [x]
                ax.plot(spread, values, "o", color=colours[label], markersize=6, alpha=0.75)
                ax.plot([x - 0.25, x + 0.25], [np.mean(values)] * 2, color=colours[label])
            ax.set(xticks=range(len(ends)), xlim=(-0.6, len(ends) - 0.4))
            names, crowded = [titles[label] for label in ends], len(ends) > 4
            if any(len(name) > 14 for name in names):  # cut, they would look alike; the legend has them in this order
                names = [""] * len(names)
            ax.set_xticklabels(names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
        if real is not None:
            ax.axhline(real, color=INK, linewidth=1, linestyle=":")
            ax.annotate(
                "real images", (1, real), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        ax.set_title(f"{score.title} ({score.better} is better)")

    words = "; ".join(f"{titles[label]} {np.mean(values):.3g}" for label, values in ends.items())
    reference = "" if real is None else f"; real images {real:.3g}"
    return Panel(draw, f"{score.title}, {score.better} is better, at the end: {words or 'no images'}{reference}.")


def crossed(comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    """Each quantity at every setting of crossed factors, one colour a level of the factor in the table's columns."""
    lines = comparison.crossed
    if not lines:
        return None
    levels = list(dict.fromkeys(level for line in lines for level in line.cells))
    colour_of = palette(levels)
    panels = []
    for quantity in dict.fromkeys(line.quantity for line in lines):
        settings = [line for line in lines if line.quantity == quantity and not line.change]
        panels.append(_crossed_panel(TITLES[quantity], settings, colour_of))
    return Plot(
        "crossed",
        "Crossed factors",
        "Means over seeds with 95 % intervals at every setting of the factors. Parallel lines: what a factor does, it "
        "does at every level of the other; lines that part or cross: it depends on the other.",
        panels,
        (4.4, 3.0),
        (
            *("quantity", "change", "setting", "column", "mean", "low", "high", "n"),
            *("difference", "difference_low", "difference_high", "verdict"),
        ),
        [_crossed_data(line, level) for line in lines for level in line.cells],
        list(colour_of.items()),
    )


def _crossed_panel(title: str, lines: Sequence[Line], colours: Mapping[str, str]) -> Panel:
    stems = [line.title.split(", ")[:-1] for line in lines]
    runs = [
        [x for x, other in enumerate(stems) if other == stem] for i, stem in enumerate(stems) if stem not in stems[:i]
    ]

    def draw(ax: Axes) -> None:
        for i, (level, colour) in enumerate(colours.items()):
            offset = 0.3 * ((i + 0.5) / len(colours) - 0.5)  # intervals beside each other, not on top
            cells = [(x + offset, line.cells[level]) for x, line in enumerate(lines) if level in line.cells]
            for run in runs:  # of settings that differ in the last factor alone
                ends = [(x, e.mean) for x, e in cells if round(x - offset) in run]
                ax.plot([x for x, _ in ends], [y for _, y in ends], "o-", color=colour, markersize=5, linewidth=0.9)
            for x, estimate in cells:
                if estimate.low is not None and estimate.high is not None:
                    ax.plot([x, x], [estimate.low, estimate.high], color=colour, linewidth=1.7)
        if title == TITLES[CONFLICT]:
            ax.axhline(0.5, color=RULE, linewidth=0.8, linestyle=":", zorder=0)
        names = [cut(line.title, 44).replace(", ", "\n") for line in lines]
        wide = max(len(part) for name in names for part in name.split("\n")) * len(names) > 56
        ax.set(xticks=range(len(names)), xlim=(-0.5, len(names) - 0.5))
        ax.set_xticklabels(names, fontsize=8, rotation=30 if wide else 0, ha="right" if wide else "center")
        ax.set_title(title)

    texts = []
    for line in lines:
        means = ", ".join(f"{level} {estimate.mean:.3g}" for level, estimate in line.cells.items())
        texts.append(f"{line.title}: {means}")
    words = "; ".join(texts)
    return Panel(draw, f"{title} at every setting. {words}.")


def _crossed_data(line: Line, level: str) -> tuple[object, ...]:
    e, effect = line.cells[level], line.differences.get(level)
    against = (None,) * 4 if effect is None else (*effect.difference.bounds, effect.verdict)
    return (line.quantity, line.change, line.setting, level, *astuple(e), *against)


def scatter(comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    """One dot a run: its AUC in conflict, and its last score."""
    panels, data = [], []
    for score in SCORES[:2]:
        last = f"{score.name}/final"
        points = [
            (score.name, c.label, run.seed, run.values[CONFLICT], run.values[last])
            for c in conditions
            for run in c.runs
            if CONFLICT in run.values and last in run.values
        ]
        if points:
            panels.append(_scatter_panel(score, points, colours))
            data += points
    if not panels:
        return None
    return Plot(
        "conflict_against_score",
        "The conflict end against the score",
        "One dot a run: AUC of D at the conflict end (mean of the last probes, train mode), and the last score of its "
        "generator. An association, not a cause.",
        panels,
        (4.4, 2.8),
        ("score", "condition", "seed", "auc_conflict", "value"),
        data,
        legend(conditions, colours),
    )


def _scatter_panel(
    score: Score,
    points: Sequence[tuple[str, str, int, float, float]],
    colours: Mapping[str, str],
) -> Panel:
    def draw(ax: Axes) -> None:
        for label in dict.fromkeys(point[1] for point in points):
            own = [point for point in points if point[1] == label]
            ax.plot([p[3] for p in own], [p[4] for p in own], "o", color=colours[label], alpha=0.75, markersize=6)
        ax.axvline(0.5, color=RULE, linewidth=0.8, linestyle=":", zorder=0)
        ax.set(xlim=(-0.03, 1.03), xlabel="AUC in conflict", ylabel=score.title)
        ax.set_title(f"{score.title} ({score.better} is better)")

    plural = "runs" if len(points) > 1 else "run"
    return Panel(draw, f"{score.title} of {len(points)} {plural} against the AUC of D at the conflict end.")


def _last(condition: Condition, score: Score) -> list[float]:
    """The last score of each run that has one."""
    name = f"{score.name}/final"
    return [run.values[name] for run in condition.runs if name in run.values]
