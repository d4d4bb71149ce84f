"""How a step grows with width, image size and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.core import Bench, Row, row
from benchmarks.loops import bare_loop, count_flops, random_images
from gannorm.data import to_float
from gannorm.models import Discriminator, Generator

TIMES = "× the "  # between factor and name in a row of scaling


def scaling(bench: Bench) -> Iterator[Row]:
    """Up to four times the width², area or batch against as many times the cost: 1 is linear growth, less is better."""
    base = {"width": 32, "size": 16, "batch": 64}
    changes = {
        "width²": {(45 / 32) ** 2: {"width": 45}, 4.0: {"width": 64}},
        "image area": {4.0: {"size": 32}},  # a power of two
        "batch": {2.0: {"batch": 128}, 4.0: {"batch": 256}},
    }
    for name, larger in changes.items():
        loops = {f"{times:.3g}": _loop(bench, **base | change) for times, change in larger.items()}
        seconds = bench.interleaved({"1": _loop(bench, **base), **loops})
        for times in loops:
            seconds[f"{times} small"] = [float(times) * each for each in seconds["1"]]
            target = "≤ 1.15" if times == "4" else ""
            note = ""
            if name == "image area":
                factor = count_flops(loops[times]) / count_flops(_loop(bench, **base))
                note = f"a stage more in each network: {factor:.1f}× the FLOPs"
            what, label = f"{times}{TIMES}{name}", f"{times}× as much"
            yield row("scaling", what, seconds, times, f"{times} small", False, label, target, note=note)


def plot_scaling(rows: list[Row], file: Path) -> None:
    """Cost over size, both relative to the smallest, beside linear growth and 15 % more."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(5, 4), layout="constrained")).subplots()
    points: dict[str, list[tuple[float, float]]] = {}
    for found in rows:
        if found.section == "scaling" and found.ratio is not None:
            times, name = found.what.split(TIMES)
            points.setdefault(name, [(1, 1)]).append((float(times), float(times) * found.ratio))
    for name, line in points.items():
        axes.plot(*zip(*line, strict=True), marker="o", label=name)
    axes.plot([1, 4], [1, 4], color="black", linewidth=0.8, label="linear")
    axes.plot([1, 4], [1, 4.6], color="black", linewidth=0.8, linestyle=":", label="15 % more at four times")
    axes.set(xlabel="times as large", ylabel="times the cost of a step")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def _loop(bench: Bench, width: int, size: int, batch: int) -> Callable[[], None]:
    bare = bare_loop(bench, Generator(size, 3, width), Discriminator(size, 3, width))
    real = to_float(random_images(size, "train", batch).pixels).to(bench.device)
    return lambda: bare.step(real)
