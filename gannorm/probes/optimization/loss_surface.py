"""A slice of the loss around the current weights: along the gradient, and along a random orthogonal direction.

Both directions are filter-normalized: scaled, filter by filter, to the length of the weights, so that slices of
networks with and without a normalizer have one scale (Li et al. 2018).

A × B points of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes.batch import default_generator
from gannorm.probes.optimization.objective import Loss, Result, at_least_single, inner, objective

GRID = tuple(k / 10 for k in range(-5, 6))  # in lengths of the filters


@dataclass(frozen=True, eq=False)
class LossSurface(Result):
    """The loss at θ + a·d + b·r."""

    along: np.ndarray  # (A,) a, along −gradient
    across: np.ndarray  # (B,) b, along a random direction that is orthogonal to it
    losses: np.ndarray  # (A, B); infinite where it overflows
    loss: float  # at θ


def loss_surface(
    network: nn.Module,
    loss: Loss,
    batch: Any,
    along: Sequence[float] = GRID,
    across: Sequence[float] = GRID,
    generator: torch.Generator | None = None,
) -> LossSurface:
    """A two-dimensional slice of the loss: −gradient × random orthogonal, both filter-normalized.

    A direction d is scaled to d_f · ‖θ_f‖/‖d_f‖ for each filter f (the first dimension of a parameter); parameters of
    one dimension (biases, γ, β) stay. The random direction is made orthogonal to the gradient before it is scaled, and
    once more after it. The cost is a forward-backward pass and A·B + 1 forward passes.

    Args:
        network, loss, batch: see `objective`.
        along, across: a and b, in lengths of the filters.
        generator: draws the random direction; by default a fresh one with seed 0.

    Returns:
        LossSurface.

    Raises:
        UserError: no points, a network without parameters of two dimensions, gradients that are not finite, a loss that
            is not deterministic.

    Source: Li et al. 2018 (1712.09913), filter normalization; the gradient as one direction: defined here.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> net.weight.data.fill_(2.0)
    tensor([[2.]])
    >>> surface = loss_surface(net, lambda f, x: f(x).square().mean(), torch.ones(2, 1), along=[0, 1], across=[0])
    >>> surface.losses.tolist()  # a step of one filter's length against the gradient ends at weight 0
    [[4.0], [0.0]]
    """
    if not along or not across or not all(math.isfinite(v) for v in (*along, *across)):
        raise UserError("`along` and `across` must hold finite numbers, at least one each: see GRID for the default.")
    generator = default_generator(generator)
    with objective(network, loss, batch) as o:
        start, gradient = o.checked_gradient()
        weights = {name: p.detach() for name, p in o.parameters.items() if p.dim() > 1}
        if not weights:
            raise UserError("a surface needs a parameter of at least two dimensions: the network has none.")
        down = _filter_normalized({name: -gradient[name] for name in weights}, weights)
        random = {name: _noise(w, generator) for name, w in weights.items()}
        side = _orthogonal(_filter_normalized(_orthogonal(random, down), weights), down)
        losses = []
        for a in along:
            row = []
            for b in across:
                with o.at({name: w + a * down[name] + b * side[name] for name, w in weights.items()}), torch.no_grad():
                    row.append(o.value())
            losses.append(row)
    grid = np.nan_to_num(np.array(losses), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return LossSurface(np.array(along, float), np.array(across, float), grid, start)


def _noise(w: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(w.shape, generator=generator, device=generator.device).to(w)


def _filter_normalized(direction: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scaled = {}
    for name, w in weights.items():
        dims = tuple(range(1, w.dim()))
        d = direction[name]
        length = torch.linalg.vector_norm(at_least_single(d), dim=dims, keepdim=True)
        size = torch.linalg.vector_norm(at_least_single(w), dim=dims, keepdim=True)
        scaled[name] = torch.where(length > 0, d * (size / length.clamp_min(1e-30)), torch.zeros_like(d))
    return scaled


def _orthogonal(direction: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> dict[str, Tensor]:
    square = inner(to, to)
    if square == 0:
        return dict(direction)
    part = inner(direction, to) / square
    return {name: d - part * to[name] for name, d in direction.items()}
