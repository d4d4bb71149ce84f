"""An alternative to normalization: a penalty in the loss that drives activations toward zero mean and unit variance.

If what helps is that activations have zero mean and unit variance, a penalty toward that should help too, without
making a logit depend on the batch: the network stays a function of one image, and only its loss looks at the batch.

    with record_activations(network) as activations:
        logits = network(images)
    penalty, by_layer = moment_penalty(activations)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import hooked

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def moment_penalty(activations: Mapping[str, Tensor], eps: float = 1e-5) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over layers of the distance of each channel's activations from zero mean and unit variance.

    p_l = mean_c (μ_c² + (σ_c − 1)²), μ_c and σ_c = √(var_c + ε) over the batch and the pixels: for Gaussian
    activations the squared Wasserstein distance from N(μ_c, σ_c²) to N(0, 1). Its slope stays finite when a channel
    dies.

    Args:
        activations: layer name → (N, C, H, W) or (N, C), with gradients.
        eps: ε > 0.

    Returns:
        The penalty, a scalar ≥ 0, where 0 means that every channel is normalized, and p_l by layer, detached, for logs.

    Raises:
        UserError: no activations, or a layer with a single value a channel, which has no variance.

    Source: defined here.

    >>> penalty, by_layer = moment_penalty({"conv": torch.tensor([[-1.0], [3.0]])})
    >>> round(penalty.item(), 3), list(by_layer)
    (2.0, ['conv'])
    """
    if not activations:
        raise UserError("the moment penalty needs the activations of at least one layer: got none.")
    by_layer = {}
    for name, x in activations.items():
        if x.numel() <= x.shape[1]:
            raise UserError(
                f"the moment penalty needs more than one value a channel: layer {name!r} gave {tuple(x.shape)}; "
                "use a larger batch."
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, [d for d in range(x.dim()) if d != 1], correction=0)
        by_layer[name] = (mean.square() + ((variance + eps).sqrt() - 1).square()).mean()
    penalty = torch.stack(list(by_layer.values())).mean()
    return penalty, {name: p.detach() for name, p in by_layer.items()}


@contextmanager
def record_activations(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that the next call of `network` fills: the output of each hidden convolution and linear layer.

    The last such layer, whose output is the network's answer, is left out. A layer called twice keeps its last output.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with record_activations(network) as activations:
    ...     _ = network(torch.zeros(4, 2))
    >>> {name: tuple(x.shape) for name, x in activations.items()}
    {'0': (4, 3)}
    """
    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, WEIGHTED)][:-1]
    activations: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        activations[name] = output

    with hooked(module.register_forward_hook(partial(keep, name)) for name, module in layers):
        yield activations
