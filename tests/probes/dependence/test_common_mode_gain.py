"""The common-mode gain against its closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gannorm.probes import common_mode_gain, coupling_matrix, coupling_ratio


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n", [2, 3, 64])
@pytest.mark.parametrize("channels", [1, 5])
def test_common_mode_gain_of_a_batch_norm_unit_is_minus_one(n: int, channels: int) -> None:
    # ε = 1e-2 keeps the derivative of two samples away from 0; the law holds for any ε.
    norm = nn.BatchNorm1d(channels, eps=1e-2).double()
    assert common_mode_gain(lambda x: norm(x).sum(1), randn(n, channels)) == pytest.approx(-1, abs=1e-10)


def test_common_mode_gain_stays_complete_in_a_convolution_while_the_ratio_falls() -> None:
    norm = nn.BatchNorm2d(1).double()
    x = randn(16, 1, 8, 8)
    f = lambda x: norm(x).square().mean((1, 2, 3)) + norm(x).mean((1, 2, 3))  # noqa: E731
    assert common_mode_gain(f, x, samples=16) == pytest.approx(-1, abs=1e-10)
    assert coupling_ratio(coupling_matrix(f, x)) < 0.1


def test_common_mode_gain_has_its_closed_form_for_a_leak() -> None:
    # f_i = x_i + a·mean(x): own 1 + a/N, others a(N−1)/N.
    n, a = 10, 0.5
    gain = common_mode_gain(lambda x: x[:, 0] + a * x[:, 0].mean(), randn(n, 1))
    assert gain == pytest.approx(a * (n - 1) / n / (1 + a / n), abs=1e-12)


def test_common_mode_gain_is_undefined_where_a_shift_of_an_image_is_ignored() -> None:
    assert math.isnan(common_mode_gain(lambda x: (x - x.mean(1, keepdim=True))[:, 0].square(), randn(4, 3)))
