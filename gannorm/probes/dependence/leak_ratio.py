"""How much of a logit comes from the company: the regression of logits on an image's class and on its companions'."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.batch import Function, both_classes, default_generator, permutation
from gannorm.probes.dependence.composition_curve import batched_logits, whole_batches

REAL_SHARES = (0.25, 0.5, 0.75)  # of a batch


@dataclass(frozen=True)
class Coefficient:
    """A regression coefficient and its standard error, clustered by batch."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class LeakRatio:
    """f_i = α + own·y_i + context·p_{−i} + e_i, in logits."""

    own: Coefficient
    context: Coefficient
    images: int  # of each class
    batch_size: int

    @property
    def ratio(self) -> float:
        """|context| / |own|; 0 means no context effect, infinite that the own class has no effect at all."""
        if self.context.value == 0:
            return 0.0
        return abs(self.context.value) / abs(self.own.value) if self.own.value else math.inf


def leak_ratio(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
) -> LeakRatio:
    """How far the companions' classes move a logit, relative to the image's own class.

    Ordinary least squares f_i = α + β_own·y_i + β_ctx·p_{−i} + e_i over mixed batches of varied real share, where y is
    1 for real and p_{−i} is the real share among the other images; the ratio is |β_ctx| / |β_own|.

    The design is balanced: a quarter, a half and three quarters of a batch are real, and within a class every image
    meets each share equally often. So β_ctx is 0 up to rounding, not only on average, if f is batch-independent.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, in the mode in which it is passed; a map is averaged.
        real, fake: images; the first n of each are used, n the largest multiple of `batch_size` that both hold.
        batch_size: images a batch, a multiple of 4. The probe runs 12·n/batch_size batches.
        generator: shuffles the images; by default a fresh one with seed 0.
        batch_dim: the dimension of the images in every tensor.

    Returns:
        LeakRatio, the coefficients in logits with standard errors clustered by batch (CR1).

    Raises:
        UserError: a batch size that 4 does not divide, a class with less than one batch, outputs that are not finite.

    Source: the regression and its design are defined here; the standard errors are Cameron & Miller 2015, Eq. 11–12.

    >>> real, fake = torch.ones(8, 1), -torch.ones(8, 1)
    >>> leak = leak_ratio(lambda x: x[:, 0] + x.sum(), real, fake, batch_size=8)
    >>> round(leak.own.value, 6), round(leak.context.value, 6), round(leak.ratio, 6)  # x.sum() = x_i + 7·(2p − 1)
    (4.0, 14.0, 3.5)
    """
    if batch_size % 4:
        down = max(batch_size // 4 * 4, 4)
        raise UserError(f"`batch_size` must be a multiple of 4, for quarters: got {batch_size}; try {down}.")
    generator = default_generator(generator)
    n = whole_batches(real, fake, batch_size, batch_dim)
    images = both_classes(real, fake, n, batch_dim)
    batches = [b for share in REAL_SHARES for b in _balanced_batches(n, batch_size, share, generator)]
    index = torch.stack(batches)  # (B, batch_size); real images are 0 … n−1
    is_real = (index < n).double()
    others = (is_real.sum(1, keepdim=True) - is_real) / (batch_size - 1)
    values = batched_logits(f, images, batches, batch_dim).reshape(index.shape)
    own, context = _clustered_least_squares(values, is_real, others)
    return LeakRatio(own, context, images=n, batch_size=batch_size)


def _balanced_batches(n: int, batch_size: int, share: float, generator: torch.Generator) -> list[Tensor]:
    """4n/batch_size batches in which each of the n real (n fake) images occurs 4·share (4·(1−share)) times."""
    reals = round(share * batch_size)
    per_batch = []
    for count, offset in ((reals, 0), (batch_size - reals, n)):
        # An image may occur twice in a batch where two shufflings meet; its companions' share is the same.
        deck = torch.cat([permutation(n, generator) for _ in range(4 * count // batch_size)]) + offset
        per_batch.append(deck.split(count))
    mixed = [torch.cat(pair) for pair in zip(*per_batch, strict=True)]
    return [batch[permutation(batch_size, generator)] for batch in mixed]


def _clustered_least_squares(values: Tensor, own: Tensor, context: Tensor) -> tuple[Coefficient, Coefficient]:
    """Coefficients of `own` and `context`, all (B, k): rows are clusters."""
    clusters, size = values.shape
    design = torch.stack([torch.ones_like(own), own, context], dim=2)  # (B, k, 3)
    flat, target = design.flatten(0, 1), (values - values[0, 0]).flatten()  # equal logits become exactly 0
    bread = torch.linalg.inv(flat.T @ flat)
    target = target - target.mean()
    beta = bread @ (flat.T @ target)
    residual = (target - flat @ beta).reshape(clusters, size)
    score = torch.einsum("bk,bkp->bp", residual, design)
    observations, parameters = flat.shape
    correction = clusters / (clusters - 1) * (observations - 1) / (observations - parameters)
    covariance = correction * bread @ (score.T @ score) @ bread
    _, own_, context_ = (
        Coefficient(b, math.sqrt(max(v, 0.0)))
        for b, v in zip(beta.tolist(), covariance.diagonal().tolist(), strict=True)
    )
    return own_, context_
