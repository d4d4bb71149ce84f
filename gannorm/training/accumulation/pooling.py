"""Batch normalizers taken apart, so that statistics of several batches can be pooled into those of all of them.

Each class knows one kind of layer in three steps: the statistics of a microbatch, differentiable and small; the pool
of several microbatches' statistics; the output, given statistics. With the statistics of a single batch the output is
the layer's own. Running statistics move on copies until `write`, so that an error leaves the layer as it was.

K microbatches, C channels; values a channel are counted over batch and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from gannorm.errors import UserError
from gannorm.normalizers.batch import GhostBatchNorm
from gannorm.normalizers.lp import LpNorm
from gannorm.normalizers.renorm import BatchRenorm
from gannorm.normalizers.statistics import affine, batch_dims, moments, pooled_moments
from gannorm.normalizers.sync import SyncBatchNorm, processes

Running = tuple[Tensor, Tensor, Tensor]  # mean, variance, forward passes


def taken_apart(module: nn.Module) -> PooledBatchNorm | None:
    """The parts of a layer that normalizes by statistics of its batch, in its present mode; None for any other module.

    A subclass is another module, as it may compute something else.
    """
    known = LAYERS.get(type(module))
    if known is None or "forward" in vars(module):
        return None
    if known is _Instance and module.running_mean is None:
        return None  # nothing to carry from one microbatch to the next
    return known(module) if module.training or module.running_mean is None else None


class PooledBatchNorm:
    """BatchNorm: the mean and the biased variance, pooled by `pooled_moments`."""

    pools = True  # its statistics are those of the whole batch
    shared = False  # with other processes

    def __init__(self, module: Any) -> None:
        self.module = module
        self.running: Running | None = None
        if module.running_mean is not None:
            running = (module.running_mean, module.running_var, module.num_batches_tracked)
            self.running = tuple(t.clone() for t in running)  # type: ignore[assignment]

    def statistics(self, x: Tensor) -> Tensor:
        """(2, C), differentiable, in at least float32."""
        return torch.stack(moments(x, batch_dims(x)))

    def pool(self, table: Tensor, counts: list[int]) -> Tensor:
        """(K, 2, C) and the values a channel behind each of the K -> (2, C), differentiable."""
        return torch.stack(pooled_moments(table[:, 0], table[:, 1], _shares(table, counts)))

    def gathered(self, table: Tensor) -> Tensor:
        """(K, 2, C) -> the rows of all processes that share a batch, in order of rank: here of this one."""
        return table

    def summed(self, adjoint: Tensor) -> Tensor:
        """The sum over the processes that share a batch: here this one."""
        return adjoint

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        """y for the microbatch x; `running` are the layer's running statistics before this pass."""
        mean, variance = statistics
        return self.scale_and_shift(x, torch.rsqrt(variance + self.module.eps), mean)

    def scale_and_shift(self, x: Tensor, scale: Tensor, mean: Tensor, offset: Tensor | float = 0.0) -> Tensor:
        """γ·((x − mean)·scale + offset) + β."""
        shift = offset - mean * scale
        if self.module.weight is not None:
            scale, shift = self.module.weight * scale, self.module.weight * shift + self.module.bias
        return affine(x, scale, shift)

    def track(self, table: list[Tensor], counts: list[int]) -> None:
        """Move the running statistics as one forward pass over the whole batch does."""
        if self.running is None:
            return
        mean, variance, passes = self.running
        passes = passes + 1
        momentum = 1 / passes.item() if self.module.momentum is None else self.module.momentum  # None: plain average
        for new_mean, new_variance in self.targets(table, counts):
            mean = mean.lerp(new_mean.to(mean.dtype), momentum)
            variance = variance.lerp(new_variance.to(variance.dtype), momentum)
        self.running = mean, variance, passes

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """What the running statistics move toward, one after the other."""
        mean, variance = self.pool(torch.stack(table), counts)
        yield mean, variance * _unbiased(sum(counts))

    def write(self) -> None:
        """Give the running statistics to the layer."""
        if self.running is not None:
            buffers = (self.module.running_mean, self.module.running_var, self.module.num_batches_tracked)
            for buffer, value in zip(buffers, self.running, strict=True):
                buffer.copy_(value)


