"""Each of the two keeps one part of BatchNorm: its forward pass, or its evaluation mode in training."""

import pytest
import torch
from torch import nn

from gannorm.normalizers import NORMALIZERS

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1


@pytest.mark.parametrize("name", ["detached", "running"])
def test_running_statistics_and_eval_mode_are_those_of_batch_norm(name):
    layer, batch = NORMALIZERS[name](3).double(), nn.BatchNorm2d(3).double()
    for x in (X, 2 * X):
        layer(x), batch(x)
    for key, value in batch.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[key], value, atol=1e-12, rtol=0)  # float64
    torch.testing.assert_close(layer.eval()(X), batch.eval()(X), atol=1e-12, rtol=0)


def test_detached_has_the_forward_pass_of_batch_norm_and_a_diagonal_jacobian():
    layer, batch = NORMALIZERS["detached"](3).double(), nn.BatchNorm2d(3).double()
    torch.testing.assert_close(layer(X), batch(X), atol=1e-12, rtol=0)
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(x)[0, 0, 0, 0], x)
    scale = 1 / (X[:, 0].var(correction=0) + layer.eps).sqrt()
    assert slope[0, 0, 0, 0].item() == pytest.approx(scale.item(), rel=1e-12)
    assert slope.count_nonzero() == 1


def test_running_normalizes_by_what_was_there_before_the_pass():
    layer = NORMALIZERS["running"](3, eps=1e-14).double()
    torch.testing.assert_close(layer(X), X, atol=1e-12, rtol=0)  # mean 0 and variance 1 at the start
    before = layer.running_mean.clone(), layer.running_var.clone()
    mean, deviation = (v.view(-1, 1, 1) for v in (before[0], before[1].sqrt()))
    torch.testing.assert_close(layer(X), (X - mean) / deviation, atol=1e-12, rtol=0)
    assert not torch.equal(layer.running_mean, before[0])  # and it is updated in training mode
