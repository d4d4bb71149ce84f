"""Are the logits of a batch uniform? The symptom that users of batch normalization report of their discriminators.

Within the pure batches of one class the intraclass correlation cannot see it: where every batch of real images has the
same level, the variance between them is 0 although all logits of a batch are equal. So it is taken over mixed batches
of varied real share, after the effect of an image's own class within its batch is subtracted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gannorm.probes.batch import Function, default_generator, selecting
from gannorm.probes.dependence.blocks import Seen, see
from gannorm.probes.dependence.icc import IntraclassCorrelation, icc
from gannorm.probes.dependence.leak_ratio import quartered, varied_shares


@dataclass(frozen=True)
class Uniformity:
    """How uniform the logits of a batch are."""

    icc: IntraclassCorrelation | None  # over mixed batches, own class removed; None where all logits are the same
    majority_share: float | None  # of a half-and-half batch on its majority side of the threshold, in [1/2, 1]
    sd_ratio: float  # SD within a pure batch over the distance of the class means; 0 means uniform logits


def uniformity(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    threshold: float | None = 0.0,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
) -> Uniformity:
    """How uniform the logits of a batch are, beyond what the classes of its images explain.

    ICC(1) of f_bi − w·y_bi with batches as classes, w the mean difference between the real and the fake images of one
    batch; batches are a quarter, a half and three quarters real. It is 1 where a batch has one logit and 0 for a
    discriminator that judges images.

    Args:
        f, real, fake, batch_size, output, batch_dim, generator: as for `leak_ratio`; 14·n/batch_size batches are run.
        threshold: of the decision; None for a critic that has none: no majority share.

    Returns:
        Uniformity; `.icc.icc`, `.icc.low`, `.icc.high`. The interval takes batches as independent.

    Raises:
        UserError: as `leak_ratio`.

    Source: ICC(1): Shrout & Fleiss 1979; the design: defined here.

    >>> real, fake = torch.randn(256, 1) + 1, torch.randn(256, 1) - 1
    >>> round(uniformity(lambda x: 6 * torch.tanh(4 * x.mean()) + 0.1 * x[:, 0], real, fake).icc.icc, 2)
    1.0
    """
    f, generator = selecting(f, output), default_generator(generator)
    blocks, images = quartered(real, fake, batch_size, batch_dim, generator)
    mixed = see(f, images, varied_shares(blocks), generator, batch_dim)
    return uniformity_of(mixed, see(f, images, blocks.pure(), generator, batch_dim), blocks.n, threshold)


def uniformity_of(mixed: Seen, pure: Seen, n: int, threshold: float | None) -> Uniformity:
    """The uniformity of batches of `varied_shares` and of pure ones, of n images a class."""
    size = len(mixed.batches[0].index)
    is_real = torch.stack([batch.index < n for batch in mixed.batches])  # (B, N)
    values = mixed.logits - mixed.logits[0, 0]  # equal logits become exactly 0
    counts = is_real.sum(1)
    real_mean = (values * is_real).sum(1) / counts
    fake_mean = (values * ~is_real).sum(1) / (size - counts)
    residual = values - (real_mean - fake_mean).mean() * is_real
    majority = None
    if threshold is not None:
        above = (mixed.logits[counts * 2 == size] > threshold).double().mean(1)
        majority = torch.maximum(above, 1 - above).mean().item()
    return Uniformity(
        icc=None if mixed.constant else icc(residual),
        majority_share=majority,
        sd_ratio=_sd_ratio(*(torch.stack([v for _, v in pure.of(reals)]) for reals in (size, 0))),
    )


def _sd_ratio(real: Tensor, fake: Tensor) -> float:
    """Both (B, N): pure batches."""
    within = torch.cat([real, fake]).var(dim=1).mean().sqrt().item()
    distance = abs(real.mean().item() - fake.mean().item())
    if distance:
        return within / distance
    return math.inf if within else math.nan
