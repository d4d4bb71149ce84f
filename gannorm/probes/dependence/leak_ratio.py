"""How much of a logit comes from the other images of the batch: a regression on the own class and on their classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.batch import Function, both_classes, default_generator, selecting
from gannorm.probes.dependence.blocks import Batch, Blocks, Seen, see, student, whole_batches
from gannorm.verdict import BLOCKS

REAL_SHARES = (0.25, 0.5, 0.75)  # of a batch
TURNS = 4  # batches of a block at each of them


@dataclass(frozen=True)
class Coefficient:
    """A regression coefficient in logits, the mean over disjoint blocks of images.

    Its standard error is that of the blocks' scatter, the interval Student's; None with fewer than 4 blocks.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LeakRatio:
    """f_i = α + own·y_i + context·p_{−i} + interaction·y_i·p_{−i} + e_i, in logits; p the others' real share."""

    own: Coefficient  # real minus fake image, at p = 1/2
    context: Coefficient  # the mean of the two slopes that follow
    context_real: Coefficient  # slope of a real image's logit with the real share of the others, from 0 to 1
    context_fake: Coefficient  # of a fake's
    images: int  # of each class
    batch_size: int

    @property
    def ratio(self) -> float:
        """|context| / |own|; 0 means no context effect, infinite that the own class has no effect at all.

        Over seeds never take the mean of ratios, which has no expectation where `own` may be 0: report both.
        """
        if self.context.value == 0:
            return 0.0
        return abs(self.context.value) / abs(self.own.value) if self.own.value else math.inf


def leak_ratio(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
) -> LeakRatio:
    """The effect of the other images' classes on a logit, relative to the effect of the own class.

    Ordinary least squares over batches of which a quarter, a half and three quarters are real, with an interaction:
    the two classes may respond differently. Each disjoint block of N images a class gives its own coefficients.

    Within a class every image meets each share equally often, so β_ctx is 0 up to rounding, not only on average, if f
    is batch-independent.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, in the mode in which it is passed; a map is averaged.
        real, fake: images; the first n of each are used, n the largest multiple of `batch_size` that both hold.
        batch_size: images a batch, a multiple of 4. The probe runs 12·n/batch_size batches.
        output: which of several outputs is the logit.
        batch_dim: the dimension of the images in every tensor.
        generator: shuffles the images; by default a fresh one with seed 0.

    Returns:
        LeakRatio, the coefficients in logits.

    Raises:
        UserError: a batch size that 4 does not divide, a class with less than one batch, outputs that are not finite.

    Source: defined here.

    >>> real, fake = torch.ones(8, 1), -torch.ones(8, 1)
    >>> result = leak_ratio(lambda x: x[:, 0] + x.sum(), real, fake, batch_size=8)
    >>> round(result.own.value, 6), round(result.context.value, 6), round(result.ratio, 6)  # x.sum() = x_i + 7·(2p − 1)
    (4.0, 14.0, 3.5)
    """
    f, generator = selecting(f, output), default_generator(generator)
    blocks, images = quartered(real, fake, batch_size, batch_dim, generator)
    return leak_of(see(f, images, varied_shares(blocks), generator, batch_dim), blocks.n)


def quartered(real: Any, fake: Any, batch_size: int, batch_dim: int, generator: torch.Generator) -> tuple[Blocks, Any]:
    """Disjoint blocks, and the images that their numbers mean. Raises UserError if 4 does not divide the batch size."""
    if batch_size % 4:
        down = max(batch_size // 4 * 4, 4)
        raise UserError(f"`batch_size` must be a multiple of 4, for quarters: got {batch_size}; try {down}.")
    n = whole_batches(real, fake, batch_size, batch_dim)
    return Blocks(n, batch_size, generator), both_classes(real, fake, n, batch_dim)


def varied_shares(blocks: Blocks) -> list[Batch]:
    """Four batches of each block at each real share: an image occurs 4·share (4·(1 − share)) times."""
    return [batch for reals in varied_counts(blocks.batch_size) for batch in blocks.mixed(reals, TURNS)]


def varied_counts(batch_size: int) -> list[int]:
    """How many images of a batch are real, at each of REAL_SHARES."""
    return [round(share * batch_size) for share in REAL_SHARES]


def is_varied(batch: Batch) -> bool:
    """Whether a batch is one of `varied_shares`, where others were seen with them."""
    return batch.reals in varied_counts(len(batch.index)) and batch.turn < TURNS


def leak_of(seen: Seen, n: int) -> LeakRatio:
    """The leak ratio of batches of `varied_shares`, of n images a class."""
    size = len(seen.batches[0].index)
    parts = []
    for block in range(1 + max(batch.block for batch in seen.batches)):
        chosen = [i for i, batch in enumerate(seen.batches) if batch.block == block]
        is_real = torch.stack([seen.batches[i].index < n for i in chosen])  # (B, N)
        others = (is_real.sum(1, keepdim=True) - is_real.long()).double() / (size - 1)
        values = seen.logits[chosen]
        values = values - values[0, 0]  # equal logits become exactly 0
        (real, slope_real), (fake, slope_fake) = (_line(values[c], others[c]) for c in (is_real, ~is_real))
        parts.append([real - fake, (slope_real + slope_fake) / 2, slope_real, slope_fake])
    own, context, of_real, of_fake = (_coefficient(column) for column in torch.tensor(parts, dtype=torch.float64).T)
    return LeakRatio(own, context, of_real, of_fake, images=n, batch_size=size)


def _line(values: Tensor, share: Tensor) -> tuple[float, float]:
    """(value at a share of 1/2, slope) of the least-squares line; both (J,)."""
    deviation = share - share.mean()
    slope = ((deviation * values).sum() / deviation.square().sum()).item()
    return values.mean().item() + slope * (0.5 - share.mean().item()), slope


def _coefficient(values: Tensor) -> Coefficient:
    """From the value in each block."""
    blocks, mean = len(values), values.mean().item()
    if blocks < BLOCKS:
        return Coefficient(mean, None, None, None)
    error = values.std().item() / math.sqrt(blocks)
    half = student(blocks - 1) * error
    return Coefficient(mean, error, mean - half, mean + half)
