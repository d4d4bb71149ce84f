"""Does the discriminator need pure batches? The same images, once in pure batches and once mixed.

A discriminator that judges images gives each image the same logit in both; one that judges batches loses its accuracy
when real and fake images share a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.batch import (
    Function,
    batch_size_of,
    both_classes,
    default_generator,
    logits,
    permutation,
    running,
    take,
)


@dataclass(frozen=True)
class CompositionGap:
    """Accuracy (logit > 0 is real) and AUC of real against fake, in pure and in mixed batches."""

    accuracy_pure: float
    accuracy_mixed: float
    auc_pure: float
    auc_mixed: float
    images: int  # of each class; a multiple of the batch size
    batch_size: int

    @property
    def accuracy_gap(self) -> float:
        """Accuracy in pure minus in mixed batches; 0 for a batch-independent discriminator."""
        return self.accuracy_pure - self.accuracy_mixed

    @property
    def auc_gap(self) -> float:
        """AUC in pure minus in mixed batches; 0 for a batch-independent discriminator."""
        return self.auc_pure - self.auc_mixed


def composition_gap(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
) -> CompositionGap:
    """Accuracy and AUC when batches are pure, and when the same images are shuffled into mixed batches.

    gap = accuracy(pure) − accuracy(mixed), likewise for the AUC.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, > 0 for real, in the mode in which it is passed; a map is averaged.
        real, fake: images. The first n of each are used, n the largest multiple of `batch_size` that both hold
            (`.images` of the result).
        batch_size: images a batch, at least 2; pure and mixed batches have this size.
        generator: shuffles the images, within each class and over both; by default a fresh one with seed 0.
        batch_dim: the dimension of the images in every tensor.

    Returns:
        CompositionGap; gaps of 0 mean that the company of an image does not matter to its class.

    Raises:
        UserError: a class with less than one batch, unequal inputs, outputs that are not one finite number per image.

    Source: defined here.

    >>> real, fake = torch.ones(8, 1), -torch.ones(8, 1)
    >>> gap = composition_gap(lambda x: x[:, 0] + 5 * x.mean(), real, fake, batch_size=4)
    >>> gap.accuracy_pure, gap.accuracy_mixed < 1.0
    (1.0, True)
    """
    generator = default_generator(generator)
    n = whole_batches(real, fake, batch_size, batch_dim)
    images = both_classes(real, fake, n, batch_dim)
    is_real = torch.arange(2 * n) < n
    pure = torch.cat([permutation(n, generator), n + permutation(n, generator)])
    mixed = permutation(2 * n, generator)
    values = [batched_logits(f, images, order.split(batch_size), batch_dim) for order in (pure, mixed)]
    accuracy_pure, accuracy_mixed = (_accuracy(v, is_real[o]) for v, o in zip(values, (pure, mixed), strict=True))
    auc_pure, auc_mixed = (auc(v, is_real[o]) for v, o in zip(values, (pure, mixed), strict=True))
    return CompositionGap(accuracy_pure, accuracy_mixed, auc_pure, auc_mixed, images=n, batch_size=batch_size)


def whole_batches(real: Any, fake: Any, batch_size: int, batch_dim: int = 0) -> int:
    """The number of images of each class that fill whole batches. Raises UserError if there is not one batch."""
    if batch_size < 2:
        raise UserError(f"`batch_size` must be at least 2, for companions: got {batch_size}; try 64.")
    sizes = batch_size_of(real, batch_dim), batch_size_of(fake, batch_dim)
    if min(sizes) < batch_size:
        fitting = min(sizes) // 4 * 4  # all probes of images accept a multiple of 4 from 8 on
        remedy = f"pass more, or batch_size={fitting}" if fitting >= 8 else f"pass at least {batch_size} of each"
        raise UserError(
            f"real and fake must fill a batch of {batch_size} each: got {sizes[0]} and {sizes[1]} images; {remedy}."
        )
    return min(sizes) // batch_size * batch_size


def batched_logits(f: Function, images: Any, batches: Iterable[Tensor], batch_dim: int = 0) -> Tensor:
    """The logits of `images`, seen in `batches` of indices, in that order; without gradients."""
    with running(f, images) as run, torch.no_grad():
        return torch.cat([logits(run(take(images, index, batch_dim)), len(index), batch_dim) for index in batches])


def auc(values: Tensor, is_real: Tensor) -> float:
    """The probability that a real image has the larger logit than a fake one; ties count half (Mann & Whitney 1947).

    >>> auc(torch.tensor([2.0, 1.0, 1.0, 0.0]), torch.tensor([True, True, False, False]))
    0.875
    """
    ranks = torch.from_numpy(rankdata(values.numpy()))
    n_real, n_fake = int(is_real.sum()), int((~is_real).sum())
    return (ranks[is_real].sum().item() - n_real * (n_real + 1) / 2) / (n_real * n_fake)


def _accuracy(values: Tensor, is_real: Tensor) -> float:
    return ((values > 0) == is_real).double().mean().item()
