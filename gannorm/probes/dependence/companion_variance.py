"""How much of the logits' variance is due to the company: one image kept, its companions drawn again and again."""

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
)
from gannorm.probes.dependence.composition_curve import batched_logits


def companion_variance(
    f: Function,
    x: Any,
    companions: Any,
    draws: int = 16,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
) -> float:
    """The fraction of the variance of the logits that is due to the choice of companions.

    CVF = E_i[Var_c f_i] / Var_{i,c}[f], over the images i of `x`, each at the first place of batches whose other places
    hold companion sets c, the same sets for every image.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, in the mode in which it is passed; a map is averaged.
        x: at least 2 images. The probe runs len(x)·draws batches: pass few.
        companions: at least 2 images, drawn with replacement.
        draws: companion sets, at least 2.
        batch_size: the kept image and its companions, at least 2.
        generator: draws the companions; by default a fresh one with seed 0.
        batch_dim: the dimension of the images in every tensor.

    Returns:
        In [0, 1]; 0 means that companions do not matter, 1 that only they do.

    Raises:
        UserError: too few images, draws or places; outputs that are not one finite number per image.

    Source: defined here.

    >>> companion_variance(lambda x: x.mean(1), torch.randn(4, 3), torch.randn(9, 3), batch_size=8)
    0.0
    """
    if draws < 2:
        raise UserError(f"`draws` must be at least 2, since a variance is taken: got {draws}; try 16.")
    sets = companion_sets(companions, draws, batch_size, default_generator(generator), batch_dim)
    values = kept_logits(f, x, companions, sets, batch_dim)  # (n, draws)
    # Deviations from one draw, not from a mean: equal logits must give a variance of exactly 0.
    within = (values - values[:, :1]).var(dim=1, correction=0).mean().item()
    total = within + values.mean(dim=1).var(correction=0).item()
    return within / total if within else 0.0


def companion_shift(
    f: Function,
    x: Any,
    first: Any,
    second: Any,
    draws: int = 4,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
) -> float:
    """The worst case: how far a logit moves between companions all from `first` (real) and all from `second` (fake).

    E_i[E_c f_i(c ⊂ first) − E_c f_i(c ⊂ second)] / √Var_{i,c}[f] with c of both kinds, signed.

    Args:
        f, x, batch_size, generator, batch_dim: as for `companion_variance`; the probe runs 2·len(x)·draws batches.
        first, second: the two kinds of companions, at least 2 images each.
        draws: companion sets of each kind, at least 1.

    Returns:
        In standard deviations of the logits, in [−2, 2]; 0 means that the kind of the companions does not matter, ±2
        that nothing else does.

    Raises:
        UserError: as `companion_variance`.

    Source: defined here.

    >>> companion_shift(lambda x: x.mean(1), torch.randn(4, 3), torch.ones(9, 3), torch.zeros(9, 3), batch_size=8)
    0.0
    """
    generator = default_generator(generator)
    values = [
        kept_logits(f, x, kind, companion_sets(kind, draws, batch_size, generator, batch_dim), batch_dim)
        for kind in (first, second)
    ]
    shift = (values[0] - values[1]).mean().item()
    return shift / torch.cat(values, dim=1).std(correction=0).item() if shift else 0.0


def companion_sets(companions: Any, draws: int, batch_size: int, generator: torch.Generator, batch_dim: int) -> Tensor:
    """(draws, batch_size − 1) indices into `companions`."""
    if batch_size < 2:
        raise UserError(f"`batch_size` must be at least 2, for companions: got {batch_size}; try 64.")
    if draws < 1:
        raise UserError(f"`draws` must be at least 1: got {draws}; try 4.")
    n = batch_size_of(companions, batch_dim)
    return torch.randint(n, (draws, batch_size - 1), generator=generator, device=generator.device).cpu()


def kept_logits(f: Function, x: Any, companions: Any, sets: Tensor, batch_dim: int) -> Tensor:
    """(n, draws): the logit of each image of `x` at the first place, before each set of companions."""
    n = batch_size_of(x, batch_dim)
    batches = (torch.cat([torch.tensor([i]), n + index]) for index in sets for i in range(n))
    found = batched_logits(f, concatenate(x, companions, batch_dim), batches, batch_dim)
    return found.view(len(sets), n, -1)[:, :, 0].T.double()
