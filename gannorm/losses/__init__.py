"""What both networks minimise: adversarial losses, the discriminator's penalties, and a penalty on its activations."""

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
