"""What can be configured: the typed tree of keys, and what is done with nested keys and with names made of them.

Nothing here imports torch or Lightning: a wrong key is answered at once, and studies plan hundreds of configs.
"""

from gannorm.config.train_config import (
    MODELS,
    NORMS,
    RENAMED,
    Activation,
    ClassifierModel,
    GANModel,
    TrainConfig,
    factors,
    is_study,
    keys,
    read_sources,
    taken_by,
    upgraded,
)

__all__ = [
    "MODELS",
    "NORMS",
    "RENAMED",
    "Activation",
    "ClassifierModel",
    "GANModel",
    "TrainConfig",
    "factors",
    "is_study",
    "keys",
    "read_sources",
    "taken_by",
    "upgraded",
]
