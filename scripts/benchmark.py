#!/usr/bin/env python
"""How fast is gannorm, as ratios to what one would write oneself, each measured in turn with it (A B A B …).

    python scripts/benchmark.py                          # everything: minutes; a table, and benchmark.json
    python scripts/benchmark.py --only training --quick  # one section, fewer repeats

A ratio is the median over rounds of the ratio within a round, with its range; so a machine that others use too moves
all of a round together. "Faster" is the other's time over ours, "cost" ours over the other's. The share of the peak is
the FLOPs of the convolutions and matrix products over time, as a part of the rate of a large matrix product in the
same precision. Sections whose libraries are not installed are left out, with a line that says so.

Missing on purpose: timings of a single tensor operation, which nobody waits for.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from gannorm.data import Images, to_float, to_uint8
from gannorm.data.datasets import DATASETS
from gannorm.data.loader import ImageLoader
from gannorm.models import Discriminator, Generator
from gannorm.normalizers import NORMALIZERS, set_reference
from gannorm.seeds import stream

REPOSITORY = Path(__file__).resolve().parent.parent
OPTIONAL = ("torch_fidelity", "jsonargparse", "lightning", "wandb", "sklearn", "PIL")
OFF = [*(f"--{kind}_every=0" for kind in ("probe", "sample", "checkpoint")), "--progress=false", "--wandb=off"]
TIMES = "× the "  # between factor and name in a row of scaling
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, its ratio to what, the target, and the share of the peak."""

    section: str
    what: str
    seconds: float | None = None  # median of a call
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    meaning: str = ""  # of the ratio: "faster than …" or "cost of …"
    target: str = ""  # "≥ 2.5" or "≤ 1.05"
    share: float | None = None  # of the measured peak
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio keeps its target; None without one."""
        if not self.target or self.ratio is None:
            return None
        sign, bound = self.target.split()
        return self.ratio >= float(bound) if sign == "≥" else self.ratio <= float(bound)

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds * 1e3:.4g} ms"
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}× ({self.low:.3g}–{self.high:.3g}) {self.meaning}"
        verdict = "" if self.met is None else f"target {self.target}: {'met' if self.met else 'MISSED'}"
        share = "" if self.share is None else f"{self.share:.0%} of peak"
        parts = f"{self.section:<12} {self.what:<44} {seconds:>11}  {ratio:<48} {share:<12} {verdict}  {self.note}"
        return parts.rstrip()


class Bench:
    """What every section is given: the device, how many rounds, and the machine's peaks."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick
        self.rounds = 2 if quick else 5
        size = 1024 if self.device.type == "cpu" else 8192
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        pairs = {name: torch.randn(2, size, size, device=self.device).to(dtype) for name, dtype in types.items()}
        products = {name: lambda pair=pair: pair[0] @ pair[1] for name, pair in pairs.items()}
        if self.device.type == "cuda":  # as its convolutions take float32, if nobody says otherwise
            products["tf32"] = lambda: _in_tf32(*pairs["float32"])
        # The machine's pace changes: many rounds, in which the types take turns, for each one's best.
        best = {name: min(seconds) for name, seconds in self.interleaved(products, rounds=50).items()}
        self.flops = {name: 2 * size**3 / seconds for name, seconds in best.items()}
        source = torch.zeros(2**26, device=self.device)  # 256 MiB, larger than any cache
        target = torch.empty_like(source)
        copies = self.interleaved({"copy": lambda: target.copy_(source)}, rounds=5)["copy"]
        self.bytes_per_second = 2 * source.nbytes / statistics.median(copies)  # read and written

    def interleaved(self, contestants: Mapping[str, Callable[[], Any]], rounds: int | None = None) -> Times:
        return interleaved(contestants, self.rounds if rounds is None else rounds, self.device)


