"""The surface is the loss at the points that it names, and its directions are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import loss_surface


def mean_square(f: nn.Module, x: Tensor) -> Tensor:
    return (f(x) - 1).square().mean()


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, 5, dtype=torch.float64)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)).double(), x


def test_the_centre_is_the_loss_and_downhill_is_down() -> None:
    f, x = network()
    surface = loss_surface(f, mean_square, x, along=[-0.01, 0, 0.01], across=[0])
    assert surface.losses[1, 0] == surface.loss == mean_square(f, x).item()
    assert surface.losses[2, 0] < surface.loss < surface.losses[0, 0]


def test_across_the_gradient_the_slope_is_zero() -> None:
    f, x = network()
    h = 1e-4
    surface = loss_surface(f, mean_square, x, along=[0], across=[-h, 0, h])
    slope = (surface.losses[0, 2] - surface.losses[0, 0]) / (2 * h)
    down = loss_surface(f, mean_square, x, along=[-h, 0, h], across=[0])
    steepest = abs(down.losses[2, 0] - down.losses[0, 0]) / (2 * h)
    # Filters are scaled by different factors: "across" is orthogonal to the scaled gradient, not to the raw one.
    assert abs(slope) < 0.5 * steepest


def test_a_filters_step_has_the_filters_length() -> None:
    """The loss of a linear layer at a = 1 is that at w − ‖w_f‖·g_f/‖g_f‖."""
    torch.manual_seed(1)
    f, x = nn.Linear(5, 3, bias=False).double(), torch.randn(8, 5, dtype=torch.float64)
    (g,) = torch.autograd.grad(mean_square(f, x), f.weight)
    w = f.weight.detach()
    moved = w - w.norm(dim=1, keepdim=True) * g / g.norm(dim=1, keepdim=True)
    there = (x @ moved.T - 1).square().mean().item()
    assert loss_surface(f, mean_square, x, along=[1], across=[0]).losses[0, 0] == pytest.approx(there, rel=1e-10)


def test_what_overflows_is_infinite_and_wrong_input_is_one_line() -> None:
    f, x = network()
    assert np.isinf(loss_surface(f.float(), lambda f, x: f(x).exp().exp().mean(), x.float(), [1e4], [0]).losses[0, 0])
    with pytest.raises(UserError, match="must hold finite numbers, at least one each"):
        loss_surface(f.double(), mean_square, x, along=[])
    with pytest.raises(UserError, match="at least two dimensions: the network has none"):
        loss_surface(nn.BatchNorm1d(5).double(), mean_square, x)
