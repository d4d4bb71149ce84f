"""No statistics: each value is squashed by itself, to within γ of β, with the slope γ·α·f'(0) at 0."""

import math

import pytest
import torch

from gannorm.normalizers import NORMALIZERS

SLOPES = {"dyt": 1.0, "derf": 2 / math.sqrt(math.pi)}


@pytest.mark.parametrize("name", SLOPES)
def test_values_are_squashed_one_by_one(name):
    layer = NORMALIZERS[name](2, alpha=0.75).double()
    x = 3 * torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = layer(x)
    assert y.abs().max() <= 1
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))
    shuffled = layer(x.flatten()[order].view_as(x))  # γ = 1 and β = 0: no channel, image or pixel differs
    assert torch.equal(shuffled.flatten(), y.flatten()[order])
    zero = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(zero).sum(), zero)
    assert slope.flatten().tolist() == pytest.approx([0.75 * SLOPES[name]] * 2, rel=1e-12)


def test_derf_has_a_learned_shift():
    layer = NORMALIZERS["derf"](1).double()
    with torch.no_grad():
        layer.shift.fill_(-1.0)
    x = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)  # α = ½: αx + s = 0
    assert layer(x).item() == 0
