"""Training: the GAN as a LightningModule, what happens beside it, and one run from one config."""

from gannorm.training.accumulation.accumulate import accumulate_gradients
from gannorm.training.classifier import Classifier
from gannorm.training.gan import GAN
from gannorm.training.resume import resume
from gannorm.training.run import check, prepare, train

__all__ = ["GAN", "Classifier", "accumulate_gradients", "check", "prepare", "resume", "train"]
