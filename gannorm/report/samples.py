"""The generators' sample grids in the page, one condition beside the other, by step."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from gannorm.comparison.conditions import Condition, Run
from gannorm.report.curves import SHOWN
from gannorm.comparison.table import Comparison

STEPS = 12  # that the slider offers
BYTES = 16_000_000  # of grids in the page, so that a mail can carry it


def sample_slider(comparison: Comparison) -> str:
    """Markup of the grids of one run a condition, at steps that a slider chooses among.

    Without scripts, and before the slider takes over, each condition is a strip to scroll through.
    """
    runs = _sample_runs(comparison.finished[:SHOWN])
    grids = {label: run.directory.samples() for label, run in runs.items()}
    every = sorted({step for grid in grids.values() for step in grid})
    steps = next((s for n in range(STEPS, 0, -1) if _bytes(grids, s := _spread(every, n)) <= BYTES), [])
    if not steps:
        return "<p>The runs hold no sample grids that fit into this page.</p>"
    titles = {c.label: c.title for c in comparison.conditions}
    strips = []
    for label, run in runs.items():
        files, name = grids[label], escape(titles[label])
        cells = "".join(
            f"<div class=cell><span class=at>step {step}</span>{_grid(files.get(step), titles[label], step)}</div>"
            for step in steps
        )
        strips.append(
            f"<figure><figcaption><b>{name}</b>, seed {run.seed}</figcaption>"
            f'<div class=strip tabindex=0 role=group aria-label="Samples of {name} by step">{cells}</div></figure>'
        )
    last = len(steps) - 1
    slider = (
        f"<div class=slider hidden><label for=step>Step <output for=step>{steps[-1]}</output></label>"
        f'<input id=step type=range min=0 max={last} value={last} data-steps="{" ".join(map(str, steps))}" '
        f'aria-valuetext="step {steps[-1]}"></div>'
    )
    return f"<div class=samples>{slider}<div class=grids>{''.join(strips)}</div></div>"


def _sample_runs(conditions: Sequence[Condition]) -> dict[str, Run]:
    """One run a condition that holds samples: of the lowest seed that all conditions share, else of their lowest."""
    holding = {c.label: {run.seed: run for run in c.runs if run.directory.samples()} for c in conditions}
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


def _grid(file: Path | None, name: str, step: int) -> str:
    content = file.read_bytes() if file else b""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        return "<p class=missing>no grid at this step</p>"
    width, height = struct.unpack(">II", content[16:24])
    alt = escape(f"Grid of generated images, {name}, step {step}")
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/png;base64,{data}" width={width} height={height} alt="{alt}">'