def _in_tf32(a: Tensor, b: Tensor) -> Tensor:
    with mock.patch.object(torch.backends.cuda.matmul, "fp32_precision", "tf32"):
        return a @ b


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(contestants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> Times:
    """Seconds of a call of each contestant in each round, after a round that is not counted."""
    times: Times = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            begin = now(device)
            run()
            if round_:
                times[name].append(now(device) - begin)
    return times


def _in_own_process(function: str, *arguments: str) -> list[str]:
    """The command that calls a function of this file."""
    call = "import sys; sys.path.insert(0, sys.argv[1]); import benchmark; benchmark.{}(*sys.argv[2:])"
    return [sys.executable, "-c", call.format(function), str(Path(__file__).parent), *arguments]


def row(
    section: str,
    what: str,
    times: Times,
    ours: str,
    other: str,
    faster: bool,
    label: str,
    target: str = "",
    **more: Any,
) -> Row:
    """The row of one comparison: the median and range over rounds of other/ours (faster) or ours/other (cost)."""
    pairs = list(zip(times[ours], times[other], strict=True))
    ratios = [theirs / mine if faster else mine / theirs for mine, theirs in pairs]
    meaning = f"{'faster than' if faster else 'cost of'} {label}"
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return Row(section, what, statistics.median(times[ours]), middle, low, high, meaning, target, **more)


# -- training ---------------------------------------------------------------------------------------------------------


class Tutorial:
    """The step of the DCGAN tutorial: float32, channels first, D not frozen in G's step, a synchronising log each step.

    Its order: D on real and backward, D on fake and backward, one update of D, then G. Sum of two binary cross
    entropies, so the gradients are those of the non-saturating loss.
    """

    def __init__(self, gan: Any, device: torch.device) -> None:
        self.g, self.d = copy.deepcopy(gan.generator).to(device), copy.deepcopy(gan.discriminator).to(device)
        self.d_optimizer = torch.optim.Adam(self.d.parameters(), lr=gan.lr_d, betas=gan.betas)
        self.g_optimizer = torch.optim.Adam(self.g.parameters(), lr=gan.lr_g, betas=gan.betas)
        self.criterion = nn.BCEWithLogitsLoss()
        self.randomness = stream(gan.seed, "latents", 0, device=device)

    def step(self, real: Tensor) -> tuple[float, float]:
        ones, zeros = torch.ones(len(real), device=real.device), torch.zeros(len(real), device=real.device)
        self.d.zero_grad()
        loss_real = self.criterion(self.d(real), ones)
        loss_real.backward()
        fake = self.g(torch.randn(len(real), self.g.latent_dim, generator=self.randomness, device=real.device))
        loss_fake = self.criterion(self.d(fake.detach()), zeros)
        loss_fake.backward()
        self.d_optimizer.step()
        self.g.zero_grad()
        loss_g = self.criterion(self.d(fake), ones)
        loss_g.backward()
        self.g_optimizer.step()
        return (loss_real + loss_fake).item(), loss_g.item()


@contextmanager
def tutorial_process(device: str, config: dict[str, Any]) -> Iterator[Callable[[int], float]]:
    """The tutorial loop where its user has it, in a process of its own with torch's switches and memory as they are.

    Yields what makes so many steps and returns the seconds of one; for none, the launches of a step on a GPU.
    """
    command = _in_own_process("tutorial_loop", device, str(torch.get_num_threads()))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(question: Any) -> float:
            print(json.dumps(question), file=process.stdin, flush=True)
            if not (answer := process.stdout.readline()):
                raise RuntimeError("the process of the tutorial loop ended; what it printed is above.")
            return float(answer)

        try:
            ask(config)
            yield ask
        finally:
            process.stdin.close()


def tutorial_loop(device: str, threads: str) -> None:
    """Reads a config and then, line by line, how many steps to make; answers as `tutorial_process` says."""
    from gannorm.training import prepare

    torch.set_num_threads(int(threads))
    config = json.loads(input())
    with redirect_stdout(sys.stderr):
        gan, data = prepare(config)
    tutorial = Tutorial(gan, torch.device(device))
    batches = ImageLoader(data.train.pixels, config["data"]["batch_size"], seed=0, device=device)
    real = next(batches)
    print(0.0, flush=True)  # ready
    for steps in map(int, sys.stdin):
        answer = clocked(tutorial.step, batches, steps) if steps else _launches(lambda: tutorial.step(real))
        print(answer, flush=True)


def clocked(step: Callable[[Tensor], Any], batches: ImageLoader, steps: int) -> float:
    """Seconds of a step."""
    started = now(batches.device)
    for _ in range(steps):
        step(next(batches))
    return (now(batches.device) - started) / steps


class Bare:
    """The mathematics of our step, with our precision and layout, without Lightning, logging and callbacks."""

    def __init__(self, gan: Any, arithmetic: Any, device: torch.device) -> None:
        layout = torch.channels_last if arithmetic.channels_last else torch.contiguous_format
        self.gan = copy.deepcopy(gan).to(device).to(memory_format=layout)
        self.d_optimizer, self.g_optimizer = self.gan.configure_optimizers()
        self.gan._latent_randomness = stream(gan.seed, "latents", 0, device=device)
        reduced = arithmetic.precision == "bf16-mixed"
        self.autocast = lambda: (
            torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if reduced else nullcontext()
        )

    def step(self, real: Tensor) -> None:
        gan = self.gan
        with self.autocast():
            fake = gan.generator(gan.latents(len(real))).to(real.dtype)
            d_loss = gan.discriminator_loss(real, fake.detach())
        self.d_optimizer.zero_grad()
        d_loss.backward()
        self.d_optimizer.step()
        for p in gan._trainable:
            p.requires_grad_(False)
        with self.autocast():
            g_loss = gan.generator_loss(real, fake)
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        for p in gan._trainable:
            p.requires_grad_(True)
        gan.ema.update(gan.generator)


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
    products = Bare(_products_alone(gan), arithmetic, bench.device)
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
                real, launched = next(batches), getattr(gan._compute, "failed", "") or gan.launching
                launches["tutorial"] = tutorial(0)
                launches["ours"] = _launches(lambda: gan._compute(real))  # some updates more than the run counts
            begin = now(bench.device)

    last_call = 10 if on_gpu else 1  # steps; the last pause is at its beginning
    with tutorial_process(bench.device.type, config) as tutorial:
        _train(bench, config | {"steps": (rounds + 1) * chunk + last_call}, pause)
    real = next(batches)
    peak = bench.flops["bfloat16" if arithmetic.precision == "bf16-mixed" else "float32"]
    flops, its_flops = (
        _flops(lambda loop=loop: loop.step(real))
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


def _products_alone(gan: Any) -> Any:
    """The same networks with nothing between their convolutions, the limit of faster normalizers and activations."""
    gan = copy.deepcopy(gan)
    for network in (gan.generator, gan.discriminator, gan.ema):
        for name, module in network.named_modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LeakyReLU, nn.ReLU)):
                network.set_submodule(name, nn.Identity())
    gan._trainable = list(gan.discriminator.parameters())
    return gan


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

    with mock.patch.object(GAN, "_captured", lambda _: lambda images: {"loss_d": zero, "loss_g": zero}):
        _train(bench, config | {"steps": (bench.rounds + 2) * steps}, pause)
    note = "where a step is a CUDA graph, a call makes up to 10"
    return Row("training", "a call with nothing to compute", statistics.median(times), note=note)


