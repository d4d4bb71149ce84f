"""Figures are drawn with plain numbers, and as SVG that follows the reader's colours."""

from __future__ import annotations

from typing import Literal

import pytest
from matplotlib.figure import Figure

from gannorm.report.plots import INK, Panel, Plot, logarithmic, svg


@pytest.mark.parametrize("which", ["x", "y"])
def test_logarithmic_axes_have_plain_numbers(which: Literal["x", "y"]) -> None:
    def labels(*values: float) -> set[str]:
        figure = Figure()
        ax = figure.subplots()
        ax.plot(values, values)
        logarithmic(ax, which)
        figure.canvas.draw()
        return {label.get_text() for label in (ax.xaxis if which == "x" else ax.yaxis).get_ticklabels(which="both")}

    assert {"0.01", "0.1", "1", "10", "100", "1000"} <= labels(0.005, 2000)
    narrow = labels(0.2, 3)
    assert {"0.2", "0.3", "1", "2"} <= narrow  # between the decades too
    assert not any(set(label) - set("0123456789.") for label in labels(0.005, 2000) | narrow)


def test_ink_follows_the_readers_colour_scheme() -> None:
    panel = Panel(lambda ax: ax.set_title("a < b & $c"), "words")
    plot = Plot("name", "title", "caption", [panel], (2, 2), (), ())
    markup = svg(plot, panel)
    assert INK not in markup.split("</style>")[1] and "var(--ink)" in markup
    assert "a &lt; b &amp; $c" in markup  # escaped, and no mathematics
    assert "prefers-color-scheme:dark" in markup
