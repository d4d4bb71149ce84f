"""The share of the logits' variance from the other images: each image is kept, the others are drawn repeatedly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.batch import (
    Function,
    batch_size_of,
    concatenate,
    default_generator,
    selecting,
)
from gannorm.probes.dependence.blocks import batched_logits


def companion_variance(
    f: Function,
    x: Any,
    companions: Any,
    draws: int = 16,
    batch_size: int = 64,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
) -> float:
    """The fraction of the variance of the logits that is due to the choice of the other images.

    CVF = σ_c²/(σ_c² + σ_i²), over the images i of `x`, each at the first place of batches whose other places hold
    companion sets c, drawn for each image separately. Both are variance components: with K draws of n images,
    σ_c² = Σ_i Σ_c (f_ic − f̄_i)² / (n(K − 1)) and σ_i² = Σ_i (f̄_i − f̄)² / (n − 1) − σ_c²/K, not below 0.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, in the mode in which it is passed; a map is averaged.
        x: at least 2 images. The probe runs len(x)·draws batches: pass few.
        companions: at least 2 images of both classes, drawn with replacement.
        draws: K companion sets of each image, at least 2.
        batch_size: the kept image and its companions, at least 2.
        output: which of several outputs is the logit.
        batch_dim: the dimension of the images in every tensor.
        generator: draws the companions; by default a fresh one with seed 0.

    Returns:
        In [0, 1]; 0 means that the other images do not matter, 1 that only they do.

    Raises:
        UserError: too few images, draws or places; outputs that are not one finite number per image.

    Source: the components: Searle, Casella & McCulloch 1992, section 3.5; the fraction: defined here.

    >>> companion_variance(lambda x: x.mean(1), torch.randn(4, 3), torch.randn(9, 3), batch_size=8)
    0.0
    """
    if draws < 2:
        raise UserError(f"`draws` must be at least 2, since a variance is taken: got {draws}; try 16.")
    f = selecting(f, output)
    values = kept_logits(f, x, companions, draws, batch_size, batch_dim, default_generator(generator))  # (n, K)
    # Deviations from one draw, not from a mean: equal logits must give a variance of exactly 0.
    within = (values - values[:, :1]).var(dim=1).mean().item()
    if not within:
        return 0.0
    between = max(values.mean(dim=1).var().item() - within / draws, 0.0)
    return within / (within + between)


def companion_shift(
    f: Function,
    x: Any,
    first: Any,
    second: Any,
    draws: int = 4,
    batch_size: int = 64,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
) -> float:
    """The worst case: how far a logit moves between companions all from `first` (real) and all from `second` (fake).

    E_i[E_c f_i(c ⊂ first) − E_c f_i(c ⊂ second)] / √Var_{i,c}[f] with c of both kinds, signed.

    Args:
        f, x, batch_size, output, batch_dim, generator: as for `companion_variance`; 2·len(x)·draws batches are run.
        first, second: the two kinds of companions, at least 2 images each.
        draws: companion sets of each image and kind, at least 1.

    Returns:
        In standard deviations of the logits, in [−2, 2]; 0 means that the kind of the companions does not matter, ±2
        that nothing else does.

    Raises:
        UserError: as `companion_variance`.

    Source: defined here.

    >>> companion_shift(lambda x: x.mean(1), torch.randn(4, 3), torch.ones(9, 3), torch.zeros(9, 3), batch_size=8)
    0.0
    """
    f, generator = selecting(f, output), default_generator(generator)
    values = [kept_logits(f, x, kind, draws, batch_size, batch_dim, generator) for kind in (first, second)]
    shift = (values[0] - values[1]).mean().item()
    return shift / torch.cat(values, dim=1).std(correction=0).item() if shift else 0.0


def kept_logits(
    f: Function, x: Any, companions: Any, draws: int, batch_size: int, batch_dim: int, generator: torch.Generator
) -> Tensor:
    """(n, draws): the logit of each image of `x` at the first place, each time with its own other images."""
    if batch_size < 2:
        raise UserError(f"`batch_size` must be at least 2, for companions: got {batch_size}; try 64.")
    if draws < 1:
        raise UserError(f"`draws` must be at least 1: got {draws}; try 4.")
    n, others = batch_size_of(x, batch_dim), batch_size_of(companions, batch_dim)
    drawn = torch.randint(others, (n * draws, batch_size - 1), generator=generator, device=generator.device).cpu()
    batches = (torch.cat([torch.tensor([i // draws]), n + index]) for i, index in enumerate(drawn))
    values = batched_logits(f, concatenate(x, companions, batch_dim), batches, batch_dim)
    return values.view(n, draws, -1)[:, :, 0]
