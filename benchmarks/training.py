"""A training step against the tutorial loop and the bare loop."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.core import Bench, Row, Times, now, row
from benchmarks.loops import (
    Bare,
    Tutorial,
    cifar_config,
    clocked,
    count_flops,
    count_launches,
    digits_config,
    products_alone,
    tutorial_process,
)
from gannorm.data.loader import ImageLoader


def training(bench: Bench) -> Iterator[Row]:
    width = 64 if bench.device.type == "cuda" else 32
    for name, config in ((f"CIFAR shapes, width {width}", cifar_config(width)), ("digits config", digits_config())):
        for precision in ("auto", "exact"):
            yield from _train_against(bench, name, config | {"precision": precision})
    yield _nothing_computed(bench, digits_config())


def _train_against(bench: Bench, name: str, config: dict[str, Any]) -> Iterator[Row]:
    """A real run by `train`, which every few steps stops its clock and lets the other loops make as many."""
    from gannorm.training import prepare
    from gannorm.training.precision import choose

    small = name.startswith("digits")
    on_gpu = bench.device.type == "cuda"
    chunk = (10 if small or on_gpu else 3) if bench.quick else (50 if on_gpu else 25 if small else 6)
    rounds = bench.rounds * (1 if bench.quick else 2)  # these ratios are near their targets
    arithmetic = choose(config)
    gan, data = prepare(config)
    bare = Bare(gan, arithmetic, bench.device)
    products = Bare(products_alone(gan), arithmetic, bench.device)
    batches = ImageLoader(data.train.pixels, config["data"]["batch_size"], seed=0, device=bench.device)
    times: Times = {"ours": [], "tutorial": [], "bare": [], "products": []}
    launches: dict[str, float] = {}
    begin, launched = 0.0, ""

    def pause(gan: Any, *_: Any) -> None:
        nonlocal begin, launched
        if gan.step % chunk == 0:
            found = {
                "ours": (now(bench.device) - begin) / chunk,
                "tutorial": tutorial(chunk),
                "bare": clocked(bare.step, batches, chunk),
                "products": clocked(products.step, batches, chunk),
            }
            for name in times if gan.step > chunk else ():  # the first chunk warms up
                times[name].append(found[name])
            if on_gpu and gan.step == rounds * chunk + chunk:
                real, launched = next(batches), getattr(gan.update, "failed", "single kernels")
                launches["tutorial"] = tutorial(0)
                launches["ours"] = count_launches(lambda: gan.update(real))  # some updates more than the run counts
            begin = now(bench.device)

    with tutorial_process(bench.device.type, config) as tutorial:
        _train(bench, config | {"steps": (rounds + 1) * chunk + 1}, pause)
    real = next(batches)
    peak = bench.flops["bfloat16" if arithmetic.precision == "bf16-mixed" else "float32"]
    flops, its_flops = (
        count_flops(lambda loop=loop: loop.step(real))
        for loop in (Bare(gan, arithmetic, bench.device), Tutorial(gan, bench.device))
    )
    share = flops / statistics.median(times["ours"]) / peak
    its_peak = bench.flops.get("tf32", bench.flops["float32"])
    its_share = its_flops / statistics.median(times["tutorial"]) / its_peak
    equal = its_flops / flops * peak / its_peak  # the ratio if both shares were equal
    what = f"{name}, {config['precision']}"
    fast = config["precision"] == "auto"
    goal = "" if small else ("≥ 4" if fast else "") if launches else "≥ 2.5" if fast else "≥ 1.3"
    images = len(real) / statistics.median(times["ours"])
    note = f"{images:,.0f} img/s, {arithmetic}"
    note += f"; with the tutorial loop's share of its peak, {its_share:.0%}, it would be {equal:.3g}×"
    if launches:
        minutes = 100_000 * statistics.median(times["ours"]) / 60
        note += f"; {launched}; {launches['ours']:.0f} launches a step, the tutorial {launches['tutorial']:.0f}"
        note += f"; 100,000 steps take {minutes:.1f} min"
    yield row("training", what, times, "ours", "tutorial", True, "the tutorial loop", goal, share=share, note=note)
    yield row("training", what, times, "ours", "bare", False, "the bare loop", "≤ 1.1" if small else "≤ 1.05")
    what += ": convolutions"
    yield row("training", what, times, "products", "tutorial", True, "the tutorial loop", note="the bare loop")


def _nothing_computed(bench: Bench, config: dict[str, Any], steps: int = 500) -> Row:
    """What a call of the training step costs in Python, Lightning and the loader: a GPU computes meanwhile."""
    from gannorm.training import GAN

    zero = torch.zeros((), device=bench.device)
    started: list[float] = []
    times: list[float] = []

    def pause(gan: Any, *_: Any) -> None:
        if gan.step % steps == 0:
            started.append(now(bench.device))
            times.extend([(started[-1] - started[-2]) / steps] if gan.step > steps else [])  # the first ones warm up

    with mock.patch.object(GAN, "update", lambda *_: {"loss/d": zero, "loss/g": zero}):
        _train(bench, config | {"steps": (bench.rounds + 2) * steps}, pause)
    return Row("training", "a call with nothing to compute", statistics.median(times))


def _train(bench: Bench, config: dict[str, Any], pause: Callable[..., None]) -> None:
    """A real run, which calls `pause` at the beginning of each call of the training step."""
    from gannorm.training import GAN, train

    trainer = {"accelerator": bench.device.type, "devices": 1}
    hook = mock.patch.object(GAN, "on_train_batch_start", pause)
    with tempfile.TemporaryDirectory() as folder, hook, redirect_stdout(sys.stderr):
        train(config | {"trainer": trainer}, Path(folder) / "run")
