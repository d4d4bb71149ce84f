"""The loops that ours is compared with: the tutorial's, and a bare one without Lightning."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.core import Bench, in_own_process, now
from gannorm.config import TrainConfig
from gannorm.data import Images
from gannorm.data.datasets import DATASETS
from gannorm.data.loader import ImageLoader
from gannorm.models import Discriminator, Generator
from gannorm.seeds import stream


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
    command = in_own_process(tutorial_loop, device, str(torch.get_num_threads()))
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
    name_random_images()  # which a config may name; this process has a registry of its own
    config = json.loads(input())
    with redirect_stdout(sys.stderr):
        gan, data = prepare(config)
    tutorial = Tutorial(gan, torch.device(device))
    batches = ImageLoader(data.train.pixels, config["data"]["batch_size"], seed=0, device=device)
    real = next(batches)
    print(0.0, flush=True)  # ready
    for steps in map(int, sys.stdin):
        answer = clocked(tutorial.step, batches, steps) if steps else count_launches(lambda: tutorial.step(real))
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


def bare_loop(bench: Bench, generator: Generator, discriminator: Discriminator) -> Bare:
    from gannorm.arithmetic import Arithmetic
    from gannorm.training import GAN

    arithmetic = Arithmetic("32-true", channels_last=True, exact=False, why="")
    return Bare(GAN(generator, discriminator), arithmetic, bench.device)


def products_alone(gan: Any) -> Any:
    """The same networks with nothing between their convolutions, the limit of faster normalizers and activations."""
    gan = copy.deepcopy(gan)
    for network in (gan.generator, gan.discriminator, gan.ema):
        for name, module in network.named_modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LeakyReLU, nn.ReLU)):
                network.set_submodule(name, nn.Identity())
    gan._trainable = list(gan.discriminator.parameters())
    return gan


def count_flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_launches(run: Callable[[], Any], steps: int = 5) -> float:
    """Calls a step by which the CPU has the GPU do something: kernels one by one, or graphs of them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            run()
    calls = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
    return sum(event.count for event in profile.key_averages() if event.key.startswith(calls)) / steps


def digits_config(**changes: Any) -> dict[str, Any]:
    """The recipe digits, its probes and files off."""
    off = {"probe_every": 0, "sample_every": 0, "checkpoint_every": 0, "wandb": "off", "wandb_project": ""}
    config = TrainConfig.load("digits", name="run", output="", progress=False, probe_images=64, **off)
    return config.to_dict() | changes


def cifar_config(width: int = 32) -> dict[str, Any]:
    """The digits recipe at CIFAR's shapes: 32×32×3, batch 64, on random bytes."""
    name_random_images()
    config = digits_config()
    config["data"] = {"name": "random_bytes", "image_size": 32, "batch_size": 64}
    config["model"]["discriminator"]["width"] = config["model"]["generator"]["width"] = width
    return config


def name_random_images() -> None:
    """Make random images a data set that a config can name."""
    DATASETS.register("random_bytes", lambda split, image_size, **_: random_images(image_size, split))


def random_images(size: int, split: str, count: int = 2048) -> Images:
    pixels = torch.randint(256, (count, 3, size, size), generator=stream(0, "pixels"), dtype=torch.uint8)
    return Images(pixels, None, (), "random_bytes", split)


class Items(Dataset[Tensor]):
    """A data set as a DataLoader takes it, of as many items, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Tensor]) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.make(index)
