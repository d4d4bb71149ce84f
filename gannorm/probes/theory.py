"""Problems of the literature whose optimization can be followed by hand: (network, loss, batch), ready for every probe.

All are in float64. N samples, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from gannorm.errors import require_positive
from gannorm.probes.batch import default_generator
from gannorm.probes.optimization.objective import Loss


class Problem(NamedTuple):
    """What the optimization probes take, in their order: `probes.landscape(*problem, learning_rate=…)`."""

    network: nn.Module
    loss: Loss
    batch: Any


def deep_linear_network(
    depth: int = 25,
    width: int = 10,
    samples: int = 1000,
    normalizer: Callable[[int], nn.Module] | None = None,
    generator: torch.Generator | None = None,
) -> Problem:
    """A linear map learned by a deep linear network, from the full batch.

    L = ‖W_k…W_1 x − Ax‖², summed over features and samples, x and A standard Gaussian, W_i with Glorot's uniform
    initialization. The paper trains by gradient descent with learning rate 1e-6.

    Args:
        depth: k ≥ 1 linear layers without bias.
        width: D, of all layers, the input and the target.
        samples: N.
        normalizer: D -> module, put behind every layer but the last; nn.BatchNorm1d for the paper's other network.
        generator: draws x, A and the weights; by default a fresh one with seed 0.

    Source: Santurkar et al. 2018, §2.2 and appendix A; the sum over samples and the last layer without a normalizer:
    defined here.

    >>> network, loss, batch = deep_linear_network(depth=3)
    >>> network(batch[0]).shape, loss(network, batch).dtype
    (torch.Size([1000, 10]), torch.float64)
    """
    require_positive(depth=depth, width=width, samples=samples)
    generator = default_generator(generator)
    layers: list[nn.Module] = []
    for k in range(depth):
        layers.append(_linear(width))
        nn.init.xavier_uniform_(layers[-1].weight, generator=generator)  # type: ignore[arg-type]
        if normalizer is not None and k < depth - 1:
            layers.append(normalizer(width).double())
    x = torch.randn(samples, width, dtype=torch.float64, generator=generator)
    a = torch.randn(width, width, dtype=torch.float64, generator=generator)

    def squared_error(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, target = batch
        return (network(x) - target).square().sum()

    return Problem(nn.Sequential(*layers), squared_error, (x, x @ a.T))


def one_neuron_chain(depth: int, weight: float = 1.0) -> Problem:
    """A chain of layers with one neuron each, whose update multiplies all other weights.

    ŷ = x·w_1·w_2·…·w_k at x = 1, and L = ŷ. After a step of gradient descent ŷ is x·∏(w_i − ε g_i) with
    g_i = x·∏_{j≠i} w_j: terms up to ε^k, which no layer's own gradient sees.

    Args:
        depth: k ≥ 1.
        weight: of every layer at the start.

    Source: Goodfellow et al. 2016, §8.7.1.

    >>> network, loss, batch = one_neuron_chain(depth=3, weight=2.0)
    >>> loss(network, batch).item()
    8.0
    """
    require_positive(depth=depth)
    layers = [_linear(1) for _ in range(depth)]
    for layer in layers:
        nn.init.constant_(layer.weight, weight)
    return Problem(nn.Sequential(*layers), lambda network, x: network(x).mean(), torch.ones(1, 1, dtype=torch.float64))


def _linear(width: int) -> nn.Linear:
    # skip_init: the default initialization would move the global random state
    return skip_init(nn.Linear, width, width, bias=False, dtype=torch.float64)
