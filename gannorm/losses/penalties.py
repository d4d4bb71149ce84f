"""Penalties on the slope of a discriminator: (f, real, fake, generator) → one number an image, (N,).

Shapes: N batch, C channels, H W pixels. Logits are (N,); positive means "real".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gannorm.registry import Registry


@dataclass(frozen=True)
class Penalty:
    """A penalty, and what it shows the discriminator.

    Attributes:
        values: (f, real, fake, generator) → one number an image, (N,) ≥ 0.
        passes: the images of each further pass of the discriminator, a batch of one kind alone each.
    """

    values: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, torch.Generator], Tensor]
    passes: tuple[str, ...]

    def __call__(self, f: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        return self.values(f, real, fake, generator)


PENALTIES: Registry[Penalty] = Registry("penalty")


def r1_penalty(f: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """½·‖∇_x f(x_i)‖² of each image (Mescheder et al. 2018, Eq. 9, with γ = 1).

    Args:
        f: discriminator, (N, C, H, W) -> (N,). It must treat each image separately: otherwise the gradient of Σ_i f_i
            with respect to x_i is not that of f_i, and the penalty is another quantity.
        images: (N, C, H, W); real ones in R1, fake ones in R2 (the same formula, their Eq. 10).

    Returns:
        (N,) ≥ 0, differentiable; 0 where f is locally constant.
    """
    return 0.5 * _gradient(f, images).square().sum(dim=1)


def r1r2_penalty(f: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """R1 + R2: ½·‖∇_x f(x_i)‖² of each real image plus that of the fake image of the same pair.

    With the relativistic loss and no normalizer it is the recipe of R3GAN (Huang et al. 2024, Eqs. 3-4).

    Args:
        f: as for `r1_penalty`.
        real, fake: (N, C, H, W).

    Returns:
        (N,) ≥ 0, differentiable; the penalty weight of a config is their γ.
    """
    return r1_penalty(f, real) + r1_penalty(f, fake)


def gradient_penalty(f: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(‖∇_x f(x̂_i)‖ − 1)², x̂_i uniform on the line from real to fake (Gulrajani et al. 2017, Eq. 3, with λ = 1).

    Args:
        f: discriminator, (N, C, H, W) -> (N,), without coupling of the batch (their p. 4).
        real: (N, C, H, W).
        fake: as real.
        generator: draws the N interpolation weights; on the device of the images.

    Returns:
        (N,) ≥ 0, differentiable; 0 where f has unit slope.
    """
    weight = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device, dtype=real.dtype)
    slopes = _gradient(f, torch.lerp(real, fake, weight)).norm(dim=1)
    return (slopes - 1).square()


PENALTIES.register("none", Penalty(lambda f, real, fake, generator: real.new_zeros(len(real)), ()))
PENALTIES.register("r1", Penalty(lambda f, real, fake, generator: r1_penalty(f, real), ("real images",)))
PENALTIES.register(
    "r1r2", Penalty(lambda f, real, fake, generator: r1r2_penalty(f, real, fake), ("real images", "fake images"))
)
PENALTIES.register("gradient", Penalty(gradient_penalty, ("points between real and fake images",)))


def _gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇_x Σ_i f_i, flattened to (N, C·H·W), part of the graph."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return gradient.flatten(1)
