"""Experimental, and off by default (`model.cuda_graph`): the kernels of a training step as one CUDA graph.

A small GAN leaves a GPU waiting for the CPU, which launches some hundreds of kernels a step, one by one. A step that is
the same program every time (the same kernels on the same memory, with the same numbers from the host) can be recorded
once and replayed. Ours is: weights, running statistics, optimizer states and the averaged generator are updated in
place, schedules count on the device, latents and noise come from generators that the graph knows, and nothing is read
back. The GAN knows nothing of this: `CudaGraph` is a callback that stands a `Captured` in the place of its `update`.
Where a step cannot be recorded, or its first replay does not equal the step itself, a warning says why and every step
is launched kernel by kernel.

Source: PyTorch's notes on CUDA graphs (whole-network capture).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from gannorm.losses import LOSSES, PENALTIES
from gannorm.models.augmentation import AUGMENTATIONS
from gannorm.registry import Registry
from gannorm.training.gan import GAN

WARM_UP = 3  # steps before recording: libraries choose kernels, and optimizers make their states, in the first ones

# Of the first replay's distance from the step that it should repeat, over the length of that step, in each group of
# tensors. With deterministic kernels it is 0. Rounding alone moves Adam by a few per cent of a step, in weights whose
# gradient is nothing but rounding, such as a bias before BatchNorm; old images or an update that is missing, by all.
TOLERANCE = 0.1

Losses = dict[str, Tensor]
Step = Callable[[Tensor], Losses]
State = Mapping[str, Sequence[Tensor]]  # groups of tensors of one scale, by name


class Graphs(Protocol):
    """How a device records and replays. (CUDA's is below; the tests have one that replays operations on a CPU.)"""

    def aside(self) -> AbstractContextManager[None]:
        """For the steps before recording."""

    def strict(self) -> AbstractContextManager[None]:
        """Inside, what recording would not permit, such as reading a result, is a RuntimeError already."""

    def record(
        self, step: Callable[[], Losses], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Losses]:
        """Record `step`, without computing it: what computes it, and the tensors in which its results will be."""


def graphs_of(device: torch.device) -> Graphs | None:
    """The device's way to record; None where it has none."""
    return CudaGraphs(device) if device.type == "cuda" else None


class CudaGraph(Callback):
    """Launches the steps of a GAN as one graph where that is possible; otherwise one warning says why it is not."""

    state_key = "CudaGraph"  # type: ignore[assignment]

    def on_train_start(self, trainer: pl.Trainer, gan: GAN) -> None:  # type: ignore[override]
        graphs = graphs_of(gan.device)
        if reason := "the device has no CUDA graphs" if graphs is None else _obstacle(trainer, gan):
            warnings.warn(f"steps are launched as single kernels: {reason}.", stacklevel=2)
            return
        assert graphs is not None
        randomness = [gan._latent_randomness, gan._penalty_randomness]
        gan.update = Captured(gan.update, lambda: state_of(gan), gan._optimizers, randomness, graphs)  # type: ignore

    def on_fit_end(self, trainer: pl.Trainer, gan: Any) -> None:
        vars(gan).pop("update", None)  # a graph keeps the memory of its step


def _obstacle(trainer: pl.Trainer, gan: GAN) -> str:
    """Why a step is not one program that nothing looks into, or ""."""
    kinds = {type(module) for network in (gan.generator, gan.discriminator) for module in network.modules()}
    foreign = [kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] not in ("gannorm", "torch")]
    registries: dict[str, Registry[Any]] = {"loss": LOSSES, "penalty": PENALTIES, "augment": AUGMENTATIONS}
    foreign += [gan.hparams[key] for key, names in registries.items() if gan.hparams[key] not in names.built_in]
    if foreign:
        return f"whether {', '.join(sorted(foreign))} does the same at every step is not known"
    if gan.hparams["accumulate"] > 1:
        return "microbatches are accumulated"
    if trainer.world_size > 1:
        return "several processes average their gradients within a step"
    if any(getattr(callback, "looks_into_steps", False) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return "optimization probes look into a step"
    return ""


def state_of(gan: GAN) -> State:
    """What a step updates: the weights of each network, and its buffers of each name, which have one scale."""
    groups: dict[str, list[Tensor]] = {}
    networks = {"the generator": gan.generator, "the discriminator": gan.discriminator, "the average": gan.ema}
    for owner, network in networks.items():
        groups[f"weights of {owner}"] = list(network.parameters())
        for name, buffer in network.named_buffers():
            groups.setdefault(f"{name.rpartition('.')[2]} of {owner}", []).append(buffer)
    return groups


class CudaGraphs:
    """CUDA's graphs. Recording wants a stream other than the default one, and so do the steps before it."""

    def __init__(self, device: torch.device) -> None:
        # One for all: cuBLAS keeps a workspace for every stream that it has seen.
        self.stream = torch.cuda.Stream(device)

    @contextmanager
    def aside(self) -> Iterator[None]:
        present = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(present)
        with torch.cuda.stream(self.stream):
            yield
        present.wait_stream(self.stream)

    @contextmanager
    def strict(self) -> Iterator[None]:
        # An operation that breaks a recording leaves the generators of some torch versions in it for good.
        mode = torch.cuda.get_sync_debug_mode()
        try:
            with warnings.catch_warnings():  # which says, once a process, that this is a prototype
                warnings.filterwarnings("ignore", message="Synchronization debug mode")
                torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def record(
        self, step: Callable[[], Losses], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Losses]:
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # later ones register a generator where it is first used
            for generator in generators:
                graph.register_generator_state(generator)
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.stream.device)),  # put back also where recording fails
            # In other threads, W&B's for example, anything is permitted.
            torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            losses = step()
        return graph.replay, losses


