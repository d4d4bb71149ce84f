"""Does a loss couple the samples of a batch, whatever the network does? The Jacobian of its terms by the logits.

A discriminator that treats each image separately can still be trained by a loss that compares images. Then the gradient
depends on the batch although no probe of the network shows it. N pairs of a real and a fake sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gannorm.errors import UserError


@dataclass(frozen=True)
class LossCoupling:
    """How far the loss of each pair depends on the logits of the others.

    Attributes:
        matrix: C_ij = ‖∂ℓ_i/∂(r_j, f_j)‖₂, (N, N).
        ratio: Σ_{i≠j} C_ij² / Σ_ij C_ij² ∈ [0, 1]; 0 if each pair's loss depends on its own logits alone.
    """

    matrix: Tensor
    ratio: float

    @property
    def couples(self) -> bool:
        return self.ratio > 0


def loss_coupling(loss: Callable[[Tensor, Tensor], Tensor], real_logits: Tensor, fake_logits: Tensor) -> LossCoupling:
    """The dependence of each pair's loss ℓ_i on the logits r_j of real and f_j of fake samples of other pairs.

    Args:
        loss: (real logits (N,), fake logits (N,)) → (N,), one loss for each pair, before the mean: an entry of
            `gannorm.losses.LOSSES`, or `lambda real, fake: entry.fool(fake, real)` for the generator's.
        real_logits, fake_logits: where it is measured, (N,) each with N ≥ 2.

    Returns:
        Exact zeros where nothing couples: the terms of a loss without coupling never meet.

    Raises:
        UserError: fewer than two pairs, unequal batches, or a loss that is not one number a pair.

    Source: defined here; relativistic average losses are those of Jolicoeur-Martineau 2018.

    >>> real, fake = torch.tensor([1.0, 2.0]), torch.tensor([0.0, -1.0])
    >>> loss_coupling(lambda r, f: torch.relu(1 - r) + torch.relu(1 + f), real, fake).couples
    False
    >>> loss_coupling(lambda r, f: f.mean() - r, real, fake).matrix
    tensor([[1.1180, 0.5000],
            [0.5000, 1.1180]], dtype=torch.float64)
    """
    real, fake = (logits.detach().double() for logits in (real_logits, fake_logits))
    if real.dim() != 1 or real.shape != fake.shape or len(real) < 2:
        raise UserError(
            "a loss's coupling needs as many real as fake logits, (N,) each with N at least 2: got "
            f"{tuple(real.shape)} and {tuple(fake.shape)}."
        )
    terms = loss(real, fake)
    if terms.shape != real.shape:
        raise UserError(
            f"`loss` must give one number for each of the {len(real)} pairs: got shape {tuple(terms.shape)}; "
            "leave out the mean."
        )
    by_real, by_fake = torch.autograd.functional.jacobian(loss, (real, fake))
    squares = by_real.square() + by_fake.square()
    total, others = squares.sum().item(), (squares - torch.diag(squares.diagonal())).sum().item()
    return LossCoupling(squares.sqrt(), others / total if total else 0.0)
