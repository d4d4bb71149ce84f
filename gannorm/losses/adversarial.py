"""Adversarial losses: pure functions of the logits of a batch of real and a batch of fake images.

Shapes: N images of each kind. Logits are (N,); positive means "real". Image i of one kind and image i of the other are
a pair, and every loss is a mean over pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gannorm.registry import Registry

PerImage = Callable[[Tensor], Tensor]  # logits (N,) -> (N,)
PerPair = Callable[[Tensor, Tensor], Tensor]  # two logits, (N,) each -> (N,)


class Loss(ABC):
    """A pair of losses, each a mean over the batch and to be minimised.

    Calling it gives the discriminator's loss of each pair, which `probes.loss_coupling` differentiates.

    Attributes:
        couples_batch: the loss of a pair depends on the logits of other pairs. Such a loss couples the images of a
            batch although the discriminator may evaluate each separately.
        needs_real: the generator's loss needs the real images' logits too.
    """

    couples_batch: bool
    needs_real: bool

    @abstractmethod
    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss of each pair, (N,)."""

    @abstractmethod
    def fool(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss of each fake image or pair, (N,); `real` where `needs_real`."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss of real and fake logits, ()."""
        return self(real, fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss of fake logits, ()."""
        return self.fool(fake, real).mean()


@dataclass(frozen=True)
class AdversarialLoss(Loss):
    """A loss that is a mean over images, by its term for each image.

    Attributes:
        real, fake: of the logits of real and of fake images, the two parts of the discriminator's loss.
        fooled: of the logits of fake images, the generator's loss.
        source: where it was published.
    """

    real: PerImage
    fake: PerImage
    fooled: PerImage
    source: str
    couples_batch = needs_real = False

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.real(real) + self.fake(fake)

    def fool(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return self.fooled(fake)

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.real(real).mean() + self.fake(fake).mean()  # two means: the batches may differ in size


@dataclass(frozen=True)
class RelativisticLoss(Loss):
    """A loss of the difference between real and fake logits, not of the logits themselves.

    Attributes:
        pairs: (real, fake) → the discriminator's loss of each pair.
        fooled: (fake, real) → the generator's loss of each pair.
        couples_batch: a pair is compared with the mean of the batch, not with itself alone.
        source: where it was published.
    """

    pairs: PerPair
    fooled: PerPair
    couples_batch: bool
    source: str
    needs_real = True

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.pairs(real, fake)

    def fool(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        assert real is not None, "a relativistic loss compares: it needs the real images' logits"
        return self.fooled(fake, real)


LOSSES: Registry[Loss] = Registry("loss")
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


def relativistic_pairs(above: Tensor, below: Tensor) -> Tensor:
    """−log σ(above_i − below_i) of each pair, (N,): small where the first looks more real than the second.

    Source: Jolicoeur-Martineau 2018, Eqs. 9-10 (RpGAN), with the logistic function as in Huang et al. 2024, Eq. 2.
    """
    return F.softplus(below - above)


def relativistic_average(above: Tensor, below: Tensor) -> Tensor:
    """−log σ(above_i − mean below) − log σ(mean above − below_i), (N,): each image against the other kind's mean.

    Every term holds the mean logit of a batch, so that this loss couples its images.

    Source: Jolicoeur-Martineau 2018, Eqs. 12-13 (RaGAN), with the logistic function.
    """
    return F.softplus(below.mean() - above) + F.softplus(below - above.mean())


for _name, _pairs, _couples, _source in (
    ("relativistic", relativistic_pairs, False, "Jolicoeur-Martineau 2018; Huang et al. 2024, Eq. 2"),
    ("relativistic_average", relativistic_average, True, "Jolicoeur-Martineau 2018"),
):
    LOSSES.register(_name, RelativisticLoss(_pairs, _pairs, _couples, _source))  # G's loss: the same, roles exchanged
