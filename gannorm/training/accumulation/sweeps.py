"""Sweeps over the microbatches of a batch: what runs in each, and what is carried from one to the next.

In a run of one microbatch every batch normalizer of f is replaced by its parts (see `pooling`): it notes the statistics
s_l(x_k) of its microbatch, or is given those of the whole batch. What is carried from sweep to sweep has the size of
the statistics. See `accumulation` for the algorithm and its symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from gannorm.errors import UserError
from gannorm.isolate import modules_in
from gannorm.isolate.state import AttributeState, RandomState
from gannorm.training.accumulation.pooling import PooledBatchNorm, Running, taken_apart

PATH_MESSAGE = (
    "every microbatch must pass through the same batch normalizers in the same order: they differ; "
    "let f take the same path for every sample."
)


class Sweeps:
    """The sweeps over the microbatches `parts`, each a tuple of tensors.

    Args:
        f, loss: as for `accumulate_gradients`.
        parts: the microbatches.
        mode: in "naive" mode each microbatch is normalized by its own statistics, as is a batch that fits into one;
            otherwise by those that were found.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        loss: Callable[[Any], Tensor],
        parts: list[tuple[Tensor, ...]],
        mode: str,
    ) -> None:
        self.f, self.loss, self.parts = f, loss, parts
        self.own_statistics = mode == "naive" or len(parts) == 1
        self.batch_size = sum(len(part[0]) for part in parts)
        modules = list(dict.fromkeys(m for root in modules_in(f).values() for m in root.modules()))
        self.layers = [layer for layer in map(taken_apart, modules) if layer is not None]
        if self.own_statistics:  # a SyncBatchNorm shares those of a microbatch by itself
            self.layers = [layer for layer in self.layers if not layer.shared]
        self.calls: list[Call] = []
        self.discovering = True  # the calls, until a first run has ended
        self.state = AttributeState(modules)
        self.random_states = [RandomState()]  # in which microbatch k begins

    @torch.no_grad()
    def find_statistics(self) -> None:
        """S_1…S_L. The first sweep runs to the end, on stand-ins for what is not known yet: it finds all the calls."""
        if not self.layers:
            return
        for k in range(len(self.parts)):
            self.run(k)
        for number, call in enumerate(self.pooled()):
            for k in range(len(self.parts) if number else 0):
                self.run(k, until_unknown=True)
            call.fix()

    @torch.enable_grad()
    def find_adjoints(self) -> None:
        """λ_L…λ_1, of the statistics that reach the loss."""
        for call in reversed(self.pooled()):
            if not call.reached:
                continue
            assert call.given is not None
            call.given.requires_grad_()
            adjoint = torch.zeros_like(call.given)
            for k in range(len(self.parts)):
                adjoint += torch.autograd.grad(self.objective(k)[0], call.given, materialize_grads=True)[0]
            call.given.requires_grad_(False)
            call.share(adjoint)

    @torch.enable_grad()
    def accumulate(self) -> Tensor:
        """∇ into .grad; the mean loss."""
        torch.clear_autocast_cache()  # it may hold weights that were cast without gradient
        totals = []
        for k in range(len(self.parts)):
            objective, losses = self.objective(k, leave_traces=k == len(self.parts) - 1)
            objective.backward()
            totals.append(losses.detach().sum())
        return torch.stack(totals).sum() / self.batch_size

    def outputs(self, leave_traces: bool) -> Tensor:
        """f of the whole batch."""
        last = len(self.parts) - 1
        results = [self.run(k, leave_traces=leave_traces and k == last) for k in range(len(self.parts))]
        return torch.cat([outputs for outputs, _ in filter(None, results)])

    def move_running_statistics(self) -> None:
        """As one forward pass over the whole batch does."""
        for call in self.calls:
            if call.given is None:  # the others have moved theirs when they were fixed
                call.layer.track(call.table, call.counts)
        for layer in self.layers:
            layer.write()

    def objective(self, k: int, leave_traces: bool = False) -> tuple[Tensor, Tensor]:
        """ℓ_k + Σ_l a_lkᵀ s_l(x_k), whose gradient a sweep adds up, and the losses of the samples."""
        result = self.run(k, leave_traces=leave_traces)
        assert result is not None
        losses = result[1]
        return sum(self.terms, losses.sum() / self.batch_size), losses

    def run(
        self, k: int, part: tuple[Tensor, ...] | None = None, until_unknown: bool = False, leave_traces: bool = False
    ) -> tuple[Any, Tensor] | None:
        """f of microbatch k, or of `part` in its place, and its losses.

        Every run starts from the buffers that f had on entry and from the microbatch's own random state. With
        `until_unknown` it ends, without a result, at the first call whose statistics are not known.
        """
        part = self.parts[k] if part is None else part
        if k == len(self.random_states):
            self.random_states.append(RandomState())
        self.random_states[k].restore()
        self.k, self.until_unknown, self.position = k, until_unknown, 0
        self.terms: list[Tensor] = []
        if not leave_traces:
            self.state.use_copies()
        for layer in self.layers:
            vars(layer.module)["forward"] = partial(self.forward, layer)
        try:
            outputs = self.f(*(t.clone() for t in part))  # f may work in place
        except _ReachedUnknown:
            return None
        finally:
            for layer in self.layers:
                del vars(layer.module)["forward"]
            if not leave_traces:
                self.state.restore()
        self.discovering = False
        if self.position != len(self.calls):
            raise UserError(PATH_MESSAGE)
        losses = self.loss(outputs)
        if not isinstance(losses, Tensor) or losses.shape != (len(part[0]),):
            got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise UserError(
                f"`loss` must give one number for each of the {len(part[0])} samples: got {got}; leave out the mean, "
                "and flatten (n, 1) outputs."
            )
        return outputs, losses

    def forward(self, layer: PooledBatchNorm, x: Tensor) -> Tensor:
        """What a batch normalizer does in a run, in place of its own forward pass."""
        call = self.next_call(layer)
        running = call.running or layer.running
        if call.given is not None:
            if call.adjoints is not None:
                self.terms.append((call.adjoints[self.k] * layer.statistics(x)).sum())
            return layer.output(x, call.given, running)
        count = x.numel() // x.shape[1]
        if self.own_statistics and count == 1:
            raise UserError(
                f"batch statistics need more than one value a channel: got a microbatch of shape {tuple(x.shape)}; "
                "use a larger `microbatch`."
            )
        own = layer.statistics(x)
        call.table[self.k : self.k + 1] = [own.detach()]
        call.counts[self.k : self.k + 1] = [count]
        if self.until_unknown and layer.pools:
            raise _ReachedUnknown
        return layer.output(x, own, running)

    def next_call(self, layer: PooledBatchNorm) -> Call:
        if self.discovering:
            self.calls.append(Call(layer))
        if self.position == len(self.calls) or self.calls[self.position].layer is not layer:
            raise UserError(PATH_MESSAGE)
        self.position += 1
        return self.calls[self.position - 1]

    def pooled(self) -> list[Call]:
        return [call for call in self.calls if call.layer.pools]


