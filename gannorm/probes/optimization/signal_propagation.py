"""Signal propagation: the moments of each layer's input, against depth at one step or against time.

At initialization without normalization channel means and variances grow or shrink by orders of magnitude with depth,
and most images are assigned to one class. Taken at several steps of a training, the same moments are the older
definition of internal covariate shift: the distribution of each layer's inputs, as it moves (Ioffe & Szegedy 2015).

"Does BatchNorm make activations more Gaussian?" Skewness and excess kurtosis answer: both are 0 for a Gaussian.
BatchNorm is an affine map of a channel and changes neither in its own output: compare networks with and without it at
equal depth.

N images, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes.calls import KERNELS, Call, recorded
from gannorm.probes.optimization.objective import Loss, Result, at_least_single, objective

SATURATING = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}  # activation → its range
OUTPUT = "(output)"  # the name of the last entry: no module can be called so


@dataclass(frozen=True, eq=False)
class SignalPropagation(Result):
    """Moments of the inputs of the layers with kernels, in forward order, and of the network's output as last entry."""

    layers: tuple[str, ...]  # L − 1 names, then "(output)"
    channel_means: tuple[np.ndarray, ...]  # L × (C,) over images and pixels
    channel_variances: tuple[np.ndarray, ...]  # L × (C,) biased, over images and pixels
    channel_skewness: tuple[np.ndarray, ...]  # L × (C,) E(x−μ)³/σ³; NaN for a constant channel
    channel_kurtosis: tuple[np.ndarray, ...]  # L × (C,) excess kurtosis E(x−μ)⁴/σ⁴ − 3; NaN for a constant channel
    pooled_skewness: np.ndarray  # (L,) of all entries together
    pooled_kurtosis: np.ndarray  # (L,) likewise, excess
    saturated: dict[str, float]  # module → share of the outputs of a sigmoid or tanh within 1 % of an end of its range
    majority_by_activation: float | None  # share of images whose largest output is that of the most frequent class
    majority_by_gradient: float | None  # the same for the output that the loss would lower most

    @property
    def means(self) -> np.ndarray:
        """(L,) average size |μ_c| of the channels' means."""
        return np.array([np.abs(m).mean() for m in self.channel_means])

    @property
    def variances(self) -> np.ndarray:
        """(L,) average of the channels' variances; 0 means that nothing distinguishes two images there."""
        return np.array([v.mean() for v in self.channel_variances])


def signal_propagation(network: nn.Module, loss: Loss, batch: Any) -> SignalPropagation:
    """Mean and variance of every channel at the input of each layer, and the class bias of the output.

    μ_c and σ²_c over all images and pixels that reach the layer while the loss is evaluated. Class bias: the share of
    images whose largest output f_ik over the classes k, or largest gradient ∂ℓ/∂f_ik, is that of the most frequent
    class. For a single logit the classes are its signs. The cost is two forward passes.

    Args:
        network, loss, batch: see `objective`. Layers are Linear, Conv2d and ConvTranspose2d modules.

    Returns:
        SignalPropagation. A majority of 1 means that every image is called the same; None: the output is neither
        (N,) nor (N, K).

    Raises:
        UserError: the loss does not use the network's output, gradients that are not finite, a loss that is not
            deterministic.

    Source: Bjorck et al. 2018, §3; moments over time and the claim of Gaussian inputs: Ioffe & Szegedy 2015.

    >>> x = torch.tensor([[1.0], [3.0], [8.0]])
    >>> result = signal_propagation(nn.Linear(1, 1), lambda f, x: f(x).square().mean(), x)
    >>> result.layers, result.means[0].item()
    (('', '(output)'), 4.0)
    """
    with objective(network, loss, batch) as o:
        with recorded(network, (*KERNELS, *SATURATING)) as calls:
            value = o.forward()
        own = [call for call in calls if call.module is network]
        by_output = torch.autograd.grad(value, [c.output for c in own], allow_unused=True) if own else ()
        # an output that the loss does not use was computed for other ends: virtual BatchNorm's reference batch
        used = [(c, g) for c, g in zip(own, by_output, strict=True) if g is not None]
        if not used:
            raise UserError(
                "`loss` must use the network's output, a tensor, for an input tensor: no such call was seen; call "
                "network(x) in the closure."
            )
        o.require_finite(value.item(), {f"{OUTPUT} of call {i}": g for i, (_, g) in enumerate(used)})
        o.require_repeatable(value.item())
        with torch.no_grad():
            inputs: dict[str, list[Tensor]] = {}
            for call in calls:
                if isinstance(call.module, KERNELS):
                    inputs.setdefault(call.name, []).append(_by_channel(call, call.input))
            inputs[OUTPUT] = [_by_channel(call, call.output) for call, _ in used]
            joined = [torch.cat(rows).double() for rows in inputs.values()]
            moments = [torch.var_mean(rows, 0, correction=0) for rows in joined]
            shapes = [_shape(rows, 0) for rows in joined]
            pooled = [_shape(rows.flatten(), 0) for rows in joined]
            return SignalPropagation(
                layers=tuple(inputs),
                channel_means=tuple(mean.cpu().double().numpy() for _, mean in moments),
                channel_variances=tuple(variance.cpu().double().numpy() for variance, _ in moments),
                channel_skewness=tuple(skewness.cpu().numpy() for skewness, _ in shapes),
                channel_kurtosis=tuple(kurtosis.cpu().numpy() for _, kurtosis in shapes),
                pooled_skewness=np.array([skewness.item() for skewness, _ in pooled]),
                pooled_kurtosis=np.array([kurtosis.item() for _, kurtosis in pooled]),
                saturated=_saturated(calls),
                majority_by_activation=_majority([call.output for call, _ in used]),
                majority_by_gradient=_majority([g for _, g in used]),
            )


def _by_channel(call: Call, t: Tensor) -> Tensor:
    """(samples and positions, C)."""
    if t.dim() < 2:
        t = t.reshape(-1, 1)
    if t.dim() > 3 and not isinstance(call.module, nn.Linear):
        t = t.movedim(1, -1)
    return at_least_single(t.detach()).reshape(-1, t.shape[-1])


def _shape(rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Skewness and excess kurtosis along a dimension; NaN where nothing varies."""
    centred = rows - rows.mean(dim, keepdim=True)
    variance = centred.square().mean(dim)
    skewness = centred.pow(3).mean(dim) / variance.pow(1.5)
    return skewness, centred.pow(4).mean(dim) / variance.square() - 3


def _saturated(calls: list[Call]) -> dict[str, float]:
    shares: dict[str, list[Tensor]] = {}
    for call in calls:
        for kind, (low, high) in SATURATING.items():
            if isinstance(call.module, kind):
                margin = 0.01 * (high - low)
                output = call.output.detach()
                shares.setdefault(call.name, []).append((output < low + margin) | (output > high - margin))
    return {name: torch.cat([s.flatten() for s in parts]).double().mean().item() for name, parts in shares.items()}


def _majority(scores_of_calls: list[Tensor]) -> float | None:
    if any(f.dim() not in (1, 2) for f in scores_of_calls):
        return None
    scores = torch.cat([f.detach().reshape(len(f), -1) for f in scores_of_calls])  # (N, K)
    classes = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
    return torch.bincount(classes).max().item() / len(classes)
