"""BatchNorm over the joined batch of all processes, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics, batch_dims, moments, pooled_moments


@normalizer(
    "sync",
    title="synchronized BatchNorm",
    forward_coupling=True,
    gradient_coupling=True,
    channels_last=True,
    note="the batch of all processes together",
)
class SyncBatchNorm(BatchStatistics):
    """BatchNorm whose μ and σ² are those of the batches of all processes taken together, with gradients across them.

    They are pooled from those of each process (`pooled_moments`). torch's SyncBatchNorm does the same on accelerators
    and refuses CPU tensors. In one process, and `alone`, it is BatchNorm.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Source: the parallel variance of Chan et al. 1979; synchronized statistics as in Peng et al. 2018 (1711.07240).
    """

    taken_apart = across_processes = True

    def normalize(self, x: Tensor) -> Tensor:
        mean, variance = moments(x, batch_dims(x))
        count = mean.new_full((), x.numel() / x.shape[1])  # made on the device
        if processes() > 1:
            # Each process fills its own row of a table, and the sum over processes is the table of all.
            own = torch.cat([count[None], mean, variance])
            table = own.new_zeros(processes(), len(own))
            table = torch.index_put(table, (own.new_full((), distributed.get_rank(), dtype=torch.int64),), own)
            counts, means, variances = _SumOverProcesses.apply(table).split([1, len(mean), len(mean)], dim=1)
            count = counts.sum()
            mean, variance = pooled_moments(means, variances, counts / count)
        self.track(mean, variance * (count / (count - 1)))
        return self.by_moments(x, mean, variance)


_alone = False


def processes() -> int:
    """The number of processes that share a batch: those of torch.distributed, 1 without it or in `alone`."""
    together = distributed.is_available() and distributed.is_initialized() and not _alone
    return distributed.get_world_size() if together else 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process's batch is the whole batch: for measurements of one process while the others continue.

    A synchronized normalizer would wait for them forever.
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


class _SumOverProcesses(torch.autograd.Function):
    """y = Σ_k x_k on every process; each x_k is used by all, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SumOverProcesses.apply(grad)
