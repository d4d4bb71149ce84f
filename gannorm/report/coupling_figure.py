"""The figure of coupling matrices: whose pixels move whose logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.report.curves import arrays, cut
from gannorm.report.plots import Panel, Plot

# Coupling spans orders of magnitude. An exact zero is a result, and has a colour outside the scale.
DECADES = 4
EXACT_ZERO, HALVES = "#d9dfe5", "#59616a"
COUPLING = LinearSegmentedColormap.from_list("coupling", ["#f7e3cf", "#e9a178", "#c8553d", "#7b2238", "#2b0f24"])


def coupling(comparison: Comparison, conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    probed = [(c, *probe) for c in conditions if (probe := _last_coupling(c)) is not None]
    if not probed:
        return None
    scaled = [(c, matrix / (np.diag(matrix).mean() or 1.0)) for c, _, matrix in probed]
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
        [(c.label, step, i, j, float(value)) for c, step, matrix in probed for (i, j), value in np.ndenumerate(matrix)],
    )


def _last_coupling(condition: Condition) -> tuple[int, np.ndarray] | None:
    """(step, matrix) of the last readable probe in train mode, of the lowest seed that has one."""
    for run in sorted(condition.runs, key=lambda run: run.seed):
        probes = run.directory.probes() if run.directory else {}
        for step, (matrix,) in arrays(reversed(probes.items()), "coupling_train"):
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