def _train(bench: Bench, config: dict[str, Any], pause: Callable[..., None]) -> None:
    """A real run, which calls `pause` at the beginning of each call of the training step."""
    from gannorm.training import GAN, train

    trainer = {"accelerator": bench.device.type, "devices": 1}
    hook = mock.patch.object(GAN, "on_train_batch_start", pause)
    with tempfile.TemporaryDirectory() as folder, hook, redirect_stdout(sys.stderr):
        train(config | {"trainer": trainer}, Path(folder) / "run")


def _flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _launches(run: Callable[[], Any], steps: int = 5) -> float:
    """Calls a step by which the CPU has the GPU do something: kernels one by one, or graphs of them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            run()
    calls = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
    return sum(event.count for event in profile.key_averages() if event.key.startswith(calls)) / steps


def digits_config(**changes: Any) -> dict[str, Any]:
    """configs/digits.yaml, its probes and files off; resolved without jsonargparse, which a GPU machine may lack."""
    config = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    config["model"] |= {"d_steps": 1, "equalize_bias": False, "residual_blocks": 0, "initialization_options": {}}
    for defaults in ("d_composition", "separate"), ("g_composition", "fake"):
        config["model"].setdefault(*defaults)
    off = {"probe_every": 0, "sample_every": 0, "checkpoint_every": 0, "wandb": "off", "wandb_project": ""}
    off |= {"why_every": 0, "why_budget": 0.1, "why_layers": []}
    config |= {"seed": 0, "name": "run", "output": "", "progress": False, "probe_images": 64, "trainer": {}, **off}
    return config | changes


def cifar_config(width: int = 32) -> dict[str, Any]:
    """The digits recipe at CIFAR's shapes: 32×32×3, batch 64, on random bytes."""
    config = digits_config()
    config["data"] = {"name": "random_bytes", "image_size": 32, "batch_size": 64}
    config["model"]["discriminator"]["width"] = config["model"]["generator"]["width"] = width
    return config


