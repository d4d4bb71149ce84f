"""The landscape on a quadratic, where all is known, and the identity by which BatchNorm shortens gradients."""

from __future__ import annotations

import math

import pytest
import torch
from support.toys import EPS, Quadratic
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import landscape

A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
THETA = torch.tensor([1.0, -2.0], dtype=torch.float64)


def value(f: nn.Module, x: Tensor) -> Tensor:
    return f(x)


def test_a_quadratic_is_measured_exactly() -> None:
    result = landscape(Quadratic(A, THETA.clone()), value, torch.zeros(1), learning_rate=0.2)
    g = A @ THETA
    etas = 0.2 * 0.5 * 8 ** (torch.arange(8) / 7).double()
    losses = [(0.5 * (THETA - eta * g) @ A @ (THETA - eta * g)).item() for eta in etas]
    changes = [(eta * (A @ g).norm()).item() for eta in etas]
    exact = {"rel": 1e-12}  # float64, a few operations
    assert result.loss == pytest.approx((0.5 * THETA @ A @ THETA).item(), **exact)
    assert result.gradient_norm == pytest.approx(g.norm().item(), **exact)
    assert result.step_sizes == pytest.approx(etas.numpy(), rel=1e-6)  # 8 ** tensor was computed in float32
    assert result.losses == pytest.approx(losses, rel=1e-6)
    assert result.loss_band == pytest.approx((min(losses), max(losses)), rel=1e-6)
    assert result.predictiveness_band == pytest.approx((changes[0], changes[-1]), rel=1e-6)
    assert result.effective_beta == pytest.approx(((A @ g).norm() / g.norm()).item(), **exact)


def test_a_linear_loss_has_a_gradient_that_never_changes() -> None:
    f = nn.Linear(3, 1).double()
    result = landscape(f, lambda f, x: f(x).mean(), torch.randn(5, 3, dtype=torch.float64), 1.0, factors=[0.1, 10])
    assert result.predictiveness_band == (0, 0)
    assert result.effective_beta == 0
    assert result.losses == pytest.approx(result.loss - result.step_sizes * result.gradient_norm**2, rel=1e-12)


@pytest.mark.parametrize("sign,edge", [(1, 1), (-1, 0)])
def test_a_step_into_overflow_is_infinite_and_counts_as_diverged(sign: int, edge: int) -> None:
    # with the sign changed the loss begins below 0 and falls without bound, as a critic's can
    f = Quadratic(A, THETA.clone())
    result = landscape(f, lambda f, x: sign * f(x).exp(), torch.zeros(1), learning_rate=1.0, factors=[1e-6, 1e3])
    assert result.diverged.tolist() == [False, True]
    assert result.loss_band[edge] == sign * math.inf
    assert result.effective_beta == math.inf
    assert result.to_dict()["loss_band"][edge] is None


def test_at_a_minimum_beta_is_undefined() -> None:
    result = landscape(Quadratic(A, torch.zeros(2, dtype=torch.float64)), value, torch.zeros(1), learning_rate=1.0)
    assert math.isnan(result.effective_beta)
    assert result.to_dict()["effective_beta"] is None


@pytest.mark.parametrize("learning_rate,factors", [(0.0, [1.0]), (0.1, []), (0.1, [-1.0]), (math.nan, [1.0])])
def test_step_sizes_that_are_not_positive_are_refused(learning_rate: float, factors: list[float]) -> None:
    with pytest.raises(UserError, match="step sizes must be positive"):
        landscape(Quadratic(A, THETA), value, torch.zeros(1), learning_rate, factors)


def gradient_before_and_after(norm: nn.Module, gamma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(∇_y L, ∇_z L, whitened y, σ) for L any smooth function of z = norm(y), (m, C)."""
    generator = torch.Generator().manual_seed(0)
    y = (3 * torch.randn(32, 4, dtype=torch.float64, generator=generator) + 1).requires_grad_()
    mixing = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    nn.init.constant_(norm.weight, gamma)
    z = norm(y)
    by_y, by_z = torch.autograd.grad((z @ mixing).tanh().square().sum(), [y, z])
    sigma = y.detach().std(0, correction=0)
    return by_y, by_z, (y.detach() - y.detach().mean(0)) / sigma, sigma


def theorem(by_z: Tensor, whitened: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    m = len(by_z)
    inside = by_z.square().sum(0) - by_z.sum(0).square() / m - (by_z * whitened).sum(0).square() / m
    return (gamma / sigma).square() * inside


def test_theorem_4_1_holds_with_equality() -> None:
    # Santurkar 2018 states ≤ for the gradients of two networks; for one loss of z it is an identity.
    by_y, by_z, whitened, sigma = gradient_before_and_after(nn.BatchNorm1d(4, eps=EPS).double(), gamma=1.7)
    # 1e-10: float64 through EPS = 1e-14 against σ² ≈ 9
    assert torch.allclose(by_y.square().sum(0), theorem(by_z, whitened, sigma, 1.7), rtol=1e-10, atol=0)


def test_theorem_4_1_needs_the_statistics_of_the_batch() -> None:
    by_y, by_z, whitened, sigma = gradient_before_and_after(nn.BatchNorm1d(4, eps=EPS).double().eval(), gamma=1.7)
    assert not torch.allclose(by_y.square().sum(0), theorem(by_z, whitened, sigma, 1.7), rtol=1e-2, atol=0)
