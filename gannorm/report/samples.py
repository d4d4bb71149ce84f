"""The generators' sample grids for the page, by condition and step."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.comparison.runs import Run
from gannorm.report.curves import SHOWN
from gannorm.report.rendering import data_uri

STEPS = 12  # of the slider, at most
BYTES = 16_000_000  # of all grids in the page, at most, so that it fits into a mail
SIDE = 8  # images in a row and in a column of a grid
GAP = 4  # pixels between two images of a grid, of which each has at least 32


@dataclass(frozen=True)
class Grid:
    """A grid of images, as an address that needs no network."""

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """The grids of one run, by step; None where there is none."""

    title: str
    seed: int
    grids: Sequence[tuple[int, Grid | None]]


@dataclass(frozen=True)
class Samples:
    """The content of the slider; without scripts, each condition is a strip that scrolls."""

    steps: Sequence[int]
    strips: Sequence[Strip]


def sample_strips(comparison: Comparison) -> Samples | None:
    """The grids of one run a condition, at shared steps; None where the runs hold none that fit into a page."""
    runs = _sample_runs(comparison.finished[:SHOWN])
    grids = {label: _samples(run) for label, run in runs.items()}
    every = sorted({step for grid in grids.values() for step in grid})
    steps = next((s for n in range(STEPS, 0, -1) if _bytes(grids, s := _spread(every, n)) <= BYTES), [])
    if not steps:
        return None
    titles = {c.label: c.title for c in comparison.conditions}
    strips = [
        Strip(titles[label], run.seed, [(step, _grid(grids[label].get(step))) for step in steps])
        for label, run in runs.items()
    ]
    return Samples(steps, strips)


def _samples(run: Run) -> dict[int, Path]:
    """Step → file; empty for a line of runs.csv."""
    return dict(run.directory.samples()) if run.directory else {}


def _sample_runs(conditions: Sequence[Condition]) -> dict[str, Run]:
    """One run a condition that holds samples: of the lowest seed that all conditions share, else of their lowest."""
    holding = {c.label: {run.seed: run for run in c.runs if _samples(run)} for c in conditions}
    holding = {label: runs for label, runs in holding.items() if runs}
    shared = set.intersection(*(set(runs) for runs in holding.values())) if holding else set()
    return {label: runs[min(shared or runs)] for label, runs in holding.items()}


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` steps, evenly spaced by index, the last one always among them.

    >>> _spread([0, 100, 200, 300, 400], 3), _spread([0, 100], 3), _spread([0, 100], 1)
    ([0, 200, 400], [0, 100], [100])
    """
    if len(steps) <= count:
        return list(steps)
    return [steps[len(steps) - 1 - round(i * (len(steps) - 1) / max(count - 1, 1))] for i in reversed(range(count))]


def _bytes(grids: Mapping[str, Mapping[int, Path]], steps: Iterable[int]) -> int:
    return sum(grid[step].stat().st_size for step in steps for grid in grids.values() if step in grid)


def _grid(file: Path | None) -> Grid | None:
    """A grid with gaps between its images; None for a missing or damaged file."""
    if file is None:
        return None
    try:
        with Image.open(file, formats=["PNG"]) as image:
            picture = spaced(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return Grid(data_uri("image/png", stream.getvalue()), *picture.size)


def spaced(grid: Image.Image) -> Image.Image:
    """A grid of SIDE × SIDE images with transparent gaps; unchanged where its size is no multiple of SIDE."""
    (across, rest), (down, more) = divmod(grid.width, SIDE), divmod(grid.height, SIDE)
    if rest or more or not across or not down:
        return grid.copy()
    mode = "LA" if grid.mode == "L" else "RGBA"
    source = grid.convert(mode)
    gapped = Image.new(mode, (grid.width + (SIDE - 1) * GAP, grid.height + (SIDE - 1) * GAP))  # transparent
    for row in range(SIDE):
        for column in range(SIDE):
            x, y = column * across, row * down
            gapped.paste(source.crop((x, y, x + across, y + down)), (x + column * GAP, y + row * GAP))
    return gapped