def _random_images(size: int, split: str, count: int = 2048) -> Images:
    pixels = torch.randint(256, (count, 3, size, size), generator=stream(0, "pixels"), dtype=torch.uint8)
    return Images(pixels, None, (), "random_bytes", split)


if "random_bytes" not in DATASETS:
    DATASETS.register("random_bytes", lambda split, image_size, **_: _random_images(image_size, split))


# -- scaling ----------------------------------------------------------------------------------------------------------


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
                factor = _flops(loops[times]) / _flops(_loop(bench, **base))
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
    bare = _bare(bench, Generator(size, 3, width), Discriminator(size, 3, width))
    real = to_float(_random_images(size, "train", batch).pixels).to(bench.device)
    return lambda: bare.step(real)


def _bare(bench: Bench, generator: Generator, discriminator: Discriminator) -> Bare:
    from gannorm.training import GAN
    from gannorm.training.precision import Arithmetic

    arithmetic = Arithmetic("32-true", channels_last=True, exact=False, why="")
    return Bare(GAN(generator, discriminator), arithmetic, bench.device)


# -- data -------------------------------------------------------------------------------------------------------------


def data(bench: Bench) -> Iterator[Row]:
    from PIL import Image

    images, batch = _random_images(32, "train"), 64
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(512)]
        for file, pixels in zip(files, images.pixels, strict=False):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)

        def decoded(index: int) -> Tensor:
            with Image.open(files[index]) as image:
                return to_float(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8))

        def drained(dataset: Dataset[Tensor]) -> list[Tensor]:
            batches = DataLoader(dataset, batch, shuffle=True, drop_last=True)
            return [found.to(bench.device) for found in islice(batches, 8)]

        ours = ImageLoader(images.pixels, batch, seed=0, device=bench.device)
        times = bench.interleaved(
            {
                "ours": lambda: [next(ours) for _ in range(8)],
                "decoded": lambda: drained(Items(len(files), decoded)),
                "resident": lambda: drained(Items(len(images), lambda index: to_float(images.pixels[index]))),
            }
        )
    note = f"{8 * batch / statistics.median(times['ours']):,.0f} img/s"
    yield row("data", "8 batches of 64, 32×32×3", times, "ours", "decoded", True, "DataLoader, PIL", note=note)
    yield row("data", "8 batches of 64, 32×32×3", times, "ours", "resident", True, "DataLoader, in memory")


