"""The exact coupling of a batch: how strongly each output depends on each input, by N backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gannorm.probes.batch import Function, Output
from gannorm.probes.gradients import graph


def coupling_matrix(f: Function, x: Any, batch_dim: int = 0, output: Output = None) -> Tensor:
    """How strongly the output for sample i responds to sample j.

    C_ij = ‖∂f_i/∂x_j‖₂, by one forward and N backward passes; one row is in memory at a time.

    Args:
        f: (N, …) -> (N,) or (N, 1); a larger output is projected to one number per sample (`batch.scalars`).
        x: N ≥ 2 samples; integer tokens are differentiated by at the output of their nn.Embedding.
        batch_dim: the dimension of the samples in every tensor of `x`.
        output: which of several outputs, see `selecting`.

    Returns:
        (N, N) in float64, on the device of the output. Off the diagonal, 0 means that i does not depend on j.

    Raises:
        UserError: fewer than two samples, values that are not finite, or no differentiable path.

    Source: defined here.

    >>> coupling_matrix(lambda x: x[:, 0] - x[:, 0].mean(), torch.randn(2, 1))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    with graph(f, x, batch_dim, output) as g:
        chosen = torch.eye(len(g), device=g.outputs.device)
        return torch.stack([norms(g.pull_back(row)) for row in chosen])


def coupling_ratio(matrix: Tensor) -> float:
    """The share of the squared derivatives that goes to other samples.

    Σ_{i≠j} C_ij² / Σ_ij C_ij².

    Args:
        matrix: (N, N) coupling matrix.

    Returns:
        In [0, 1]; 0 means no coupling (or no dependence on the input at all).

    Source: defined here.

    >>> coupling_ratio(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    0.64
    """
    squared = matrix.square()
    total = squared.sum().item()
    return squared.clone().fill_diagonal_(0.0).sum().item() / total if total else 0.0


def rows_without_own(matrix: Tensor) -> list[int]:
    """The samples whose own logit ignores them although it responds to others.

    A group statistic that is tiled in the wrong order does so.

    Args:
        matrix: (N, N) coupling matrix.

    >>> rows_without_own(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    [0]
    """
    own = matrix.diagonal()
    ignored = (own <= 1e-12 * matrix.sum(1)) & (matrix.sum(1) > 0)  # 1e-12: rounding of float64
    return [int(i) for i in ignored.nonzero()]


def norms(grads: list[Tensor]) -> Tensor:
    """Per sample the norm over all leaves of a pulled-back gradient."""
    squared = [g.flatten(1).square().sum(1) if g.dim() > 1 else g.square() for g in grads]
    return torch.stack(squared).sum(0).sqrt()  # (N,)