class _Sync(PooledBatchNorm):
    """BatchNorm over the microbatches of all processes, which must have as many and as large ones."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.shared = processes() > 1

    def gathered(self, table: Tensor) -> Tensor:
        if not self.shared:
            return table
        tables = [torch.empty_like(table) for _ in range(processes())]
        distributed.all_gather(tables, table)
        return torch.cat(tables)

    def summed(self, adjoint: Tensor) -> Tensor:
        if self.shared:
            distributed.all_reduce(adjoint)
        return adjoint


class _Ghost(PooledBatchNorm):
    """BatchNorm of each ghost batch, (G, 2, C) for G of them: nothing to pool where they lie within a microbatch."""

    pools = False

    def statistics(self, x: Tensor) -> Tensor:
        size = self.module.size
        if len(x) % size:
            raise UserError(
                f"ghost batches must lie within a microbatch: got size={size} and a microbatch of {len(x)}; "
                "let `size` divide every microbatch."
            )
        if x[:size].numel() == x.shape[1]:
            raise UserError(
                f"batch statistics need more than one value a channel: got ghost batches of size={size} and a "
                f"microbatch of shape {tuple(x.shape)}; use a larger `size`."
            )
        return torch.stack([super(_Ghost, self).statistics(ghost) for ghost in x.split(size)])

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        ghosts = x.split(self.module.size)
        each = zip(ghosts, statistics.expand(len(ghosts), -1, -1), strict=True)
        return torch.cat([super(_Ghost, self).output(ghost, given, running) for ghost, given in each])

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for ghosts, count in zip(table, counts, strict=True):
            for mean, variance in ghosts:
                yield mean, variance * _unbiased(count // len(ghosts))


class _Renorm(PooledBatchNorm):
    """x̂ = (x − μ_B)/σ_B·r + d, r and d from the running statistics and without gradient; see BatchRenorm."""

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        assert running is not None
        (mean, variance), (running_mean, running_variance, passes) = statistics, running
        inverse = torch.rsqrt(variance + self.module.eps)
        with torch.no_grad():
            running_inverse = torch.rsqrt(running_variance + self.module.eps)
            this_pass = passes + 1
            r, d, _ = self.module.correction(mean, inverse, running_mean, running_inverse, this_pass)
        return self.scale_and_shift(x, inverse * r, mean, d)


class _Lp(PooledBatchNorm):
    """The layer's own two statistics, the second of which is pooled in its own way."""

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack(self.module.statistics(x))

    def pool(self, table: Tensor, counts: list[int]) -> Tensor:
        if self.module.p == 2:
            return super().pool(table, counts)
        pooled = (_shares(table, counts)[:, None] * table).sum(0)
        if self.module.p == math.inf:
            pooled = torch.stack([pooled[0], table[:, 1].max(0).values])
        return pooled

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        mean, size = statistics
        return self.scale_and_shift(x, torch.rsqrt(self.module.squared_norm(mean, size) + self.module.eps), mean)

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        mean, size = self.pool(torch.stack(table), counts)
        yield mean, self.module.squared_norm(mean, size)


class _Instance(PooledBatchNorm):
    """InstanceNorm: it couples nothing, but averages the statistics of all instances, (n, 2, C), into running ones."""

    pools = False

    def statistics(self, x: Tensor) -> Tensor:
        dims = tuple(range(2, x.dim()))
        variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), dims, correction=0)
        return torch.stack([mean, variance], dim=1)

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        weight, bias, eps = self.module.weight, self.module.bias, self.module.eps
        return nn.functional.instance_norm(x, weight=weight, bias=bias, use_input_stats=True, eps=eps)

    def track(self, table: list[Tensor], counts: list[int]) -> None:
        assert self.running is not None
        mean, variance, passes = self.running
        momentum = self.module.momentum or 0.0  # as torch reads None here
        instances = torch.cat(table).mean(0)
        pixels = counts[0] // len(table[0])
        mean = mean.lerp(instances[0].to(mean.dtype), momentum)
        variance = variance.lerp((instances[1] * _unbiased(pixels)).to(variance.dtype), momentum)
        self.running = mean, variance, passes


LAYERS: dict[type[nn.Module], type[PooledBatchNorm]] = {
    nn.BatchNorm1d: PooledBatchNorm,
    nn.BatchNorm2d: PooledBatchNorm,
    nn.BatchNorm3d: PooledBatchNorm,
    nn.SyncBatchNorm: _Sync,
    SyncBatchNorm: _Sync,
    GhostBatchNorm: _Ghost,
    BatchRenorm: _Renorm,
    LpNorm: _Lp,
    nn.InstanceNorm1d: _Instance,
    nn.InstanceNorm2d: _Instance,
    nn.InstanceNorm3d: _Instance,
}


def _shares(table: Tensor, counts: list[int]) -> Tensor:
    """n_k/n, (K, 1)."""
    return table.new_tensor([count / sum(counts) for count in counts])[:, None]


def _unbiased(count: int) -> float:
    return count / (count - 1)