class Items(Dataset[Tensor]):
    """A data set as a DataLoader takes it, of as many items, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Tensor]) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.make(index)


# -- probes -----------------------------------------------------------------------------------------------------------


def probes(bench: Bench) -> Iterator[Row]:
    from gannorm import probes

    small = Discriminator(8, 1, 8).to(bench.device)
    for count in (16, 1024):
        x = torch.randn(count, 1, 8, 8, generator=stream(0, "probe")).to(bench.device)
        with mock.patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
            probes.estimate_coupling(small, x)
        yield Row("probes", f"estimate_coupling at N={count}", note=f"{grad.call_count} backward passes")
    bare = _bare(bench, Generator(16, 1, 32), Discriminator(16, 1, 16))
    critic = bare.gan.discriminator
    real, fake = (torch.randn(64, 1, 16, 16, generator=stream(0, n)).to(bench.device) for n in ("real", "fake"))
    times = bench.interleaved(
        {
            "matrix": lambda: probes.coupling_matrix(critic, real),
            "estimate": lambda: probes.estimate_coupling(critic, real),
            "all": lambda: probes.batch_invariance(critic, real, fake),
            "step": lambda: bare.step(real),
        },
        rounds=2,
    )
    what = "estimate_coupling at N=64"
    yield row("probes", what, times, "estimate", "matrix", True, "coupling_matrix", "≥ 10")
    yield row("probes", "batch_invariance, 64 + 64", times, "all", "step", False, "a training step", "≤ 30")


# -- normalizers ------------------------------------------------------------------------------------------------------


def normalizers(bench: Bench) -> Iterator[Row]:
    """Forward and backward of each on a large map; torch's own are listed too, the target is for the others.

    Each in a process of its own: about half of BatchNorm2d's time goes into the pages of fresh maps, and what ran
    before decides whether malloc has some at hand.
    """
    size = 16 if bench.quick else 32
    for name in NORMALIZERS:
        arguments = (name, bench.device.type, str(torch.get_num_threads()), str(bench.rounds), str(size))
        command = _in_own_process("normalizer_times", *arguments)
        times, own, nbytes = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        # Input read and output written, forward; input and gradient read and a gradient written, backward.
        share = 5 * nbytes / statistics.median(times["ours"]) / bench.bytes_per_second
        target, note = ("≤ 2", f"{share:.0%} of a copy's memory bandwidth") if own else ("", "torch's own")
        yield row("normalizers", name, times, "ours", "batch", False, "BatchNorm2d", target, note=note)


def normalizer_times(name: str, device: str, threads: str, rounds: str, size: str) -> None:
    """Prints the times of a normalizer and of BatchNorm2d, whether it is our own, and the bytes of a map."""
    torch.set_num_threads(int(threads))
    shape = (64, 128, int(size), int(size))
    x = torch.randn(shape, generator=stream(0, "map")).to(device).requires_grad_()
    grad = torch.randn(shape, generator=stream(0, "grad")).to(device)
    layer = NORMALIZERS[name](shape[1]).to(device)
    if NORMALIZERS[name].reference:
        set_reference(nn.Sequential(layer), x.detach()[:8])  # its statistics alone, not a network's second pass

    def both_ways(layer: nn.Module) -> Callable[[], Any]:
        wanted = [x, *layer.parameters()]
        return lambda: torch.autograd.grad(layer(x), wanted, grad, allow_unused=True) and None

    runs = {"ours": both_ways(layer), "batch": both_ways(nn.BatchNorm2d(shape[1]).to(device))}
    own = not type(layer).__module__.startswith("torch.nn")
    print(json.dumps([interleaved(runs, int(rounds), x.device), own, x.nbytes]))


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluation(bench: Bench) -> Iterator[Row]:
    """Checkpoints scored by one Evaluator, against passes of generator and extractor, and torch-fidelity's one call."""
    from torch_fidelity import GenerativeModelModuleWrapper, calculate_metrics

    from gannorm.data import load_images
    from gannorm.evaluation import Evaluator, build_extractor, metrics, train_in_domain

    class Bytes(nn.Sequential):
        def forward(self, z: Tensor) -> Tensor:
            return to_uint8(super().forward(z))

    dataset = load_images("digits", "train", image_size=16)
    count = 3 if bench.quick else 10
    generators = [_seeded_generator(seed).to(bench.device) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, GANNORM_CACHE=folder):
        card = train_in_domain(dataset, folder, device=bench.device)
        extractor = build_extractor("in_domain", dataset, weights=folder, device=bench.device)
        evaluator = Evaluator(dataset, extractor=extractor, quiet=True)
        single = Evaluator(dataset, extractor=extractor, quiet=True, kid_subsets=1)
        passes, score, shares = _judges(evaluator)

        def separately(generator: nn.Module) -> None:
            warnings.simplefilter("ignore")  # its loaders' word on the number of their processes
            calculate_metrics(
                input1=GenerativeModelModuleWrapper(Bytes(generator), 64, "normal", 0),
                input1_model_num_samples=evaluator.samples,
                input2=Items(len(dataset), dataset.pixels.__getitem__),
                feature_extractor="in_domain",
                feature_extractor_weights_path=str(Path(folder) / card["weights"]),
                **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
                kid_subset_size=evaluator.kid_subset_size,
                cuda=bench.device.type == "cuda",
                cache=False,
                save_cpu_ram=False,
                verbose=False,
            )

        # A round is one checkpoint for each; what the reference costs once is shared out over all of them.
        begin = now(bench.device)
        Evaluator(dataset, extractor=extractor, quiet=True, seed=1)  # another key: nothing is in the cache
        once = (now(bench.device) - begin) / count
        contestants = {"ours": score, "one subset": single.score, "passes": passes, "separate": separately}
        drawn = {name: iter([generators[0], *generators]) for name in contestants}  # the first round is not counted
        runs = {name: lambda name=name, run=run: run(next(drawn[name])) for name, run in contestants.items()}
        times = bench.interleaved(runs, rounds=count)
    for name in ("ours", "one subset"):
        times[name] = [seconds + once for seconds in times[name]]
    # Medians of single checkpoints would hide a slow one: the sum is what a person waits for.
    total = {name: [sum(seconds)] for name, seconds in times.items()}
    what = f"{count} checkpoints, {evaluator.samples} digits each"
    note = f"{statistics.median(shares):.0%} of it in the extractor"
    yield row("evaluation", what, total, "ours", "passes", False, "passes alone", "≤ 1.1", note=note)
    what_less = "the same with 1 KID subset instead of 100"
    yield row("evaluation", what_less, total, "one subset", "passes", False, "passes alone", "≤ 1.1")
    yield row("evaluation", what, total, "ours", "separate", True, "calculate_metrics", "≥ 1.8")
    yield _frechet(bench, metrics, 512 if bench.quick else 2048)
    yield _inception(bench)


