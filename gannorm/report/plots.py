"""A figure, drawn once and rendered twice: as SVG panels for the page, as one PNG for a paper.

The page lays panels out by itself, so that a phone shows one a row; the PNG puts them side by side.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, StrMethodFormatter

COLOURS = ("#c8553d", "#2a8c82", "#6a5acd", "#b8860b", "#3a78b5", "#a8507f", "#6b7f3a", "#8a6f5c")
INK, PAPER, RULE = "#22262b", "#fefefd", "#8f969e"  # in the dark the page gives INK and PAPER other values

_STYLE: Any = {  # Any: the stubs know every key, by release
    "font.size": 9,
    "text.parse_math": False,  # a condition's label may hold a dollar sign
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "gannorm",
}

# Ink and paper of a panel, in the light and in the dark.
_SCHEME = """<style>:root{--ink:#22262b;--paper:#fefefd}
@media (prefers-color-scheme:dark){:root{--ink:#dcdfe3;--paper:#17191c}}</style>"""


def palette(names: Iterable[str]) -> dict[str, str]:
    """name → colour."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


@dataclass(frozen=True)
class Panel:
    """One set of axes: how to draw it, and what it shows in words."""

    draw: Callable[[Axes], None]
    alt: str


@dataclass(frozen=True)
class Plot:
    """A figure: its panels, each of `size` inches, its data as they go to CSV, and (title, colour) of what all panels
    show, which stands once beside them."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    size: tuple[float, float]
    header: Sequence[str]
    data: Sequence[Sequence[Any]]
    legend: Sequence[tuple[str, str]] = ()


def svg(plot: Plot, panel: Panel) -> str:
    """One panel for the page: text stays text, ink and paper follow the reader's colour scheme."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=plot.size, layout="constrained")
        panel.draw(figure.subplots())
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        markup = _render(figure, format="svg", metadata=metadata, transparent=True).decode()
    markup = markup[markup.index("<svg") :]
    head = markup.index(">") + 1
    body = markup[head:].replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    return markup[:head] + _SCHEME + body.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")


def png(plot: Plot) -> bytes:
    """All panels, at most three a row and four as two rows of two, on white; the legend below them."""
    columns = 2 if len(plot.panels) == 4 else min(3, len(plot.panels))
    rows = math.ceil(len(plot.panels) / columns)
    width = columns * plot.size[0]
    across = max(1, int(width / (0.5 + 0.08 * max((len(title) for title, _ in plot.legend), default=0))))  # inches
    lines = math.ceil(len(plot.legend) / across)
    with matplotlib.rc_context(_STYLE):
        figure = Figure((width, rows * plot.size[1] + 0.2 * lines), layout="constrained", facecolor="white")
        for index, panel in enumerate(plot.panels, start=1):
            panel.draw(figure.add_subplot(rows, columns, index))
        if plot.legend:
            handles = [Line2D([], [], color=colour, marker="o", markersize=5) for _, colour in plot.legend]
            titles = [title for title, _ in plot.legend]
            figure.legend(handles, titles, loc="outside lower center", ncols=min(across, len(handles)))
        return _render(figure, format="png", dpi=160, bbox_inches="tight")  # square panels outgrow the layout


def logarithmic(ax: Axes, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic x- or y-axis with plain numbers: matplotlib's own are mathematics, which labels here never are."""
    axis, scale = (ax.yaxis, ax.set_yscale) if which == "y" else (ax.xaxis, ax.set_xscale)
    scale("log")
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(_BetweenDecades(minor_thresholds=(2, 0.5)))  # where there are fewer than two decades


class _BetweenDecades(LogFormatter):
    """Chooses which ticks have labels as matplotlib does, and writes plain numbers too."""

    def __call__(self, x: float, pos: Any = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _render(figure: Figure, **options: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a label in a script that the font lacks
        figure.savefig(stream, **options)
    return stream.getvalue()
