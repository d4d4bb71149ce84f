"""Several runs at once on one machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.core import Bench, Row, Times, cores, in_own_process, now, row
from benchmarks.loops import cifar_config


def packing(bench: Bench) -> Iterator[Row]:
    """Several runs at once on one device: the images a second of all of them, against those of one run alone."""
    counts = (1, 2, 4, 8) if bench.device.type == "cuda" else (1, 2)
    times: Times = {str(count): [] for count in counts}  # seconds of an image, whichever run has it
    for _ in range(1 if bench.quick else 3):
        for count in counts:
            times[str(count)].append(1 / _together(bench, count))
    for count in counts[1:]:
        note = f"{1 / statistics.median(times[str(count)]):,.0f} img/s, {max(1, cores() // count)} threads a run"
        what = f"{count} runs on one device"
        yield row("packing", what, times, str(count), "1", True, "one run at a time", note=note)


def _together(bench: Bench, count: int) -> float:
    """Images a second of `count` runs, while all of them train."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // count))}
    with tempfile.TemporaryDirectory() as folder:
        command = in_own_process(packed_run, bench.device.type, "5" if bench.quick else "20", str(count), folder)
        processes = [
            subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.DEVNULL) for i in range(count)
        ]
        if any([process.wait() for process in processes]):
            raise RuntimeError("a run of the section packing failed; what it printed is above.")
        return sum(float((Path(folder) / f"{i}.rate").read_text()) for i in range(count))


def packed_run(device: str, seconds: str, count: str, folder: str, name: str) -> None:
    """One run of the CIFAR recipe, as the processes of `packing` make it.

    After some steps it waits until all `count` are as far. What it does in the `seconds` from then on is counted, and
    goes to `name`.rate as images a second; it ends once all have counted, so that none is ever alone.
    """
    from gannorm.training import GAN, train

    place, begin, first = Path(folder), 0.0, 10
    config = cifar_config() | {"steps": 10**9, "log_every": 10**6}

    def all_have(kind: str) -> bool:
        return len(list(place.glob(f"*.{kind}"))) == int(count)

    def pace(gan: Any, *_: Any) -> None:
        nonlocal begin
        if gan.step == first:
            (place / f"{name}.ready").touch()
            while not all_have("ready"):
                time.sleep(0.001)
            begin = now(torch.device(device))
        elif begin and time.perf_counter() - begin > float(seconds):
            file = place / f"{name}.rate"
            if not file.exists():
                images = (gan.step - first) * config["data"]["batch_size"]
                file.write_text(str(images / (now(torch.device(device)) - begin)))
            gan.trainer.should_stop = all_have("rate")

    with mock.patch.object(GAN, "on_train_batch_start", pace):
        train(config | {"trainer": {"accelerator": device, "devices": 1}}, place / name)