def _frechet(bench: Bench, metrics: Any, features: int) -> Row:
    halves = (torch.randn(4 * features, features, generator=stream(0, kind)) for kind in ("fake", "real"))
    fake, real = (metrics.gaussian(half) for half in halves)
    root = metrics.matrix_root(real[1])
    solvers = {
        "symmetric": lambda: metrics.frechet_distance_symmetric(fake, real, root),
        "torch-fidelity": lambda: metrics.frechet_distance(fake, real),
    }
    times = bench.interleaved(solvers, rounds=2)
    return row("evaluation", f"FID of {features} features, symmetric", times, *solvers, True, "torch-fidelity's")


def _inception(bench: Bench) -> Row:
    """The same through torch-fidelity's Inception, with random weights: what they are does not change the time."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from gannorm.evaluation import Evaluator
    from gannorm.evaluation.extractors import INCEPTION, METRICS, Extractor

    count = 100 if bench.quick else 500
    with (
        mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None),
    ):
        module = FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"]).to(bench.device).eval()
    layers = {name: FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(name) for name in METRICS}
    generator = _seeded_generator(0, channels=3).to(bench.device)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, GANNORM_CACHE=folder):
        images = _random_images(16, "train", count)
        extractor = Extractor(INCEPTION, module, layers, "random", bench.device)
        warnings.simplefilter("ignore")  # fewer images than features
        evaluator = Evaluator(images, extractor=extractor, fid_solver="symmetric", quiet=True)
        passes, score, shares = _judges(evaluator)
        runs = {"ours": lambda: score(generator), "passes": lambda: passes(generator)}
        times = bench.interleaved(runs, rounds=1 if bench.quick else 2)
    note = f"{statistics.median(shares):.0%} of it in the extractor; the reference is cached"
    what = f"a checkpoint, {count} images, Inception"
    return row("evaluation", what, times, "ours", "passes", False, "passes alone", "≤ 1.1", note=note)


def _judges(evaluator: Any) -> tuple[Callable[[nn.Module], None], Callable[[nn.Module], None], list[float]]:
    """The bare passes of a generator's images, its scores, and what share of each scoring was in the extractor."""
    extractor, shares = evaluator.extractor, []

    def passes(generator: nn.Module) -> None:
        with torch.no_grad():
            for start in range(0, evaluator.samples, 64):
                z = torch.randn(min(64, evaluator.samples - start), 64, device=extractor.device)
                extractor.module(to_uint8(generator(z)))

    def score(generator: nn.Module) -> None:
        found = evaluator.score(generator)
        shares.append(found.seconds_by_part["extractor"] / found.seconds)

    return passes, score, shares


def _seeded_generator(seed: int, channels: int = 1) -> Generator:
    generator = Generator(16, channels, 32)
    for p in generator.parameters():
        nn.init.normal_(p, 0.0, 0.02, generator=stream(seed, "weights"))
    return generator.eval()


