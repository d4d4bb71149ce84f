"""Seconds and memory until the first step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.core import OFF, Bench, Row
from benchmarks.loops import random_images


def startup(bench: Bench) -> Iterator[Row]:
    """Whole processes, from the shell's view: imports are most of them."""
    import jsonargparse

    assert jsonargparse, "the command line needs it"
    with tempfile.TemporaryDirectory() as folder:
        config = ["--config", "digits", "--steps=1", f"--output={folder}", *OFF]
        names = iter(range(1000))
        commands: dict[str, Callable[[], list[str]]] = {
            "gannorm --help": lambda: ["-m", "gannorm.cli", "--help"],
            "gannorm train, to its first step": lambda: [
                *("-m", "gannorm.cli", "train", *config, f"--name={next(names)}")
            ],
        }
        if not bench.quick:
            commands["of which: import torch"] = lambda: ["-c", "import torch"]
            commands["of which: import torch, lightning"] = lambda: ["-c", "import torch, lightning.pytorch"]
        started = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        runs = {name: lambda make=make: started([sys.executable, *make()]) for name, make in commands.items()}
        times = bench.interleaved(runs, rounds=1 if bench.quick else 2)
    targets = {"gannorm --help": 0.5, "gannorm train, to its first step": 8.0}
    for name, seconds in times.items():
        bound = targets.get(name)
        middle = statistics.median(seconds)
        note = f"target < {bound} s: {'met' if middle < bound else 'MISSED'}" if bound else ""
        yield Row("startup", name, middle, note=note)
    yield from _memory()


PEAK_OF_CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _memory() -> Iterator[Row]:
    """The most memory that a run of each config held: of the process on the CPU, which holds the libraries too."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for i, pixels in enumerate(random_images(32, "train", 512).pixels):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(Path(folder) / f"{i}.png")
        environment = {**os.environ, "GANNORM_CACHE": f"{folder}/cache"}
        beside = {"digits": OFF, "folder": [*OFF, f"--data.root={folder}"]}
        beside["classifier"] = ["--optimization_every=0", "--progress=false", "--wandb=off"]
        for name, options in beside.items():
            command = ["-m", "gannorm.cli", "train", "--config", name, f"--output={folder}/runs", "--steps=20"]
            argv = [sys.executable, "-c", PEAK_OF_CHILD, sys.executable, *command, *options]
            peak = int(subprocess.run(argv, check=True, stdout=subprocess.PIPE, env=environment).stdout)
            gibibytes = peak / (2**30 if sys.platform == "darwin" else 2**20)
            yield Row("startup", f"peak memory of recipe {name}", note=f"{gibibytes:.2f} GiB")
