"""Lp normalization: BatchNorm with another norm in place of the standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics, Running, batch_dims, shares


@normalizer("lp", title="Lp normalization", forward_coupling=True, gradient_coupling=True, channels_last=True)
class LpNorm(BatchStatistics):
    """x̂ = (x − μ)/√(s_p² + ε), s_p = (mean|x|^p)^{1/p} of the values before centring, s_∞ = max|x|; y = γ·x̂ + β.

    Means and maximum run over the batch and the pixels. running_var holds the running mean of s_p².

    Args:
        channels: C.
        p: 1, 2 or infinity (math.inf or "inf").
        eps: ε > 0.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Raises:
        UserError: another p.

    Source: Santurkar et al. 2018, section 3.3, which gives no formula: this reading, and ε, are defined here.

    >>> LpNorm(1, p=float("inf"), eps=1e-12)(torch.tensor([-4.0, 0.0, 0.0, 0.0]).view(4, 1, 1, 1)).flatten()
    tensor([-0.7500,  0.2500,  0.2500,  0.2500], grad_fn=<ViewBackward0>)
    """

    taken_apart = True

    def __init__(self, channels: int, p: float | str = 1, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps, momentum)
        if p not in (1, 2, math.inf, "inf"):
            raise UserError(f"the norm's `p` must be 1, 2 or inf: got {p!r}.")
        self.p = float(p)

    def statistics(self, x: Tensor) -> Tensor:
        """(2, C): the mean, and mean|x| (p = 1), the variance (p = 2) or max|x| (p = ∞)."""
        if self.p == 2:
            return super().statistics(x)
        wide, dims = x.to(torch.promote_types(x.dtype, torch.float32)), batch_dims(x)
        if self.p == 1:
            return torch.stack([wide.mean(dims), wide.abs().mean(dims)])
        # The gradient of a maximum goes to the first value that attains it, as that of the pool does.
        return torch.stack([wide.mean(dims), wide.abs().transpose(0, 1).flatten(1).max(1).values])

    def output(self, x: Tensor, statistics: Tensor, running: Running) -> Tensor:
        mean, size = statistics
        return self.by_moments(x, mean, self.squared_norm(mean, size))

    def pool(self, table: Tensor, counts: list[int]) -> Tensor:
        if self.p == 2 or len(table) == 1:
            return super().pool(table, counts)
        mean, size = (shares(table, counts)[:, None] * table).sum(0)
        return torch.stack([mean, table[:, 1].max(0).values if self.p == math.inf else size])

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        mean, size = self.pool(torch.stack(table), counts)
        yield mean, self.squared_norm(mean, size)

    def squared_norm(self, mean: Tensor, size: Tensor) -> Tensor:
        """s_p² from the statistics."""
        return size + mean.square() if self.p == 2 else size.square()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}"
