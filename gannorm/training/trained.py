"""What one training step trains: each network, its optimizer, and the loss of the present batch as a function of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gannorm.training.classifier import Classifier, cross_entropy
from gannorm.training.gan import GAN


@dataclass
class Trained:
    """A network in a training step.

    Args:
        name: "discriminator", "generator" or "classifier".
        loss: (network, batch) -> the loss that the step lowers.
        batch: what `loss` reads; known once the last update of the step was computed.
        last_update: of the updates in a training step, the one that is measured.
        updates: how many of them were begun.
        before: the parameters before the update that was begun last.
    """

    name: str
    network: nn.Module
    optimizer: Optimizer
    loss: Callable[[nn.Module, Any], Tensor]
    batch: Callable[[], Any]
    last_update: int = 1
    updates: int = 0
    before: dict[str, Tensor] = field(default_factory=dict)


def networks_of(module: GAN | Classifier) -> dict[str, nn.Module]:
    """The trained networks by name."""
    if isinstance(module, GAN):
        return {"discriminator": module.discriminator, "generator": module.generator}
    return {"classifier": module.network}


def trained_in(module: GAN | Classifier, batch: Any) -> list[Trained]:
    """The networks that this step will train, in order."""
    if isinstance(module, Classifier):
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        return [Trained("classifier", module.network, optimizer, _classifier_loss, lambda: batch)]
    gan = module
    d_optimizer, g_optimizer = gan.optimizers(use_pl_optimizer=False)  # type: ignore[misc]

    def judge(_: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return gan.discriminator_loss(*pair)

    def deceive(generator: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return gan.generator_loss(pair[0], generator(pair[1]))

    discriminator: Any = gan.discriminator
    generator: Any = gan.generator
    return [
        Trained("discriminator", discriminator, d_optimizer, judge, lambda: itemgetter(0, 2)(gan.drawn), gan.d_steps),
        Trained("generator", generator, g_optimizer, deceive, lambda: itemgetter(0, 1)(gan.drawn)),
    ]


def _classifier_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(network(batch[0]), batch[1])
