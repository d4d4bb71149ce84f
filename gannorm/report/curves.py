"""Curves over training: mean and range over the seeds of a condition."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from matplotlib.axes import Axes

from gannorm.comparison.conditions import Condition

Curve = list[tuple[int, float, float, float, int]]  # (step, mean, lowest, highest, seeds)


SHOWN = 8  # conditions that a figure shows; the tables show all


def over_seeds(series: Sequence[Mapping[int, float]]) -> Curve:
    """Mean and range at the steps that every seed has, so that no curve jumps where a seed ends."""
    series = [s for s in series if s]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    values = {step: [s[step] for s in series] for step in shared}
    return [(step, float(np.mean(v)), min(v), max(v), len(v)) for step, v in values.items()]


def arrays(probes: Iterable[tuple[int, Path]], *names: str) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, the arrays of these names) of each probe's file; of another probe or a damaged one, nothing."""
    for step, file in probes:
        try:
            with file.open("rb") as stream, np.load(stream) as content:
                columns = [np.asarray(content[name], dtype=float) for name in names]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError):
            continue
        yield step, columns


def draw_curve(ax: Axes, curve: Curve, colour: str, label: str, linestyle: Any = "-", beside: int = 1) -> None:
    """A line and its band, one of `beside` in the same axes."""
    band = 0.16 if beside <= 4 else 0.08  # many bands over each other hide the lines
    steps, mean, low, high, _ = (np.array(column) for column in zip(*curve, strict=True))
    ax.fill_between(steps, low, high, color=colour, alpha=band, linewidth=0)
    ax.plot(steps, mean, color=colour, linestyle=linestyle, label=label, marker="o" if len(steps) == 1 else "")


def legend(conditions: Sequence[Condition], colours: Mapping[str, str]) -> list[tuple[str, str]]:
    """(title, colour) of each condition."""
    return [(c.title, colours[c.label]) for c in conditions]


def folded(title: str) -> str:
    """A long title in two lines: if cut, titles of crossed factors would look alike.

    >>> folded("BatchNorm"), folded("BatchNorm (batch size 16, learning rate 0.01)")
    ('BatchNorm', 'BatchNorm (batch size 16,\\nlearning rate 0.01)')
    """
    if title == cut(title):
        return title
    first, *rest = textwrap.wrap(title, 30) or [""]  # where there are but spaces
    return f"{first}\n{cut(' '.join(rest))}"


def cut(title: str, limit: int = 34) -> str:
    return title if len(title) <= limit else title[: limit - 1] + "…"
