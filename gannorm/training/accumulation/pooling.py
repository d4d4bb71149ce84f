"""Batch normalizers in separate parts, so that statistics of several batches can be pooled into those of all of them.

There are three steps: the statistics of a microbatch, differentiable and small; the pool of several microbatches'
statistics; the output, given statistics. With the statistics of a single batch the output is the layer's own. Those of
torch's BatchNorm are here; a normalizer of ours declares its own (`BatchStatistics`, `taken_apart = True`). Running
statistics move on copies until `write`, so that an error leaves the layer as it was.

K microbatches, C channels; values a channel are counted over batch and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from gannorm.normalizers.statistics import (
    BatchStatistics,
    Running,
    affine,
    batch_dims,
    moments,
    pooled_moments,
    shares,
    unbiased,
)
from gannorm.normalizers.sync import processes


def taken_apart(module: nn.Module) -> PooledBatchNorm | None:
    """The parts of a layer that normalizes by statistics of its batch, in its present mode; None for any other module.

    A subclass is another module, as it may compute something else.
    """
    kind = type(module)
    declared = vars(kind).get("taken_apart")  # by this class, not by its parent
    known = DeclaredSteps if declared and isinstance(module, BatchStatistics) else TORCH.get(kind)
    if known is None or "forward" in vars(module):
        return None
    if known is _Instance and module.running_mean is None:
        return None  # nothing to carry from one microbatch to the next
    return known(module) if module.training or module.running_mean is None else None


class PooledBatchNorm:
    """BatchNorm: the mean and the biased variance, pooled by `pooled_moments`."""

    pools = True  # its statistics are those of the whole batch

    def __init__(self, module: Any) -> None:
        self.module = module
        across_processes = isinstance(module, nn.SyncBatchNorm) or getattr(module, "across_processes", False)
        self.shared = across_processes and processes() > 1  # microbatches must then be as many and as large in each
        self.running: Running | None = None
        if module.running_mean is not None:
            running = (module.running_mean, module.running_var, module.num_batches_tracked)
            self.running = tuple(t.clone() for t in running)  # type: ignore[assignment]

    def statistics(self, x: Tensor) -> Tensor:
        """(2, C), differentiable, in at least float32."""
        return torch.stack(moments(x, batch_dims(x)))

    def pool(self, table: Tensor, counts: list[int]) -> Tensor:
        """(K, 2, C) and the values a channel behind each of the K -> (2, C), differentiable."""
        return torch.stack(pooled_moments(table[:, 0], table[:, 1], shares(table, counts)))

    def gathered(self, table: Tensor) -> Tensor:
        """(K, 2, C) -> the rows of all processes that share a batch, in order of rank."""
        if not self.shared:
            return table
        tables = [torch.empty_like(table) for _ in range(processes())]
        distributed.all_gather(tables, table)
        return torch.cat(tables)

    def summed(self, adjoint: Tensor) -> Tensor:
        """The sum over the processes that share a batch."""
        if self.shared:
            distributed.all_reduce(adjoint)
        return adjoint

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        """y for the microbatch x; `running` are the layer's running statistics before this pass."""
        mean, variance = statistics
        scale = torch.rsqrt(variance + self.module.eps)
        shift = -mean * scale
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
        yield mean, variance * unbiased(sum(counts))

    def write(self) -> None:
        """Give the running statistics to the layer."""
        if self.running is not None:
            buffers = (self.module.running_mean, self.module.running_var, self.module.num_batches_tracked)
            for buffer, value in zip(buffers, self.running, strict=True):
                buffer.copy_(value)


class DeclaredSteps(PooledBatchNorm):
    """The steps that a normalizer of ours declares."""

    module: BatchStatistics

    def __init__(self, module: BatchStatistics) -> None:
        super().__init__(module)
        self.pools = module.pools

    def statistics(self, x: Tensor) -> Tensor:
        return self.module.statistics(x)

    def pool(self, table: Tensor, counts: list[int]) -> Tensor:
        return self.module.pool(table, counts)

    def output(self, x: Tensor, statistics: Tensor, running: Running | None) -> Tensor:
        assert running is not None
        return self.module.output(x, statistics, running)

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        return self.module.targets(table, counts)


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
        variance = variance.lerp((instances[1] * unbiased(pixels)).to(variance.dtype), momentum)
        self.running = mean, variance, passes


TORCH: dict[type[nn.Module], type[PooledBatchNorm]] = {
    nn.BatchNorm1d: PooledBatchNorm,
    nn.BatchNorm2d: PooledBatchNorm,
    nn.BatchNorm3d: PooledBatchNorm,
    nn.SyncBatchNorm: PooledBatchNorm,
    nn.InstanceNorm1d: _Instance,
    nn.InstanceNorm2d: _Instance,
    nn.InstanceNorm3d: _Instance,
}
