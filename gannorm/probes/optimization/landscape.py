"""How smooth is the loss along its own gradient? Smoothness is the proposed reason why normalization helps.

From the parameters θ of the current training step the probe looks ahead along the gradient, at several step sizes, and
comes back: training continues from θ unchanged. A band over models that were trained separately with
different learning rates, as some reproductions draw it, is another quantity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from gannorm.errors import UserError
from gannorm.probes.optimization.objective import Loss, Result, difference, moved, norm, objective

FACTORS = tuple(0.5 * 8 ** (k / 7) for k in range(8))  # 1/2 to 4 (Santurkar 2018, Fig. 4), spaced geometrically
DIVERGENCE = 1e3  # loss over loss before: a step above this counts as diverged (Bjorck 2018)


@dataclass(frozen=True, eq=False)
class Landscape(Result):
    """Loss and gradient at θ, and at θ − ηg for S step sizes η. Overflowed values are infinite."""

    loss: float
    gradient_norm: float  # ‖g‖
    step_sizes: np.ndarray  # (S,) η
    losses: np.ndarray  # (S,) L(θ−ηg)
    gradient_changes: np.ndarray  # (S,) ‖g − ∇L(θ−ηg)‖

    @property
    def loss_band(self) -> tuple[float, float]:
        """[min, max] of the loss over the step sizes; its width is 0 on a plane along g of slope 0."""
        return float(self.losses.min()), float(self.losses.max())

    @property
    def predictiveness_band(self) -> tuple[float, float]:
        """[min, max] of the change of the gradient; (0, 0) where the loss is linear."""
        return float(self.gradient_changes.min()), float(self.gradient_changes.max())

    @property
    def effective_beta(self) -> float:
        """max_η ‖g − ∇L(θ−ηg)‖ / (η‖g‖): the Lipschitz constant of the gradient, measured along g. NaN where g = 0."""
        if self.gradient_norm == 0:
            return math.nan
        return float((self.gradient_changes / self.step_sizes).max() / self.gradient_norm)

    @property
    def diverged(self) -> np.ndarray:
        """(S,) whether the relative loss passes 10³ in size or the loss is infinite."""
        return ~(np.abs(self.losses) <= DIVERGENCE * abs(self.loss))


def landscape(
    network: nn.Module, loss: Loss, batch: Any, learning_rate: float, factors: Sequence[float] = FACTORS
) -> Landscape:
    """Loss and gradient along the gradient g = ∇L(θ) of the batch, at the step sizes η = factor · learning_rate.

    L(θ−ηg) and ‖∇L(θ) − ∇L(θ−ηg)‖₂, θ being the parameters that require gradients. The step is plain gradient descent,
    whatever optimizer trains. The cost is 1 + S forward-backward passes and a forward pass; S is 8 by default.

    Args:
        network, loss, batch: see `objective`.
        learning_rate: > 0, as a rule that of the training.
        factors: S > 0 multiples of it.

    Returns:
        Landscape; gradient changes of 0 mean a gradient that holds as far as the steps reach.

    Raises:
        UserError: step sizes that are not positive, gradients at θ that are not finite, a loss that is not
            deterministic.

    Source: Santurkar et al. 2018, Fig. 4; relative loss and its threshold: Bjorck et al. 2018.

    >>> import torch
    >>> weight = nn.Linear(1, 1, bias=False)  # L = 3w²/2, so that g = 3w and β = 3
    >>> result = landscape(weight, lambda f, x: 1.5 * f(x).square().mean(), torch.ones(4, 1), learning_rate=0.1)
    >>> round(result.effective_beta, 3)
    3.0
    """
    step_sizes = [learning_rate * factor for factor in factors]
    if not step_sizes or not all(0 < eta < math.inf for eta in step_sizes):
        raise UserError(f"step sizes must be positive and finite: got {step_sizes}; check learning_rate and factors.")
    with objective(network, loss, batch) as o:
        start, g = o.checked_gradient()
        losses, changes = [], []
        for eta in step_sizes:
            with o.at(moved(o.parameters, g, -eta)):
                value, ahead = o.gradient()
            losses.append(value)
            changes.append(norm(difference(g, ahead).values()))
    return Landscape(start, norm(g.values()), np.array(step_sizes), _or_infinite(losses), _or_infinite(changes))


def _or_infinite(values: list[float]) -> np.ndarray:
    return np.nan_to_num(np.array(values), nan=np.inf, posinf=np.inf, neginf=-np.inf)
