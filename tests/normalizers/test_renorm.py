"""Batch renormalization: BatchNorm at r_max = 1, d_max = 0, population statistics unclipped, a schedule between."""

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1


def test_at_its_start_it_is_batch_norm_with_its_gradient():
    renorm, reference = NORMALIZERS["renorm"](3).double(), nn.BatchNorm2d(3, momentum=0.01).double()
    outputs = []
    for layer in (renorm, reference):
        x = X.clone().requires_grad_()
        y = layer(x)
        outputs.append((y, torch.autograd.grad(y.pow(3).sum(), x)[0], layer.running_mean, layer.running_var))
    for actual, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)  # float64, values of order ten


def test_unclipped_it_is_normalization_by_population_statistics_to_the_last_bit():
    layer = NORMALIZERS["renorm"](3, r_max=100, d_max=100, start=0, r_end=0, d_end=0)
    other = NORMALIZERS["renorm"](3, r_max=100, d_max=100, start=0, r_end=0, d_end=0)
    x = X.float()
    population = nn.BatchNorm2d(3).eval()
    y = layer(x)
    torch.testing.assert_close(y, population(x), atol=1e-5, rtol=0)  # float32 roundings
    companions = torch.cat([x[:1], 5 * x[1:] - 3])
    assert torch.equal(other(companions)[0], y[0])


def test_limits_grow_linearly_on_schedule():
    layer = NORMALIZERS["renorm"](1, r_max=3, d_max=5, start=10, r_end=30, d_end=20)
    far, limits = torch.tensor([1e3]), []
    for passes in (0, 10, 15, 20, 30, 99):  # of a batch that is a thousand times too wide and too far off
        r, d, unclipped = layer.correction(far, 1 / far, torch.zeros(1), torch.ones(1), torch.tensor(passes))
        limits.append((r.item(), d.item()))
        assert not unclipped
    assert limits == [(1, 0), (1, 0), (1.5, 2.5), (2, 5), (3, 5), (3, 5)]


def test_bad_limits_are_refused():
    with pytest.raises(UserError, match=r"r_max ≥ 1 and d_max ≥ 0: got r_max=0\.5"):
        NORMALIZERS["renorm"](3, r_max=0.5)
    with pytest.raises(UserError, match="0 ≤ start ≤ r_end, d_end: got start=9, r_end=5"):
        NORMALIZERS["renorm"](3, start=9, r_end=5)
