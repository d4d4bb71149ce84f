"""Both layers have their published limits; their derivatives are tested with all others in test_slots.py."""

import torch

from gannorm.normalizers import NORMALIZERS


def test_filter_response_ignores_the_scale_of_a_channel_but_not_its_mean():
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = NORMALIZERS["frn"](3, eps=1e-30).double()
    torch.testing.assert_close(layer(100 * x), layer(x), atol=1e-12, rtol=0)  # float64
    assert (layer(x + 1) - layer(x)).abs().max() > 0.1


def test_threshold_gets_the_gradient_where_it_is_the_larger_one():
    layer = NORMALIZERS["frn"](1).double()
    x = torch.tensor([-2.0, -1.0, 1.0, 3.0], dtype=torch.float64).view(1, 1, 2, 2)
    layer(x).sum().backward()
    assert layer.threshold.grad.item() == 2
    assert layer.bias.grad.item() == 2


def test_a_tie_with_the_threshold_has_one_gradient_whether_a_second_one_follows_or_not():
    layer = NORMALIZERS["frn"](1).double()
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)  # y = β = τ = 0 at the start
    inputs = (x, layer.bias, layer.threshold)
    for create_graph in (False, True):
        slopes = torch.autograd.grad(layer(x).sum(), inputs, create_graph=create_graph)
        assert [slope.sum().item() for slope in slopes] == [0, 0, 4]


def test_evonorm_with_v_zero_halves_and_with_v_large_rectifies():
    x = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = NORMALIZERS["evonorm_s0"](8, groups=1).double()
    deviation = (x.flatten(1).var(1, correction=0) + layer.eps).sqrt().view(-1, 1, 1, 1)
    with torch.no_grad():
        layer.v.fill_(0)
        torch.testing.assert_close(layer(x), x / (2 * deviation), atol=1e-12, rtol=0)
        layer.v.fill_(1e6)
        torch.testing.assert_close(layer(x), x.relu() / deviation, atol=1e-6, rtol=0)  # sigmoid at 1e6·x near 0
