"""The variance of an activation by dimension. A normalizer removes the variance along the dimensions that it centres.

"Find an input dimension with wide variance and normalize across it": the probe splits the variance of the input of each
layer between samples, channels and positions, and reports the part that each usual normalizer removes by centring.

N samples, C channels, P positions (pixels or tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import hooked
from gannorm.probes.batch import Function, running, tensors
from gannorm.probes.optimization.objective import enough_values, plain

DIMENSIONS = ("sample", "channel", "position")
# The dimensions of (N, C, P) over which each normalizer takes its mean; the group normalizer splits C first.
CENTRED_OVER = {"batch": (0, 2), "instance": (2,), "layer": (1, 2)}
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True)
class LayerVariance:
    """The variance of one layer's input x, over all its entries.

    Attributes:
        main: dimension → share of the variance between the means along it, Var_d(E_others x) / Var(x); they sum to 1
            with "rest", which no dimension explains alone (interactions and noise).
        along: dimension → expected variance along it, E_others(Var_d x) / Var(x), interactions included; in [0, 1].
        removed: normalizer → share of Σx² that its centring removes, in [0, 1].
    """

    main: dict[str, float]
    along: dict[str, float]
    removed: dict[str, float]

    @property
    def widest(self) -> str:
        """The dimension along which the input varies most, interactions included."""
        return max(self.along, key=lambda name: self.along[name])


@dataclass(frozen=True)
class VarianceByDimension:
    """Layer → its variance, in forward order."""

    layers: dict[str, LayerVariance]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{layer: {"sample", "channel", "position", "rest"}}: the main shares, which sum to 1."""
        return plain({name: layer.main for name, layer in self.layers.items()})  # type: ignore[no-any-return]

    @property
    def along(self) -> dict[str, float]:
        """Dimension → expected share of the variance along it, averaged over the layers."""
        layers = self.layers.values()
        return {name: sum(layer.along[name] for layer in layers) / len(layers) for name in DIMENSIONS}

    def __str__(self) -> str:
        width = max(map(len, self.layers))
        head = f"{'layer':<{width}}  sample channel position   rest  widest along  centring removes"
        lines = [head]
        for name, layer in self.layers.items():
            shares = " ".join(f"{layer.main[key]:>7.3f}" for key in (*DIMENSIONS, "rest"))
            removed = ", ".join(f"{key} {share:.2f}" for key, share in layer.removed.items())
            lines.append(f"{name:<{width}} {shares}  {layer.widest:<12}  {removed}")
        return "\n".join(lines)


def variance_by_dimension(network: Function, x: Any, groups: int = 8) -> VarianceByDimension:
    """Shares of the variance of the input of every layer with parameters, by dimension.

    For x_ncp with grand mean m and population variances: main effect of samples Var_n(E_cp x)/Var(x), and likewise for
    channels and positions; rest = 1 − their sum. These are the terms of the analysis of variance, orthogonal on a full
    array, so that for additive effects x = a_n + b_c + d_p the shares of a, b, d come out exactly. "Along" a dimension:
    E(Var_d x)/Var(x), which counts the interactions of d too.

    Args:
        network: a module, in the mode in which it is passed.
        x: its input, N samples in dimension 0; of an input (N, C), P is 1; of Linear and LayerNorm the channels are the
            last dimension, of all other layers dimension 1.
        groups: of the group normalizer whose centring is reported, where it divides C.

    Returns:
        VarianceByDimension. An input without variance has shares 0 and rest 1.

    Raises:
        UserError: a network that is no module, or without a layer that has parameters and gets a tensor; activations
            that are not finite.

    Source: the question is that of comments on Ioffe & Szegedy 2015; the shares are the analysis of variance.

    >>> x = torch.tensor([[1.0, 2.0], [11.0, 12.0]])  # samples differ by 10, channels by 1
    >>> shares = variance_by_dimension(nn.Linear(2, 1), x).to_dict()["(the network)"]
    >>> round(shares["sample"], 4), round(shares["channel"], 4), round(shares["rest"], 4)
    (0.9901, 0.0099, 0.0)
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"variance by dimension needs a module: got {type(network).__name__}; pass the network itself.")
    if groups < 1:
        raise UserError(f"`groups` must be at least 1: got {groups}; try 8.")
    if not tensors(x):
        raise UserError(f"the input must be a tensor or a tuple or dict of tensors: got {type(x).__name__}.")
    if empty := [tuple(t.shape) for t in tensors(x) if not t.numel()]:
        raise UserError(f"the input must hold at least one sample: got the shape {empty[0]}; pass a larger batch.")
    inputs: dict[str, list[Tensor]] = {}

    def remember(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and args[0].dim() > 1:
                inputs.setdefault(name, []).append(_by_role(layer, args[0].detach()))

        return layer.register_forward_pre_hook(hook)

    leaves = [(name or "(the network)", m) for name, m in network.named_modules() if _is_layer(m)]
    with hooked(remember(name, m) for name, m in leaves), running(network, x) as run, torch.no_grad(), enough_values():
        run(x)
    if not inputs:
        raise UserError(
            "variance by dimension needs a layer with parameters that gets a tensor (N, C, …): the network has none."
        )
    if broken := [name for name, calls in inputs.items() if not all(call.isfinite().all() for call in calls)]:
        raise UserError(f"activations must be finite: the input of {broken[0]!r} holds NaN or infinity.")
    return VarianceByDimension({name: _split(calls, groups) for name, calls in inputs.items()})


def _is_layer(module: nn.Module) -> bool:
    """Whether a module computes itself, with parameters or buffers of its own."""
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(own) or isinstance(module, nn.modules.batchnorm._NormBase)


def _by_role(layer: nn.Module, t: Tensor) -> Tensor:
    """(N, C, P) in float64."""
    if isinstance(layer, CHANNELS_LAST):
        t = t.movedim(-1, 1)
    return t.double().reshape(t.shape[0], t.shape[1], -1)


def _split(calls: list[Tensor], groups: int) -> LayerVariance:
    same = [call for call in calls if call.shape[1:] == calls[0].shape[1:]]
    x = torch.cat(same)
    total = x.var(correction=0).item()
    others = {name: tuple(d for d in range(3) if d != i) for i, name in enumerate(DIMENSIONS)}
    if total == 0:
        main = dict.fromkeys(DIMENSIONS, 0.0) | {"rest": 1.0}
        along = dict.fromkeys(DIMENSIONS, 0.0)
    else:
        main = {name: x.mean(dims).var(correction=0).item() / total for name, dims in others.items()}
        main["rest"] = 1.0 - sum(main.values())
        along = {name: x.var(i, correction=0).mean().item() / total for i, name in enumerate(DIMENSIONS)}
    squares = x.square().mean().item()
    means = {name: x.mean(dims, keepdim=True) for name, dims in CENTRED_OVER.items()}
    removed = {name: _share(mean.square().mean().item(), squares) for name, mean in means.items()}
    if x.shape[1] % groups == 0 and groups < x.shape[1]:
        mean = x.unflatten(1, (groups, -1)).mean((2, 3))
        removed[f"group, {groups} groups"] = _share(mean.square().mean().item(), squares)
    return LayerVariance(main, along, removed)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
