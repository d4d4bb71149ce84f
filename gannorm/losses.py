"""Adversarial losses and penalties: pure functions of logits, or of a discriminator and images.

Shapes: N batch, C channels, H W pixels. Logits are (N,); positive means "real".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gannorm.registry import Registry

PerImage = Callable[[Tensor], Tensor]  # logits (N,) -> (N,)


@dataclass(frozen=True)
class AdversarialLoss:
    """A pair of losses, each a mean over the batch and to be minimised, by what every image adds to them.

    Attributes:
        real, fake: of the logits of real and of fake images, the two parts of the discriminator's loss.
        fooled: of the logits of fake images, the generator's loss.
        source: where it was published.
    """

    real: PerImage
    fake: PerImage
    fooled: PerImage
    source: str

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss of real and fake logits, (): the sum of two means."""
        return self.real(real).mean() + self.fake(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """The generator's loss of fake logits, ()."""
        return self.fooled(fake).mean()


LOSSES: Registry[AdversarialLoss] = Registry("loss")
LOSSES.register(
    "non_saturating",
    AdversarialLoss(
        # −log σ(f(x)) − log(1 − σ(f(G(z)))) and −log σ(f(G(z))), through softplus so that no logit overflows.
        real=lambda logits: F.softplus(-logits),
        fake=F.softplus,
        fooled=lambda logits: F.softplus(-logits),
        source="Goodfellow et al. 2014, section 3",
    ),
)
LOSSES.register(
    "hinge",
    AdversarialLoss(
        real=lambda logits: F.relu(1 - logits),
        fake=lambda logits: F.relu(1 + logits),
        fooled=torch.neg,
        source="Lim & Ye 2017; Miyato et al. 2018, Eqs. 16-17",
    ),
)
LOSSES.register(
    "least_squares",
    AdversarialLoss(
        real=lambda logits: 0.5 * (logits - 1).square(),
        fake=lambda logits: 0.5 * logits.square(),
        fooled=lambda logits: 0.5 * (logits - 1).square(),
        source="Mao et al. 2017, Eq. 9",
    ),
)
LOSSES.register(
    "wasserstein",
    AdversarialLoss(real=torch.neg, fake=torch.clone, fooled=torch.neg, source="Arjovsky et al. 2017, Eqs. 2-3"),
)

Penalty = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, torch.Generator], Tensor]
PENALTIES: Registry[Penalty] = Registry("penalty")


def r1_penalty(f: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """½·‖∇_x f(x_i)‖² of each real image (Mescheder et al. 2018, Eq. 9, with γ = 1).

    Args:
        f: discriminator, (N, C, H, W) -> (N,). It must judge each image alone: otherwise the gradient of Σ_i f_i with
            respect to x_i is not that of f_i, and the penalty is another quantity.
        real: (N, C, H, W).

    Returns:
        (N,) ≥ 0, differentiable; 0 where f is locally constant.
    """
    return 0.5 * _gradient(f, real).square().sum(dim=1)


def gradient_penalty(f: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(‖∇_x f(x̂_i)‖ − 1)², x̂_i uniform on the line from real to fake (Gulrajani et al. 2017, Eq. 3, with λ = 1).

    Args:
        f: discriminator, (N, C, H, W) -> (N,), judging each image alone (their p. 4).
        real: (N, C, H, W).
        fake: as real.
        generator: draws the N interpolation weights; on the device of the images.

    Returns:
        (N,) ≥ 0, differentiable; 0 where f has unit slope.
    """
    weight = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device, dtype=real.dtype)
    slopes = _gradient(f, torch.lerp(real, fake, weight)).norm(dim=1)
    return (slopes - 1).square()


PENALTIES.register("none", lambda f, real, fake, generator: real.new_zeros(len(real)))
PENALTIES.register("r1", lambda f, real, fake, generator: r1_penalty(f, real))
PENALTIES.register("gradient", gradient_penalty)


def _gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇_x Σ_i f_i, flattened to (N, C·H·W), part of the graph."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return gradient.flatten(1)


BUILT_IN = (*LOSSES, *PENALTIES)  # names; whoever adds to them comes later
