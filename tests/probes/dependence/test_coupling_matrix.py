"""Gradient coupling against closed forms: the exact matrix, its estimate, and the common-mode gain."""

from __future__ import annotations

import math

import pytest
import torch
from support.toys import EPS, batch_norm_jacobian, group_norm, image_network
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.models.minibatch import MinibatchStddev
from gannorm.normalizers import NORMALIZERS
from gannorm.probes import common_mode_gain, coupling_matrix, coupling_ratio, estimate_coupling

EXACT = {"rtol": 0, "atol": 1e-10}  # float64, a handful of operations


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def unit(gamma: float = 1.0) -> nn.Module:
    norm = nn.BatchNorm1d(1, eps=EPS).double()
    nn.init.constant_(norm.weight, gamma)
    return norm


@pytest.mark.parametrize("n", [2, 3, 8, 33])
def test_batch_norm_unit_has_its_closed_form(n: int) -> None:
    x = randn(n, 1)
    expected = batch_norm_jacobian(x[:, 0], gamma=1.7).abs()
    # Two samples have J = 0, which torch computes as a difference of numbers near 1/s that rounding keeps from 0.
    torch.testing.assert_close(coupling_matrix(unit(1.7), x), expected, rtol=0, atol=1e-10)


def test_batch_norm_unit_has_the_masses_of_its_closed_form() -> None:
    n, gamma = 16, 1.7
    x = randn(n, 1)
    deviation = x - x.mean()
    s = deviation.square().mean().sqrt()
    kurtosis = (deviation / s).pow(4).mean().item()
    matrix = coupling_matrix(unit(gamma), x)
    scale = (gamma / s.item()) ** 2
    assert matrix.square().sum().item() == pytest.approx(scale * (n - 2), abs=1e-10)
    off = matrix.square().sum() - matrix.diagonal().square().sum()
    assert off.item() == pytest.approx(scale * (2 - (3 + kurtosis) / n), abs=1e-10)
    assert coupling_ratio(matrix) == pytest.approx((2 - (3 + kurtosis) / n) / (n - 2), abs=1e-10)


def test_convolutional_batch_norm_has_the_masses_of_its_closed_form() -> None:
    # Off-block mass of J over all pixels: summed over every output pixel p by differentiating each in turn.
    n, height, width = 5, 2, 3
    x = randn(n, 1, height, width)
    norm = nn.BatchNorm2d(1, eps=EPS).double()
    m = n * height * width
    matrices = [coupling_matrix(lambda x, p=p: norm(x).flatten(1)[:, p], x) for p in range(height * width)]
    squared = torch.stack(matrices).square().sum(0)
    s = x.var(correction=0).sqrt()
    hat = (x - x.mean()) / s
    total, quadratic = hat.flatten(1).sum(1), hat.flatten(1).square().sum(1)
    size = height * width
    off = 2 - (size**2 + 2 * total**2 + quadratic**2).sum() / m**2
    assert squared.sum().item() == pytest.approx(((m - 2) / s**2).item(), abs=1e-10)
    assert (squared.sum() - squared.diagonal().sum()).item() == pytest.approx((off / s**2).item(), abs=1e-10)


def test_ghost_batches_couple_in_blocks() -> None:
    x = randn(9, 1)
    ghost = NORMALIZERS["ghost"](1, size=3, eps=EPS).double()
    blocks = [batch_norm_jacobian(part[:, 0]).abs() for part in x.split(3)]
    torch.testing.assert_close(coupling_matrix(ghost, x.view(9, 1, 1, 1)), torch.block_diag(*blocks), **EXACT)


def test_minibatch_stddev_has_its_closed_form() -> None:
    # ∂s_m/∂x_jp = (x_jp − μ_p)/(G·P·s_p) over the P entries of an image, s_p = √(σ_p² + 1e-8); its norm is over p.
    group, n = 4, 8
    x = randn(n, 2, 3, 3)
    parts = x.view(group, n // group, -1)  # group m holds the images m, m + 2, …
    s = (parts.var(0, correction=0, keepdim=True) + 1e-8).sqrt()
    norms = ((parts - parts.mean(0, keepdim=True)) / (group * parts.shape[2] * s)).norm(dim=2).flatten()  # (N,)
    groups = torch.arange(n) % (n // group)
    expected = norms * (groups[:, None] == groups)
    layer = MinibatchStddev(group)
    torch.testing.assert_close(coupling_matrix(lambda x: layer(x)[:, 2, 0, 0], x), expected, **EXACT)


@pytest.mark.parametrize("name", ["instance", "group", "layer", "batch in eval mode"])
def test_norms_of_one_image_do_not_couple(name: str) -> None:
    x = randn(6, 4, 3, 3)
    norm = NORMALIZERS[name.split()[0]](4).double().train("eval" not in name)
    matrix = coupling_matrix(norm, x)
    assert coupling_ratio(matrix) == 0
    assert matrix.diagonal().min() > 0
    assert estimate_coupling(norm, x).off_diagonal == 0
    assert common_mode_gain(lambda x: norm(x.square()), x) == 0


def test_matrix_is_the_norm_of_autograd_jacobian() -> None:
    torch.manual_seed(0)
    network = image_network(nn.BatchNorm2d).double()
    x = randn(5, 3, 8, 8)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x)[:, 0], x)  # (N, N, C, H, W)
    torch.testing.assert_close(coupling_matrix(network, x), jacobian.flatten(2).norm(dim=2), rtol=1e-10, atol=0)


def test_bad_input_is_refused() -> None:
    network = nn.Linear(3, 1)
    for probe in (coupling_matrix, estimate_coupling, common_mode_gain):
        with pytest.raises(UserError, match="at least two samples: got 1"):
            probe(network, torch.randn(1, 3))
        with pytest.raises(UserError, match="differentiable path"):
            probe(lambda x: network(x).detach(), torch.randn(4, 3))
        with pytest.raises(UserError, match=r"integer tokens read by an nn.Embedding: got torch.int64"):
            probe(lambda x: network(x.float()), torch.ones(4, 3, dtype=torch.long))
        with pytest.raises(UserError, match="outputs must be finite"):
            probe(lambda x: network(x) / 0, torch.randn(4, 3))
        with pytest.raises(UserError, match=r"one entry per sample: got \(\)"):
            probe(lambda x: network(x).mean(), torch.randn(4, 3))
        with pytest.raises(UserError, match="input must be finite"):
            probe(network, torch.full((4, 3), math.nan))
        for batch_dim in (2, -1):
            with pytest.raises(UserError, match=rf"`batch_dim` must be .* got {batch_dim} for \(4, 3\)"):
                probe(network, torch.randn(4, 3), batch_dim=batch_dim)
    with pytest.raises(UserError, match="`draws` must be at least 2"):
        estimate_coupling(network, torch.randn(4, 3), draws=1)


def test_group_norm_network_has_zero_coupling_in_float32() -> None:
    torch.manual_seed(0)
    assert estimate_coupling(image_network(group_norm), torch.randn(32, 3, 8, 8)).off_diagonal == 0
