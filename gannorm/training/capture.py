"""The kernels of a training step as one CUDA graph, which a single call launches.

A small GAN leaves a GPU waiting for the CPU, which launches some hundreds of kernels a step, one by one. A step that is
the same program every time (the same kernels on the same memory, with the same numbers from the host) can be recorded
once and replayed. Ours is: weights, running statistics, optimizer states and the averaged generator are updated in
place, schedules count on the device, latents and noise come from generators that the graph knows, and nothing is read
back. What cannot be so, `GAN` names, and computes kernel by kernel; what turns out not to be so is found here, by
comparing the first replay with the step itself.

Source: PyTorch's notes on CUDA graphs (whole-network capture).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UP = 3  # steps before recording: libraries choose kernels, and optimizers make their states, in the first ones

# Of the first replay's distance from the step that it should repeat, over the length of that step. With deterministic
# kernels it is 0. Rounding alone moves Adam by a few per cent of a step, in weights whose gradient is nothing but
# rounding, such as a bias before BatchNorm; old images, noise that repeats or an update that is missing, by all of it.
TOLERANCE = 0.1

Losses = dict[str, Tensor]
Step = Callable[[Tensor], Losses]


class Graphs(Protocol):
    """How a device records and replays. (CUDA's is below; the tests have one that replays operations on a CPU.)"""

    def aside(self) -> Any:
        """A context for the steps before recording."""

    def record(
        self, step: Callable[[], Losses], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Losses]:
        """Record `step`, without computing it: what computes it, and the tensors in which its results will be."""


def graphs_of(device: torch.device) -> Graphs | None:
    """The device's way to record; None where it has none."""
    return CudaGraphs() if device.type == "cuda" else None


class CudaGraphs:
    """CUDA's graphs. Recording wants a stream other than the default one, and so do the steps before it."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        stream, present = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            yield
        present.wait_stream(stream)

    def record(
        self, step: Callable[[], Losses], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Losses]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # W&B's threads are not ours to stop
            losses = step()
        return graph.replay, losses


class Captured:
    """A step that is computed a few times, then recorded, and replayed from then on.

    The step that is recorded is computed twice, from the same state: as it is, and by the first replay. If they differ,
    or if recording fails, a warning says so, the first stands, and all further steps are computed as they are.

    Args:
        step: (N, C, H, W) → losses; it must update its state in place.
        state: the tensors that a step updates: weights, buffers and averages.
        optimizers: the step's; their states are updated too.
        generators: the random generators that the step draws from, beside the device's global one.
        graphs: the device's way to record.
    """

    def __init__(
        self,
        step: Step,
        state: Callable[[], Sequence[Tensor]],
        optimizers: Sequence[torch.optim.Optimizer],
        generators: Sequence[torch.Generator],
        graphs: Graphs,
    ) -> None:
        self.step, self.state, self.optimizers, self.generators = step, state, optimizers, generators
        self.graphs = graphs
        self.failed = ""  # why steps are computed as they are
        self._calls = 0
        self._images: Tensor | None = None  # where the graph reads its batch
        self._replay: Callable[[], None] | None = None
        self._losses: Losses = {}

    def __call__(self, images: Tensor) -> Losses:
        if self.failed:
            return self.step(images)
        self._calls += 1
        if self._calls <= WARM_UP:
            with self.graphs.aside():
                return self.step(images)
        if self._replay is None:
            return self._first_replay(images)
        assert self._images is not None
        self._images.copy_(images)
        self._replay()
        return self._losses

    def _first_replay(self, images: Tensor) -> Losses:
        self._images = inputs = images.clone()
        before = _Snapshot(self.state(), self.optimizers, self.generators, images.device)
        with self.graphs.aside():
            losses = {name: loss.clone() for name, loss in self.step(images).items()}
        after = _Snapshot(self.state(), self.optimizers, self.generators, images.device)
        try:
            if not before.same_memory(after):
                raise RuntimeError("it makes some of its state anew")
            before.restore()
            with _capturable(self.optimizers):
                self._replay, self._losses = self.graphs.record(lambda: self.step(inputs), self.generators)
            self._replay()
            apart = before.distance(after)
            if not apart <= TOLERANCE:
                self.failed = f"its replay differs from it by {apart:.2g} of its length"
        except RuntimeError as error:
            self.failed = " ".join(str(error).split())[:200]
        if not self.failed:
            return self._losses
        warnings.warn(f"a step is launched as single kernels: it cannot be one graph ({self.failed}).", stacklevel=2)
        self._replay = None
        after.restore()
        return losses


class _Snapshot:
    """Copies of all that a step updates."""

    def __init__(
        self,
        state: Sequence[Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
        generators: Sequence[torch.Generator],
        device: torch.device,
    ) -> None:
        kept = [v for o in optimizers for s in o.state.values() for v in s.values() if isinstance(v, Tensor)]
        self.copies = [(tensor, tensor.detach().clone()) for tensor in (*state, *kept)]
        self.generators = [(generator, generator.get_state()) for generator in generators]
        self.device, self.noise = device, _random_state(device)

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, copy in self.copies:
            tensor.copy_(copy)
        for generator, state in self.generators:
            generator.set_state(state)
        _set_random_state(self.device, self.noise)

    def same_memory(self, after: _Snapshot) -> bool:
        return [id(tensor) for tensor, _ in self.copies] == [id(tensor) for tensor, _ in after.copies]

    def distance(self, after: _Snapshot) -> float:
        """How far the state lies from `after`, over how far `after` lies from here."""
        apart = length = 0.0
        for (tensor, here), (_, there) in zip(self.copies, after.copies, strict=True):
            if tensor.is_floating_point() and tensor.numel() > 1:  # counters are no lengths
                apart += float((tensor.detach() - there).double().square().sum())
                length += float((there - here).double().square().sum())
        return math.sqrt(apart / length) if apart else 0.0


@contextmanager
def _capturable(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Optimizers step while they are recorded only if they are told; elsewhere they warn of what they were told."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    told = [group["capturable"] for group in groups]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group, value in zip(groups, told, strict=True):
            group["capturable"] = value


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
