"""Successive gradients of losses whose gradients are known, and signs that were set by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.probes import gradient_consistency, sign_changes, snapshot


def bowl(network: nn.Module, curvature: Tensor) -> Tensor:
    """½ Σ λ_i w_i²: the gradient is λ·w."""
    return (curvature * network.weight.square()).sum() / 2  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("rate,sign", [(0.5, 1), (1.5, -1)])
def test_descent_in_a_round_bowl_turns_back_above_rate_one_only(rate: float, sign: int) -> None:
    network = nn.Linear(3, 1, bias=False).double()
    points = [{"weight": torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) * (1 - rate) ** t} for t in range(4)]
    result = gradient_consistency(network, bowl, torch.ones(1, 3, dtype=torch.float64), points)
    np.testing.assert_allclose(result.cosine, [sign] * 3, rtol=1e-12)
    np.testing.assert_allclose(result.gradient_norm, [math.sqrt(14) * abs(1 - rate) ** t for t in range(4)], rtol=1e-12)


def test_in_a_long_valley_the_cosine_is_that_of_the_closed_form() -> None:
    network = nn.Linear(2, 1, bias=False).double()
    curvature = torch.tensor([[1.0, 19.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    after = w - 0.1 * curvature * w
    result = gradient_consistency(network, bowl, curvature, [{"weight": w}, {"weight": after}])
    expected = F.cosine_similarity(curvature * w, curvature * after).item()
    assert expected < 0  # 1 − 1.9 turns the steep direction round
    assert result.cosine[0] == pytest.approx(expected, rel=1e-12)


def test_it_agrees_with_autograd_and_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = torch.randn(8, 4, dtype=torch.float64)

    def loss(f: nn.Module, batch: Tensor) -> Tensor:
        return f(batch).square().mean()

    points, flat = [], []
    for _ in range(3):
        network.zero_grad()
        loss(network, x).backward()
        points.append(snapshot(network))
        flat.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.1 * p.grad if p.grad is not None else 0
    before = {k: v.clone() for k, v in network.state_dict().items()}
    result = gradient_consistency(network, loss, x, points)
    expected = [F.cosine_similarity(a, b, dim=0).item() for a, b in itertools.pairwise(flat)]
    np.testing.assert_allclose(result.cosine, expected, rtol=1e-10)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_no_direction_without_a_gradient() -> None:
    points = [{"weight": torch.zeros(1, 3)}, {"weight": torch.ones(1, 3)}]
    assert math.isnan(gradient_consistency(nn.Linear(3, 1, bias=False), bowl, torch.ones(1, 3), points).cosine[0])


@pytest.mark.parametrize("points", [[], [{}]])
def test_one_point_is_one_line(points: Any) -> None:
    with pytest.raises(UserError, match=f"at least two points: got {len(points)}"):
        gradient_consistency(nn.Linear(3, 1), bowl, torch.ones(1, 3), points)


def test_signs_are_counted_by_layer_and_zeros_have_none() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    before = snapshot(network) | {
        "0.weight": torch.tensor([[1.0, -1.0], [0.0, 2.0]]),
        "2.weight": torch.tensor([[1.0, 1.0]]),
    }
    after = before | {"0.weight": torch.tensor([[-1.0, -2.0], [5.0, 0.0]])}
    assert sign_changes(network, before, after) == {"0": 0.25, "2": 0.0}


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm"])
def test_signs_of_a_normalized_weight_are_those_of_its_direction(kind: str) -> None:
    network = getattr(nn.utils.parametrizations, kind)(nn.Linear(2, 2))
    before = snapshot(network)
    after = {name: -value if value.shape == (2, 2) else value for name, value in before.items()}
    assert sign_changes(network, before, after) == {"(the network)": 1.0}


def test_signs_need_a_kernel() -> None:
    with pytest.raises(UserError, match="need a Linear or convolution layer"):
        sign_changes(nn.BatchNorm1d(3), {"weight": torch.ones(3)})


def test_points_of_another_network_are_one_line() -> None:
    points = [{"weight": torch.ones(1, 3)}, {"weight": torch.ones(1, 4)}]
    with pytest.raises(UserError, match=r"'weight' has the shape \(1, 3\), got \(1, 4\)"):
        gradient_consistency(nn.Linear(3, 1), bowl, torch.ones(1, 3), points)
    with pytest.raises(UserError, match="pass snapshots of the same network"):
        sign_changes(nn.Linear(3, 1), *points)  # which would broadcast, were one of them (1, 1)
