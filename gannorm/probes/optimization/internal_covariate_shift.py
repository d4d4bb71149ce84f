"""Internal covariate shift: the change of a layer's gradient by the update of the layers before it.

The definition by gradients of Santurkar et al. (2018). The older definition of Ioffe & Szegedy (2015), the mean and
variance of each layer's input, is `signal_propagation` taken at several steps.

Cost: every G'_i is a gradient at a point of its own, with the layers before i updated and the others not, and
a backward pass gives gradients at one point. No cheaper exact way is known to us: between the points i and i+1 the
input of layer i+1 changes, and with it every activation and every derivative behind it, so that neither pass of one
serves the other behind layer i; only the forward pass of the updated layers could be shared, about a quarter of the
work. So all L layers cost L passes, each backward one ending at its layer; during training one measures a few layers,
drawn again each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import hooked
from gannorm.probes.batch import default_generator, permutation
from gannorm.probes.optimization.objective import (
    Loss,
    Objective,
    Point,
    Result,
    chosen,
    difference,
    inner,
    norm,
    objective,
)


@dataclass(frozen=True, eq=False)
class InternalCovariateShift(Result):
    """‖G−G'‖₂ and the cosine of G and G' for some layers of a network, in forward order."""

    layers: tuple[str, ...]
    distance: np.ndarray  # (L,) ‖G−G'‖₂; 0 means no shift
    cosine: np.ndarray  # (L,) in [−1, 1]; 1 means no shift; NaN where a gradient is 0
    gradient_norm: np.ndarray  # (L,) ‖G‖₂
    layers_in_network: int  # of which `layers` may be a sample


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters by qualified name, to be taken before an update.

    >>> list(snapshot(nn.Linear(2, 1)))
    ['weight', 'bias']
    """
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def internal_covariate_shift(
    network: nn.Module,
    loss: Loss,
    batch: Any,
    before: Point,
    after: Point | None = None,
    layers: Sequence[str] | None = None,
    sample: int | None = None,
    generator: torch.Generator | None = None,
) -> InternalCovariateShift:
    """The change of each layer's gradient that is due to the update of the layers before it, on the same batch.

    G_i = ∇_{W_i} L(W_1, …, W_k), G'_i = ∇_{W_i} L(W'_1, …, W'_{i−1}, W_i, …, W_k), with W `before` and W' `after` a
    real update. A layer is a module that holds parameters of its own, one of them of two or more dimensions; W_i are
    all of them. γ, β and other parameters of modules called earlier count as earlier layers. Modules are ordered by
    their first calls, those in branches of a network too. Buffers stay as they are now.

    The cost for L layers is L forward-backward passes and a forward pass (the first layer has G' = G); `sample` = 2
    makes it 3 forward-backward passes for a network of any depth.

    Args:
        network, loss, batch: see `objective`; take the batch of the update.
        before: the parameters before the update, a copy: `snapshot(network)` or a cloned state_dict.
        after: those after the update, by default those that the network holds now.
        layers: names of modules; by default every layer.
        sample: measure this many of the layers that have others before them, drawn without replacement; their mean is
            unbiased for all of those.
        generator: draws the sample; by default a fresh one with seed 0. Pass one that lives on to see other layers at
            every call.

    Returns:
        InternalCovariateShift; distance 0 and cosine 1 mean no shift.

    Raises:
        UserError: a layer that does not exist, parameters that are missing, misshapen or not a copy, gradients that are
            not finite, a loss that is not deterministic.

    Source: Santurkar et al. 2018, Definition 2.1; the treatment of γ, β, of biases and of branches: defined here.

    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))  # f = w₂w₁x, ∇_{w₂}f = w₁x
    >>> before = {"0.weight": torch.tensor([[2.0]]), "1.weight": torch.tensor([[5.0]])}
    >>> after = {"0.weight": torch.tensor([[3.0]]), "1.weight": torch.tensor([[7.0]])}
    >>> shift = internal_covariate_shift(net, lambda f, x: f(x).mean(), torch.ones(4, 1), before, after)
    >>> shift.distance.tolist(), shift.cosine.tolist()
    ([0.0, 1.0], [1.0, 1.0])
    """
    owned = _parameters_by_module(network)
    measurable = chosen(layers_of(network), layers, "a module with weights to train")
    if sample is not None and sample < 1:
        raise UserError(f"`sample` must be at least 1 layer: got {sample}; leave it out for all layers.")
    with objective(network, loss, batch) as o:
        old, new = _point(o, before, "before"), _point(o, o.parameters if after is None else after, "after")
        if after is None and any(old[name].data_ptr() == p.data_ptr() for name, p in o.parameters.items()):
            raise UserError(
                "`before` must be a copy taken before the update: it shares memory with the network and moved with "
                "it; take snapshot(network) before the step."
            )
        with o.at(old), _call_order(network) as calls:
            _, gradient = o.checked_gradient()
        order = sorted(owned, key=lambda module: _position(module, calls))
        measured = [module for module in order if module in measurable]
        if sample is not None:
            measured = [module for module in measured if module != order[0]] or measured  # the first cannot shift
            drawn = permutation(len(measured), default_generator(generator))[:sample].tolist()
            measured = [measured[i] for i in sorted(drawn)]
        rows = []
        for module in measured:
            g = {name: gradient[name] for name in owned[module]}
            earlier = [name for m in order[: order.index(module)] for name in owned[m]]
            shifted = g
            if earlier:
                with o.at(old | {name: new[name] for name in earlier}):
                    _, shifted = o.gradient(g)
            rows.append(_compared(g, shifted))
    distance, cosine, size = np.array(rows).reshape(-1, 3).T
    return InternalCovariateShift(tuple(measured), distance, cosine, size, len(measurable))