# -- start-up ---------------------------------------------------------------------------------------------------------


def startup(bench: Bench) -> Iterator[Row]:
    """Whole processes, from the shell's view: imports are most of them."""
    import jsonargparse

    assert jsonargparse, "the command line needs it"
    with tempfile.TemporaryDirectory() as folder:
        config = ["--config", str(REPOSITORY / "configs/digits.yaml"), "--steps=1", f"--output={folder}", *OFF]
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


# A process of its own between, for a process counts what its parent held when it was forked.
PEAK_OF_CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _memory() -> Iterator[Row]:
    """The most memory that a run of each config held: of the process on the CPU, which holds the libraries too."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for i, pixels in enumerate(_random_images(32, "train", 512).pixels):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(Path(folder) / f"{i}.png")
        environment = {**os.environ, "GANNORM_CACHE": f"{folder}/cache"}
        beside = {"digits": OFF, "folder": [*OFF, f"--data.root={folder}"]}
        beside["classifier"] = ["--why_every=0", "--progress=false", "--wandb=off"]
        for name, options in beside.items():
            file = REPOSITORY / f"configs/{name}.yaml"
            command = ["-m", "gannorm.cli", "train", "--config", str(file), f"--output={folder}/runs", "--steps=20"]
            argv = [sys.executable, "-c", PEAK_OF_CHILD, sys.executable, *command, *options]
            peak = int(subprocess.run(argv, check=True, stdout=subprocess.PIPE, env=environment).stdout)
            gibibytes = peak / (2**30 if sys.platform == "darwin" else 2**20)
            yield Row("startup", f"peak memory of configs/{name}.yaml", note=f"{gibibytes:.2f} GiB")


# -- packing ----------------------------------------------------------------------------------------------------------


def packing(bench: Bench) -> Iterator[Row]:
    """Several runs at once on one device: the images a second of all of them, against those of one run alone."""
    counts = (1, 2, 4, 8) if bench.device.type == "cuda" else (1, 2)
    times: Times = {str(count): [] for count in counts}  # seconds of an image, whichever run has it
    for _ in range(1 if bench.quick else 3):
        for count in counts:
            times[str(count)].append(1 / _together(bench, count))
    for count in counts[1:]:
        note = f"{1 / statistics.median(times[str(count)]):,.0f} img/s, {max(1, _cores() // count)} threads a run"
        what = f"{count} runs on one device"
        yield row("packing", what, times, str(count), "1", True, "one run at a time", note=note)


def _together(bench: Bench, count: int) -> float:
    """Images a second of `count` runs, while all of them train."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, _cores() // count))}
    with tempfile.TemporaryDirectory() as folder:
        command = _in_own_process("packed_run", bench.device.type, "5" if bench.quick else "20", str(count), folder)
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- the command ------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "training": training,
    "data": data,
    "probes": probes,
    "normalizers": normalizers,
    "evaluation": evaluation,
    "scaling": scaling,
    "packing": packing,
    "startup": startup,
}


def hardware(bench: Bench) -> dict[str, Any]:
    from gannorm.training.precision import fast_bf16

    cpu = torch.cpu.get_capabilities()
    device = bench.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu.get("cpu_name", platform.machine())
    return {
        "device": name,
        "fast_bf16": fast_bf16(device.type),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "flops_per_second": bench.flops,
        "bytes_per_second": bench.bytes_per_second,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("gannorm", "torch", "lightning")},
        "quick": bench.quick,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller maps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="of torch on the CPU; default: torch's own choice")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), help="JSON file to write")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options.device, options.quick)
    machine, rows = hardware(bench), []
    print(json.dumps(machine, indent=2), flush=True)
    for name in options.only:
        begin = time.perf_counter()
        try:
            for found in SECTIONS[name](bench):
                rows.append(found)
                print(found, flush=True)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            print(f"{name:<12} left out: {error.name} is not installed", flush=True)
        print(f"{name:<12} took {time.perf_counter() - begin:.0f} s", flush=True)
    result = {"machine": machine, "rows": [asdict(found) | {"met": found.met} for found in rows]}
    options.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(options.output)
    if "scaling" in options.only:
        plot_scaling(rows, options.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
