"""What a step changes: the direction of the gradient on a fixed batch, and the signs of the weights.

"Gradients are fairly consistent throughout training": the cosine between the gradients of successive parameters on one
batch is near 1 where the surface hardly turns, and near −1 where the steps jump over a valley.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes.calls import KERNELS
from gannorm.probes.optimization.objective import Loss, Point, Result, norm, objective, require_shapes

WEIGHTS = ("weight", *(f"parametrizations.weight.original{n}" for n in ("", "1")))  # original0 of weight norm: lengths


@dataclass(frozen=True, eq=False)
class GradientConsistency(Result):
    """Gradients at T successive points, on one batch."""

    cosine: np.ndarray  # (T − 1,) of each gradient and the one before it, in [−1, 1]; NaN where one of them is 0
    gradient_norm: np.ndarray  # (T,)


def gradient_consistency(network: nn.Module, loss: Loss, batch: object, points: Sequence[Point]) -> GradientConsistency:
    """Cosines of the gradients at successive parameters, of all parameters together, on a fixed batch.

    cos_t = ⟨∇L(θ_{t−1}), ∇L(θ_t)⟩ / (‖∇L(θ_{t−1})‖·‖∇L(θ_t)‖). The cost is T forward-backward passes and one forward.

    Args:
        network, loss, batch: see `objective`.
        points: T ≥ 2 values of the parameters, in the order of the training: copies of `snapshot(network)`. Parameters
            that a point does not name have the network's own values.

    Returns:
        GradientConsistency.

    Raises:
        UserError: fewer than two points, points of another network, gradients that are not finite, a loss that is not
            deterministic.

    Source: defined here; the claim: Santurkar et al. 2018, §3 and Ioffe & Szegedy 2015.

    >>> net = nn.Linear(1, 1, bias=False)  # L = w²/2, so that the gradient is w
    >>> points = [{"weight": torch.tensor([[w]])} for w in (2.0, 1.0, -1.0)]
    >>> gradient_consistency(net, lambda f, x: f(x).square().mean() / 2, torch.ones(4, 1), points).cosine.tolist()
    [1.0, -1.0]
    """
    points = list(points)
    if len(points) < 2:
        raise UserError(f"successive gradients need at least two points: got {len(points)}; pass snapshots.")
    cosines: list[float] = []
    norms: list[float] = []
    with objective(network, loss, batch) as o:
        before: dict[str, torch.Tensor] = {}
        for point in points:
            with o.at({name: value for name, value in point.items() if name in o.parameters}):
                if not norms:
                    value, gradient = o.checked_gradient()
                else:
                    value, gradient = o.gradient()
                o.require_finite(value, gradient)
            norms.append(norm(gradient.values()))
            if before:
                product = sum((before[name].double() * g.double()).sum().item() for name, g in gradient.items())
                sizes = norms[-2] * norms[-1]
                cosines.append(min(1.0, max(-1.0, product / sizes)) if sizes else float("nan"))
            before = gradient
    return GradientConsistency(np.array(cosines), np.array(norms))


def sign_changes(network: nn.Module, before: Point, after: Point | None = None) -> dict[str, float]:
    """Share of the weights of each kernel whose sign changed between two points, in [0, 1].

    Args:
        network: whose Linear, Conv2d and ConvTranspose2d layers are counted, in their order.
        before, after: values of the parameters; `after` by default those that the network holds now.

    Returns:
        Layer → share of w with w·w' < 0; a weight that was or became exactly 0 has not changed its sign. Where a weight
        normalizer computes the weight, its own direction is counted.

    Raises:
        UserError: no kernel of the network is in `before`, or the points are of networks of other shapes.

    Source: defined here.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> net.weight.data = torch.tensor([[1.0, -1.0]])
    >>> sign_changes(net, {"weight": torch.tensor([[2.0, 1.0]])})
    {'(the network)': 0.5}
    """
    after = dict(network.named_parameters()) if after is None else after
    require_shapes(before, after)
    shares = {}
    for name, module in network.named_modules():
        keys = [f"{name}.{weight}" if name else weight for weight in WEIGHTS] if isinstance(module, KERNELS) else []
        for key in before.keys() & after.keys() & {*keys}:
            changed = before[key].detach() * after[key].detach() < 0
            shares[name or "(the network)"] = changed.double().mean().item()
    if not shares:
        raise UserError(
            "sign changes need a Linear or convolution layer with its weight in both points: none is there."
        )
    return shares
