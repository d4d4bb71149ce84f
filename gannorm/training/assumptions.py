"""What a loss or a penalty assumes of the discriminator, and a warning where it does not hold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from gannorm import probes
from gannorm.normalizers.sync import alone
from gannorm.seeds import stream

if TYPE_CHECKING:
    from gannorm.training.gan import GAN

UNCOUPLED = 1e-6  # a coupling ratio below this is rounding, which leaves about 1e-13 in float32


def coupling_ratio(gan: GAN) -> float:
    """That of the discriminator on noise, see `probes.estimate_coupling`."""
    size, channels = gan.discriminator.image_size, gan.discriminator.channels
    x = torch.randn(8, channels, size, size, generator=stream(gan.seed, "coupling")).to(gan.device)  # type: ignore
    with alone():
        return probes.estimate_coupling(gan.discriminator, x, generator=stream(gan.seed, "draws")).ratio


def warn_of_assumptions(gan: GAN) -> None:
    """Warn of a loss that couples a batch which the discriminator does not, and of a penalty where it does."""
    if gan.loss.couples_batch and coupling_ratio(gan) <= UNCOUPLED:
        warnings.warn(
            f"the discriminator judges each image alone, but loss {gan.hparams['loss']!r} compares it with the "
            "mean of its batch, so the gradient couples the batch all the same; use --model.loss relativistic.",
            stacklevel=2,
        )
    if gan.penalty_weight and (ratio := coupling_ratio(gan)) > UNCOUPLED:
        warnings.warn(
            "a gradient penalty assumes that the discriminator judges each image alone (Gulrajani et al. 2017, "
            f"p. 4): this one has a coupling ratio of {ratio:.2g}, so the penalty is another quantity; use "
            "--model.discriminator.norm group, layer or none.",
            stacklevel=2,
        )
