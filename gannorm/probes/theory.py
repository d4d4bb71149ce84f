"""Networks of the literature with known answers: deep linear chains, and products of random matrices.

`deep_linear_network` and `one_neuron_chain` are problems (network, loss, batch), ready for every optimization probe, in
float64. The spectrum of a product of random matrices describes a deep linear network at initialization:
factor by factor the squared singular values spread, most go to 0 and a few grow (Bjorck 2018, §4).

N samples, D features, M factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from gannorm.errors import UserError, require_positive
from gannorm.probes.batch import default_generator
from gannorm.probes.optimization.objective import Loss


class Problem(NamedTuple):
    """The arguments of the optimization probes, in their order: `probes.landscape(*problem, learning_rate=…)`."""

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


def product_edge(factors: int) -> float:
    """The largest squared singular value of a product of M factors, as their width grows without bound.

    (M+1)^{M+1} / M^M.

    Args:
        factors: M ≥ 1.

    Source: Penson & Życzkowski 2011, cited by Bjorck et al. 2018.

    >>> [round(product_edge(m), 2) for m in (1, 3, 5)]
    [4.0, 9.48, 14.93]
    """
    _require_factors(factors)
    return (factors + 1) ** (factors + 1) / factors**factors


def product_density(x: Tensor, factors: int) -> Tensor:
    """The density of the squared singular values of X_1…X_M, entries Gaussian of variance 1/width, for infinite width.

    ρ(x) = (1/(πx)) · sin φ · sin((M+1)φ)/sin(Mφ) at x = sin^{M+1}((M+1)φ) / (sin φ · sin^M(Mφ)), 0 < φ < π/(M+1).
    It has integral 1 and mean 1; at 0 it grows as x^{−M/(M+1)}.

    Args:
        x: squared singular values, any shape.
        factors: M ≥ 1; for M = 1 this is the law of Marchenko and Pastur.

    Returns:
        Densities of the shape of `x` in float64: 0 outside (0, edge), infinite at 0.

    Source: Bjorck et al. 2018, §4, after Penson & Życzkowski 2011.

    >>> product_density(torch.tensor([1.0, 5.0]), factors=1) * 2 * torch.pi  # √(x(4−x))/x
    tensor([1.7321, 0.0000], dtype=torch.float64)
    """
    _require_factors(factors)
    m, x = factors, x.double()
    inside = (x > 0) & (x < product_edge(m))
    target = torch.where(inside, x, 1.0).log()
    # ln x decreases from the edge to −∞ as φ grows: bisect, to the last bit.
    low, high = torch.zeros_like(x), torch.full_like(x, math.pi / (m + 1))
    for _ in range(60):
        phi = (low + high) / 2
        beyond = (m + 1) * ((m + 1) * phi).sin().log() - phi.sin().log() - m * (m * phi).sin().log() < target
        low, high = torch.where(beyond, low, phi), torch.where(beyond, phi, high)
    phi = (low + high) / 2
    density = ((m + 1) * phi).sin() / (m * phi).sin() * phi.sin() / (math.pi * target.exp())
    return torch.where(inside, density, torch.where(x == 0, math.inf, 0.0))


def product_spectrum(width: int, factors: int, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """The squared singular values of simulated products X_1…X_M of width × width Gaussians of entry variance 1/width.

    Args:
        width: ≥ 1; the density is the limit of large widths.
        factors: M ≥ 1.
        draws: products to simulate.
        generator: by default a fresh one with seed 0.

    Returns:
        (draws · width,) in float64, ascending.

    Source: Bjorck et al. 2018, §4.

    >>> product_spectrum(width=64, factors=3).shape
    torch.Size([64])
    """
    _require_factors(factors)
    if width < 1 or draws < 1:
        raise UserError(f"`width` and `draws` must be at least 1: got {width} and {draws}.")
    generator = default_generator(generator)
    squares = []
    for _ in range(draws):
        product = torch.eye(width, dtype=torch.float64, device=generator.device)
        for _ in range(factors):
            factor = torch.randn(width, width, dtype=torch.float64, generator=generator, device=generator.device)
            product = product @ factor / math.sqrt(width)
        squares.append(torch.linalg.svdvals(product).square())
    return torch.cat(squares).sort().values


def _require_factors(factors: int) -> None:
    if factors < 1:
        raise UserError(f"a product must have at least 1 factor: got {factors}.")
