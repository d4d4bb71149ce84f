"""Training: the GAN as a LightningModule, what happens beside it, and one run from one config.

The names are imported where they are first used, so that a callback for somebody's module does not import our runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gannorm.training.accumulation.accumulate import accumulate_gradients
    from gannorm.training.classifier import Classifier
    from gannorm.training.gan import GAN
    from gannorm.training.resumption import resume
    from gannorm.training.run import check, prepare, train

__all__ = ["GAN", "Classifier", "accumulate_gradients", "check", "prepare", "resume", "train"]

_HOME = {
    "GAN": "gan",
    "Classifier": "classifier",
    "accumulate_gradients": "accumulation.accumulate",
    "check": "run",
    "prepare": "run",
    "resume": "resumption",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gannorm.training' has no attribute {name!r}")
    value = getattr(import_module(f"gannorm.training.{_HOME[name]}"), name)
    globals()[name] = value
    return value