def layers_of(network: nn.Module) -> list[str]:
    """The qualified names of the modules that are layers here: with trainable weights of two or more dimensions.

    >>> layers_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 1)))
    ['0', '3']
    """
    owned = _parameters_by_module(network)
    return [module for module, parameters in owned.items() if any(p.dim() > 1 for p in parameters.values())]


def _parameters_by_module(network: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Module → its own trainable parameters by qualified name; a parametrized weight belongs to its layer."""
    owned: dict[str, dict[str, Tensor]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            owned.setdefault(re.sub(r"\.?(parametrizations\..*|[^.]*)$", "", name), {})[name] = p
    return owned


def _point(o: Objective, values: Point, argument: str) -> dict[str, Tensor]:
    for name, p in o.parameters.items():
        if name not in values or values[name].shape != p.shape:
            got = f"shape {tuple(values[name].shape)}" if name in values else "nothing"
            raise UserError(
                f"`{argument}` must hold every parameter: got {got} for {name!r} of shape {tuple(p.shape)}; "
                "take snapshot(network)."
            )
    # .detach() of a parameter keeps pointing to its present values while `Objective.at` points .data elsewhere
    return {name: values[name].detach() for name in o.parameters}


@contextmanager
def _call_order(network: nn.Module) -> Iterator[dict[str, int]]:
    """Collects module → the number of its first call."""
    calls: dict[str, int] = {}

    def count(name: str, _module: nn.Module, _args: Any) -> None:
        calls.setdefault(name, len(calls))

    with hooked(m.register_forward_pre_hook(partial(count, name)) for name, m in network.named_modules()):
        yield calls


def _position(module: str, calls: dict[str, int]) -> float:
    """When the module was called first; one whose parameters a parent uses itself counts with that parent."""
    while module not in calls and module:
        module = module.rpartition(".")[0]
    return calls.get(module, math.inf)


def _compared(g: dict[str, Tensor], shifted: dict[str, Tensor]) -> tuple[float, float, float]:
    distance, size = norm(difference(g, shifted).values()), norm(g.values())
    product = size * norm(shifted.values())
    cosine = min(max(inner(g, shifted) / product, -1.0), 1.0) if product else math.nan
    return distance, cosine, size