@dataclass
class Call:
    """One call of a batch normalizer: l."""

    layer: PooledBatchNorm
    table: list[Tensor] = field(default_factory=list)  # s_l(x_k), for each k
    counts: list[int] = field(default_factory=list)  # values a channel in each of them
    given: Tensor | None = None  # S_l
    running: Running | None = None  # running statistics before this call
    reached: bool = False  # the loss depends on S_l
    adjoints: Tensor | None = None  # a_lk, (K, …)

    def fix(self) -> None:
        """S_l from the table; from now on every microbatch is given it."""
        table, counts = self.whole_table()
        self.given, self.running = self.layer.pool(table, counts), self.layer.running
        self.layer.track(list(table), counts)

    def share(self, adjoint: Tensor) -> None:
        """The a_lk from λ_l."""
        table, counts = self.whole_table()
        pooled = self.layer.pool(table.requires_grad_(), counts)
        (adjoints,) = torch.autograd.grad(pooled, table, self.layer.summed(adjoint))
        first = len(self.counts) * (distributed.get_rank() if self.layer.shared else 0)
        self.adjoints = adjoints[first : first + len(self.counts)]

    def whole_table(self) -> tuple[Tensor, list[int]]:
        """The table and counts of all processes whose microbatches make one batch."""
        table = self.layer.gathered(torch.stack(self.table))
        return table, self.counts * (len(table) // len(self.table))


class _ReachedUnknown(Exception):
    """Ends a run: the rest of f waits for the statistics of all the microbatches."""