class Captured:
    """A step that is computed a few times, then recorded, and replayed from then on.

    The step that is recorded is computed twice, from the same state: as it is, and by the first replay. If they differ,
    or if recording fails, a warning says so, the first stands, and all further steps are computed as they are.

    Args:
        step: (N, C, H, W) → losses; it must update its state in place.
        state: the tensors that a step updates, but those of the optimizers, in groups that are compared each for
            itself.
        optimizers: the step's; their states are updated too.
        generators: the random generators that the step draws from, beside the device's global one.
        graphs: the device's way to record.
    """

    def __init__(
        self,
        step: Step,
        state: Callable[[], State],
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
        before = after = None
        try:
            before = self._snapshot(images.device)
            with self.graphs.strict(), self.graphs.aside():
                losses = {name: loss.clone() for name, loss in self.step(images).items()}
            after = self._snapshot(images.device)
            self._record(images, before, after)
            return self._losses
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # the end of the recording that it broke
                raise KeyboardInterrupt from None
            self.failed = " ".join(str(error).split())[:200]
        self._replay, self._images, self._losses = None, None, {}
        warnings.warn(f"a step is launched as single kernels: it cannot be one graph ({self.failed}).", stacklevel=2)
        if after is not None:
            after.restore()
            return losses
        if before is not None:
            before.restore()
        return self.step(images)

    def _record(self, images: Tensor, before: _Snapshot, after: _Snapshot) -> None:
        """Raises RuntimeError if the step cannot be replayed."""
        if not before.same_memory(after):
            raise RuntimeError("it makes some of its state again at every step")
        self._images = inputs = images.clone()
        before.restore()
        with _capturable(self.optimizers):
            replay, self._losses = self.graphs.record(lambda: self.step(inputs), self.generators)
        before.restore()  # should anything have been computed
        replay()
        for group, distance in before.distances(after).items():
            if not distance <= TOLERANCE:
                raise RuntimeError(f"its replay differs from it in the {group}, by {distance:.2g} of its length")
        if not after.same_randomness(self._snapshot(images.device)):
            raise RuntimeError("its replay draws other random numbers")
        self._replay = replay

    def _snapshot(self, device: torch.device) -> _Snapshot:
        state = {group: list(tensors) for group, tensors in self.state().items()}
        for number, optimizer in enumerate(self.optimizers):
            for kept in optimizer.state.values():
                for name, value in kept.items():
                    if isinstance(value, Tensor):
                        state.setdefault(f"{name} of optimizer {number}", []).append(value)
        return _Snapshot(state, [*self.generators, _global_generator(device)])


class _Snapshot:
    """Copies of all that a step updates."""

    def __init__(self, state: State, generators: Sequence[torch.Generator]) -> None:
        self.groups = {group: [(t, t.detach().clone()) for t in tensors] for group, tensors in state.items()}
        self.generators = [(generator, generator.get_state()) for generator in generators]

    @torch.no_grad()
    def restore(self) -> None:
        for copies in self.groups.values():
            for tensor, copy in copies:
                tensor.copy_(copy)
        for generator, state in self.generators:
            generator.set_state(state)

    def same_memory(self, other: _Snapshot) -> bool:
        first, second = ([t for copies in s.groups.values() for t, _ in copies] for s in (self, other))
        return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))

    def same_randomness(self, other: _Snapshot) -> bool:
        pairs = zip(self.generators, other.generators, strict=True)
        return all(torch.equal(first, second) for (_, first), (_, second) in pairs)

    def distances(self, after: _Snapshot) -> dict[str, float]:
        """How far each group lies from `after` now, over how far `after` lies from here."""
        distances = {}
        for group, copies in self.groups.items():
            distance = length = 0.0
            for (tensor, here), (_, there) in zip(copies, after.groups[group], strict=True):
                distance += float((tensor.detach().double() - there.double()).square().sum())
                length += float((there.double() - here.double()).square().sum())
            if distance == 0:
                distances[group] = 0.0
            else:
                distances[group] = math.sqrt(distance / length) if length else math.inf
        return distances


@contextmanager
def _capturable(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Optimizers can be recorded only with this setting, and warn of it elsewhere."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    before = [group["capturable"] for group in groups]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


def _global_generator(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
