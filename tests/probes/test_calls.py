"""Every call of a layer is recorded with its input and an output to differentiate by, and changes nothing."""

import torch
from torch import nn

from gannorm.probes.calls import recorded


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1)).double()


def test_calls_come_in_order_with_what_went_in_and_out():
    f, x = network(), torch.randn(5, 3, dtype=torch.float64)
    with recorded(f, (nn.Linear,)) as calls:
        out = f(x)
    assert [call.name for call in calls] == ["0", "2", ""]
    first, second, whole = calls
    assert torch.equal(first.input, x) and torch.equal(first.output, f[0](x))  # before the ReLU worked in place
    assert torch.equal(second.input, f[0](x).relu()) and torch.equal(whole.output, out)


def test_gradients_by_outputs_are_those_of_autograd():
    f, x = network(), torch.randn(5, 3, dtype=torch.float64)
    with recorded(f, (nn.Linear,)) as calls:
        loss = f(x).sum()
    (gradient,) = torch.autograd.grad(loss, calls[0].output)
    expected = f[2].weight * (f[0](x) > 0)  # of w·relu(h) by h
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=0)  # float64, one product


def test_frozen_layers_can_be_differentiated_by_and_hooks_are_gone_after():
    f = network().requires_grad_(False)
    with recorded(f, (nn.Linear,)) as calls:
        loss = f(torch.randn(5, 3, dtype=torch.float64)).sum()
    assert torch.autograd.grad(loss, calls[0].output)[0].shape == (5, 4)
    assert not any(module._forward_hooks for module in f.modules())
    f(torch.randn(5, 3, dtype=torch.float64))
    assert len(calls) == 3
