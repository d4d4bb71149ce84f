"""The two networks, built from the two normalizer slots; their initialization; their checkpoints."""

from gannorm.models.augmentation import AUGMENTATIONS
from gannorm.models.build import DISCRIMINATORS, GENERATORS, build_networks, discriminator, generator
from gannorm.models.checkpoint import (
    Networks,
    find_checkpoint,
    load_classifier,
    load_networks,
    read_checkpoint,
    task_of,
)
from gannorm.models.discriminator import Discriminator
from gannorm.models.generator import Generator
from gannorm.models.initialization import INITIALIZERS, equalize_bias, initialize
from gannorm.models.residual import ResidualDiscriminator, ResidualGenerator

__all__ = [
    "AUGMENTATIONS",
    "DISCRIMINATORS",
    "GENERATORS",
    "INITIALIZERS",
    "Discriminator",
    "Generator",
    "Networks",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "build_networks",
    "discriminator",
    "equalize_bias",
    "find_checkpoint",
    "generator",
    "initialize",
    "load_classifier",
    "load_networks",
    "read_checkpoint",
    "task_of",
]
