"""The networks that a configuration describes, with PyTorch's initialization."""

from __future__ import annotations

import dataclasses
from typing import Any

from gannorm.config import ClassifierModel, GANModel
from gannorm.errors import UserError
from gannorm.models.discriminator import Discriminator
from gannorm.models.generator import Generator
from gannorm.models.residual import ResidualDiscriminator, ResidualGenerator

Generators = Generator | ResidualGenerator
Discriminators = Discriminator | ResidualDiscriminator


def build_networks(model: GANModel, image_size: int, channels: int) -> tuple[Generators, Discriminators]:
    """(generator, discriminator) of a GAN: with `residual_blocks` above 0 the residual pair, otherwise the plain one.

    Args:
        model: the `model` part of a GAN's config.
        image_size: H = W of the images.
        channels: C of the images.

    Raises:
        UserError: networks that cannot be.
    """
    size: dict[str, Any] = {"image_size": image_size, "channels": channels}
    generator, discriminator = dataclasses.asdict(model.generator), dataclasses.asdict(model.discriminator)
    if not model.residual_blocks:
        return Generator(**size, **generator), Discriminator(**size, **discriminator)
    if discriminator.pop("minibatch") != "none":
        raise UserError("the residual discriminator has no minibatch layer: set `minibatch` none or residual_blocks 0.")
    size["blocks"] = model.residual_blocks
    return ResidualGenerator(**size, **generator), ResidualDiscriminator(**size, **discriminator)


def build_classifier(model: ClassifierModel, image_size: int, channels: int, classes: int) -> Discriminators:
    """A classifier: a discriminator with a logit a class; the residual one, whose depth the blocks give, if there are
    `residual_blocks`."""
    options: dict[str, Any] = {"image_size": image_size, "channels": channels, "outputs": classes}
    network = dataclasses.asdict(model.classifier)
    if not model.residual_blocks:
        return Discriminator(**options, **network)
    if network.pop("minibatch") != "none" or network.pop("depth"):
        raise UserError("the residual classifier has no minibatch layer and no `depth`: leave them at none and 0.")
    return ResidualDiscriminator(**options, **network, blocks=model.residual_blocks)
