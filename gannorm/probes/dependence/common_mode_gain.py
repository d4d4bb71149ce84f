"""The common mode of a batch: does a shift of all other images cancel the same shift of one?

It complements the coupling ratio, which decreases like 2/N (and 1/(N·H·W) for convolutions) although BatchNorm's
coupling along the mean direction stays complete.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import require_positive
from gannorm.probes.batch import Function, Output, default_generator, permutation
from gannorm.probes.gradients import graph


def common_mode_gain(
    f: Function,
    x: Any,
    samples: int = 8,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
    output: Output = None,
) -> float:
    """The response of f_i to a shift of all other images, relative to its response to the same shift of its own.

    With o_i = ⟨∂f_i/∂x_i, 1⟩ and c_i = Σ_{j≠i} ⟨∂f_i/∂x_j, 1⟩, the small shift being the same for every entry of an
    image (its brightness), the gain is Σ_i c_i o_i / Σ_i o_i²: the slope of c on o.

    Args:
        f, x, batch_dim, output: as for `coupling_matrix`.
        samples: how many i, chosen at random; one backward pass each.
        generator: chooses them; by default a fresh one with seed 0.

    Returns:
        0 means no coupling; −1 that a common shift cancels (BatchNorm, for any N). NaN if the outputs do not respond
        to a shift of their own image beyond rounding, as after an instance normalization of it.

    Raises:
        UserError: as `coupling_matrix`; fewer than one sample.

    Source: defined here.

    >>> round(common_mode_gain(torch.nn.BatchNorm1d(1), torch.randn(64, 1)), 4)
    -1.0
    """
    require_positive(samples=samples)
    chosen = default_generator(generator)
    with graph(f, x, batch_dim, output) as g:
        rows = {i: g.pull_back(torch.eye(len(g))[i]) for i in permutation(len(g), chosen)[:samples].tolist()}
        return gain_of(rows, g.outputs.dtype)


def gain_of(rows: dict[int, list[Tensor]], dtype: torch.dtype) -> float:
    """The gain from i -> ∇_x f_i, computed in `dtype`."""
    own, others, scale = [], [], 0.0
    for i, grads in rows.items():
        shifts = torch.stack([grad.reshape(len(grad), -1).sum(1) for grad in grads]).sum(0)  # (N,)
        own.append(shifts[i].item())
        others.append((shifts.sum() - shifts[i]).item())
        scale += sum(grad[i].abs().sum().item() for grad in grads) ** 2
    power = sum(o * o for o in own)
    if power <= (64 * torch.finfo(dtype).eps) ** 2 * scale:
        return math.nan
    return sum(c * o for c, o in zip(others, own, strict=True)) / power
