"""Does a layer's gradient differ more between its units, or between the images within a unit?

A reviewer of Bjorck et al. 2018 asked this, since their figures suggest that the units agree and the images do not. The
gradient is that by the layer's output, so that a unit is an output channel and an image has one number in it.

N images, U units, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes.calls import KERNELS, recorded
from gannorm.probes.optimization.objective import Loss, Result, at_least_single, chosen, objective


@dataclass(frozen=True, eq=False)
class UnitVariance(Result):
    """Two variances of the gradient by the output of L layers, in forward order."""

    layers: tuple[str, ...]
    between_units: np.ndarray  # (L,) variance over units of their true means; unbiased, so it may be negative
    within_units: np.ndarray  # (L,) variance over images within a unit, averaged over units

    @property
    def ratio(self) -> np.ndarray:
        """(L,) between over within; 0 where all units have one mean, NaN where no image differs from another."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.within_units > 0, self.between_units / self.within_units, math.nan)


def unit_variance(network: nn.Module, loss: Loss, batch: Any, layers: Sequence[str] | None = None) -> UnitVariance:
    """The variance of a layer's gradient between units and within them, the noise of the means subtracted.

    With g_nu the gradient by unit u of image n, averaged over positions: within W = mean_u Var_n(g_nu), between
    B = Var_u(mean_n g_nu) − W/N, both with N − 1 and U − 1. Without the subtraction the noise of a mean over N images
    would count as a difference between units. The cost is two forward passes and a backward pass.

    Args:
        network, loss, batch: see `objective`. The first dimension of every layer's output is that of the images.
        layers: names of Linear, Conv2d or ConvTranspose2d modules; by default all that the loss uses and that have at
            least two units.

    Returns:
        UnitVariance.

    Raises:
        UserError: a network without such layers, a layer that does not exist or is not used, a layer of one unit or a
            batch of one, gradients that are not finite, a loss that is not deterministic.

    Source: the first review of Bjorck et al. 2018; the estimates are those of one-way random effects.

    >>> net = nn.Linear(1, 2, bias=False)
    >>> loss = lambda f, x: (f(x) * torch.tensor([1.0, 3.0])).sum()  # gradients 1 and 3, the same for every image
    >>> result = unit_variance(net, loss, torch.ones(4, 1))
    >>> result.between_units.tolist(), result.within_units.tolist()
    ([2.0], [0.0])
    """
    with objective(network, loss, batch) as o:
        with recorded(network, KERNELS) as calls:
            value = o.forward()
        outputs: dict[str, list[Tensor]] = {}
        for call in calls:
            if isinstance(call.module, KERNELS):
                outputs.setdefault(call.name, []).append(call.output)
        if not outputs:
            raise UserError("the loss must use a Linear, Conv2d or ConvTranspose2d layer of the network: it uses none.")
        names = chosen(outputs, layers, "a Linear, Conv2d or ConvTranspose2d that the loss uses")
        flat = [(name, output) for name in names for output in outputs[name]]
        grads = torch.autograd.grad(value, [output for _, output in flat], allow_unused=True)
        by_name: dict[str, list[Tensor]] = {}
        for (name, output), grad in zip(flat, grads, strict=True):
            used = torch.zeros_like(output) if grad is None else grad
            channels_last = isinstance(network.get_submodule(name), nn.Linear)
            by_name.setdefault(name, []).append(_by_unit(used, channels_last))
        o.require_finite(value.item(), {name: g for name, parts in by_name.items() for g in parts})
        o.require_repeatable(value.item())
    rows = {name: torch.cat(parts).double().cpu() for name, parts in by_name.items()}
    if layers is None:
        rows = {name: g for name, g in rows.items() if g.shape[1] > 1}
    for name, g in rows.items():
        if min(g.shape) < 2:
            raise UserError(
                f"variances need at least two images and two units: {name!r} has {g.shape[0]} and {g.shape[1]}; pass a "
                "larger batch, or leave the layer out."
            )
    if not rows:
        raise UserError("variances between units need a layer of at least two: the network has none.")
    within = {name: g.var(0).mean().item() for name, g in rows.items()}
    between = {name: g.mean(0).var().item() - within[name] / len(g) for name, g in rows.items()}
    return UnitVariance(tuple(rows), np.array(list(between.values())), np.array(list(within.values())))


def _by_unit(grad: Tensor, channels_last: bool) -> Tensor:
    """(N, U), the mean over positions."""
    if channels_last:
        grad = grad.movedim(-1, 1)
    return at_least_single(grad).flatten(2).mean(2) if grad.dim() > 2 else at_least_single(grad)
