"""The coupling of a batch at a constant cost: a few backward passes with random signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gannorm.errors import UserError
from gannorm.probes.batch import Function, Output, default_generator
from gannorm.probes.gradients import graph


@dataclass(frozen=True)
class CouplingEstimate:
    """Estimates of Σ_{i≠j} C_ij² and Σ_ij C_ij², and their ratio."""

    off_diagonal: float
    total: float
    draws: int

    @property
    def ratio(self) -> float:
        """The share of other samples; 0 means no coupling. Noise may raise it slightly above 1."""
        return self.off_diagonal / self.total if self.total else 0.0


def estimate_coupling(
    f: Function,
    x: Any,
    draws: int = 4,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
    output: Output = None,
) -> CouplingEstimate:
    """The squared couplings of a batch, estimated from `draws` backward passes for any N.

    With signs v ∈ {±1}^N, g(v) = ∇_x Σ_i v_i f_i and h_j = v_j g_j = J_jj + Σ_{i≠j} v_i v_j J_ij, the sample variance
    Σ_k ‖h^k − h̄‖²/(K−1) is unbiased for Σ_{i≠j} C_ij², and E‖g‖² = Σ_ij C_ij². Without coupling every h^k is the
    same, so the estimate is 0 up to rounding, not merely on average.

    Args:
        f, x, batch_dim, output: as for `coupling_matrix`.
        draws: K ≥ 2 backward passes; the error decreases as 1/√K.
        generator: draws the signs; by default a fresh one with seed 0.

    Returns:
        CouplingEstimate, squared norms; .off_diagonal = 0 means no coupling.

    Raises:
        UserError: as `coupling_matrix`, and for fewer than two draws.

    Source: defined here.

    >>> estimate_coupling(lambda x: x.square().sum(1), torch.ones(64, 3)).ratio
    0.0
    """
    if draws < 2:
        raise UserError(f"`draws` must be at least 2, since a variance is taken: got {draws}; try 4.")
    generator = default_generator(generator)
    with graph(f, x, batch_dim, output) as g:
        mean = [torch.zeros(())] * len(g.leaves)
        scatter = total = 0.0
        for k in range(1, draws + 1):
            signs = torch.randint(2, (len(g),), generator=generator, device=generator.device) * 2 - 1
            for leaf, grad in enumerate(g.pull_back(signs)):
                h = (grad.flatten(1) if grad.dim() > 1 else grad[:, None]) * signs.to(grad)[:, None]  # (N, …)
                total += h.square().sum().item() / draws
                # Welford's update: equal h in every draw give a scatter of exactly 0.
                delta = h - mean[leaf].to(h)
                mean[leaf] = mean[leaf].to(h) + delta / k
                scatter += (delta * (h - mean[leaf])).sum().item()
    return CouplingEstimate(off_diagonal=max(scatter, 0.0) / (draws - 1), total=total, draws=draws)
