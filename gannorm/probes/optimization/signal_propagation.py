"""What reaches each layer of a network: the moments of its input, against depth at one step or against time.

At initialization without normalization channel means and variances grow or shrink by orders of magnitude with depth,
and most images are assigned to one class. Taken at several steps of a training, the same moments are the older reading
of internal covariate shift: the distribution of each layer's inputs, as it moves (Ioffe & Szegedy 2015).

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

OUTPUT = "(output)"  # the name of the last entry: no module can be called so


@dataclass(frozen=True, eq=False)
class SignalPropagation(Result):
    """Moments of the inputs of the layers with kernels, in forward order, and of the network's output as last entry."""

    layers: tuple[str, ...]  # L − 1 names, then "(output)"
    channel_means: tuple[np.ndarray, ...]  # L × (C,) over images and pixels
    channel_variances: tuple[np.ndarray, ...]  # L × (C,) biased, over images and pixels
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

    Source: Bjorck et al. 2018, §3; moments over time: Ioffe & Szegedy 2015.

    >>> x = torch.tensor([[1.0], [3.0], [8.0]])
    >>> result = signal_propagation(nn.Linear(1, 1), lambda f, x: f(x).square().mean(), x)
    >>> result.layers, result.means[0].item()
    (('', '(output)'), 4.0)
    """
    with objective(network, loss, batch) as o:
        with recorded(network, KERNELS) as calls:
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
            moments = [torch.var_mean(torch.cat(rows), 0, correction=0) for rows in inputs.values()]
            return SignalPropagation(
                layers=tuple(inputs),
                channel_means=tuple(mean.cpu().double().numpy() for _, mean in moments),
                channel_variances=tuple(variance.cpu().double().numpy() for variance, _ in moments),
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


def _majority(scores_of_calls: list[Tensor]) -> float | None:
    if any(f.dim() not in (1, 2) for f in scores_of_calls):
        return None
    scores = torch.cat([f.detach().reshape(len(f), -1) for f in scores_of_calls])  # (N, K)
    classes = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
    return torch.bincount(classes).max().item() / len(classes)
