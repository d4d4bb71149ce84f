"""The objectives of both networks: adversarial losses, penalties on the discriminator, and one on its activations."""

from gannorm.losses.adversarial import LOSSES, AdversarialLoss, Loss, RelativisticLoss
from gannorm.losses.penalties import PENALTIES, gradient_penalty, r1_penalty, r1r2_penalty

LOSSES.seal()
PENALTIES.seal()

__all__ = [
    "LOSSES",
    "PENALTIES",
    "AdversarialLoss",
    "Loss",
    "RelativisticLoss",
    "gradient_penalty",
    "r1_penalty",
    "r1r2_penalty",
]
