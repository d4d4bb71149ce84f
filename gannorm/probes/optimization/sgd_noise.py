"""How far is the gradient of a mini-batch from that of the whole batch?

For a loss that is a mean over independent samples this follows from the variance of the samples' gradients. Behind a
normalizer that mixes the batch a small batch is not a sample of a large one but another model; the probe reports
that part, which no averaging removes, separately.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes.batch import batch_size_of, default_generator, permutation, take
from gannorm.probes.optimization.objective import Loss, Result, difference, norm, objective


@dataclass(frozen=True)
class SGDNoise(Result):
    """The spread of the gradients of the mini-batches of one batch of N samples."""

    variance: float  # C = E‖∇ℓ_i − ∇ℓ‖², by batches of `batch_size`; 0 means that all samples agree
    batch_bias: float  # ‖mean over mini-batches of ∇_B − ∇ℓ‖; 0 for a loss that is a mean over independent samples
    gradient_norm: float  # ‖∇ℓ‖
    samples: int  # N
    batch_size: int  # of the mini-batches that were measured

    @property
    def noise_to_signal(self) -> float:
        """E‖∇_B − g‖²/‖g‖² of batches as large as this one, g being the gradient over the population; infinite
        where no signal is seen.

        (C'/N)/(‖∇ℓ‖² − C'/N) with C' = C·N/(N − 1): the batch's own gradient holds its noise, which would bound the
        ratio by 1, so it is subtracted.

        >>> SGDNoise(variance=6.0, batch_bias=0.0, gradient_norm=2.0, samples=4, batch_size=1).noise_to_signal
        1.0
        """
        noise = self.variance / (self.samples - 1)
        signal = self.gradient_norm**2 - noise
        if signal > 0:
            return noise / signal
        return math.inf if noise else math.nan

    def expected(self, batch_size: int, learning_rate: float = 1.0, replacement: bool = False) -> float:
        """E‖α∇ℓ − α∇_B‖², the squared error of one step.

        α²C/b with replacement, (α²C/b)·(N−b)/(N−1) without: 0 for the whole batch.

        Args:
            batch_size: b in 1…N.
            learning_rate: α.
            replacement: whether a sample can be drawn twice.

        Raises:
            UserError: a batch size outside 1…N.

        Source: Bjorck et al. 2018 (the bound, with replacement); the finite-population factor: Cochran 1977.

        >>> noise = SGDNoise(variance=6.0, batch_bias=0.0, gradient_norm=1.0, samples=4, batch_size=1)
        >>> noise.expected(2, replacement=True), noise.expected(2), noise.expected(4)
        (3.0, 2.0, 0.0)
        """
        if not 1 <= batch_size <= self.samples:
            raise UserError(f"`batch_size` must be in 1…{self.samples}: got {batch_size}.")
        share = 1.0 if replacement else (self.samples - batch_size) / (self.samples - 1)
        return learning_rate**2 * self.variance / batch_size * share


def sgd_noise(
    network: nn.Module, loss: Loss, batch: Any, batch_size: int, generator: torch.Generator | None = None
) -> SGDNoise:
    """The variance of the samples' gradients, from disjoint mini-batches of b samples that make up the batch.

    C = b·(N−1)/(N−b) · mean_k ‖∇_{B_k} − mean ∇_B‖². Exact for b = 1; otherwise an estimate that is unbiased over the
    random partition. The cost is 1 + N/b forward-backward passes and a forward pass.

    Args:
        network, loss, batch: see `objective`; the batch is a tensor, or a tuple or dict of tensors, of N samples in
            dimension 0, and the loss the mean over them. A tuple (real, fake) is divided in step.
        batch_size: b, a divisor of N smaller than N.
        generator: divides the batch; by default a fresh one with seed 0.

    Returns:
        SGDNoise; .variance is C.

    Raises:
        UserError: b does not divide N, a batch that has no N, gradients that are not finite, a loss that is not
            deterministic.

    Source: Bjorck et al. 2018; the estimate from a partition: defined here.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [3.0]])  # the gradients of the mean output are x
    >>> sgd_noise(net, lambda f, x: f(x).mean(), x, batch_size=1).variance
    1.0
    """
    n = batch_size_of(batch)
    if not 1 <= batch_size < n or n % batch_size:
        largest = max((b for b in range(1, n) if n % b == 0), default=1)
        raise UserError(f"`batch_size` must divide the {n} samples into two or more: got {batch_size}; try {largest}.")
    parts = permutation(n, default_generator(generator)).split(batch_size)
    with objective(network, loss, batch) as o:
        _, full = o.checked_gradient()
        mean = {name: torch.zeros_like(g) for name, g in full.items()}
        squares = 0.0
        for part in parts:
            o.batch = take(batch, part)
            value, g = o.gradient()
            o.require_finite(value, g)
            deviation = difference(g, full)  # its mean is near 0, so that below no digits cancel
            squares += norm(deviation.values()) ** 2 / len(parts)
            mean = {name: mean[name] + deviation[name] / len(parts) for name in mean}
    bias = norm(mean.values())
    spread = max(squares - bias**2, 0.0)
    scale = batch_size * (n - 1) / (n - batch_size)
    return SGDNoise(scale * spread, bias, norm(full.values()), n, batch_size)
