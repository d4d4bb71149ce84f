"""Weighted gradients are autograd's, and what cannot be differentiated says why."""

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes.batch import codes
from gannorm.probes.gradients import NoGradientError, UntestedGradientError, graph, sign_change, tolerance


def x(n=8):
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_weighted_gradient_is_that_of_the_weighted_sum():
    torch.manual_seed(0)
    f, weights = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double(), torch.randn(8, dtype=torch.float64)
    with graph(f, x()) as traced:
        (gradient,) = traced.pull_back(weights)
        assert len(traced) == 8
    leaf = x().requires_grad_()
    (expected,) = torch.autograd.grad((weights * f(leaf)[:, 0]).sum(), leaf)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-15)  # float64, the same operations


def test_the_sign_change_is_zero_without_coupling_and_sees_a_single_coupled_pair():
    bits = codes(8, torch.Generator().manual_seed(0))

    def change(f):
        with graph(f, x()) as traced:
            return sign_change(traced.pull_back, bits)

    def pair(t):
        out = t.square().sum(1)
        return torch.cat([out[:1] + 0.1 * t[7].square().sum(), out[1:]])

    assert change(lambda t: t.square().sum(1)) == 0
    assert change(pair) > 1e3 * tolerance(torch.float64)


def test_what_has_no_gradient_says_why():
    with graph(lambda t: (t > 0).double().sum(1), x()) as traced, pytest.raises(NoGradientError, match="no gradient"):
        traced.pull_back(torch.ones(8))
    with (
        pytest.raises(UntestedGradientError, match=r"got torch.int64; convert it"),
        graph(lambda t: t.sum(1).double(), x().long()),
    ):
        pass
    with pytest.raises(UserError, match=r"at least 2|two"), graph(lambda t: t.sum(1), x(1)):
        pass
