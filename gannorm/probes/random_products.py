"""The spectrum of a product of random matrices: what a deep linear network does to its input at initialization.

Factor by factor the squared singular values spread: most go to 0, a few grow, and with them the directions in which a
deep network without normalization can move its output (Bjorck 2018, §4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.batch import default_generator


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
    # ln x falls from the edge to −∞ as φ grows: bisect, to the last bit.
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
