"""Virtual batch normalization: its reference follows the weights, gradients pass through it, and nothing couples."""

import copy

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, set_reference


def data(n, seed):
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3), NORMALIZERS["virtual"](4), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*layers, NORMALIZERS["virtual"](4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1)).double()


def by_hand(f, reference, x):
    """The published way: reference and images pass through the layers side by side, in one graph."""
    for layer in f:
        if isinstance(layer, type(f[1])):
            mean, square = reference.mean((0, 2, 3)), reference.square().mean((0, 2, 3))
            c, r = lambda t: t.view(1, -1, 1, 1), len(reference)
            own_mean, own_square = x.mean((2, 3), keepdim=True), x.square().mean((2, 3), keepdim=True)
            m, q = (own_mean + r * c(mean)) / (r + 1), (own_square + r * c(square)) / (r + 1)
            x = c(layer.weight) * (x - m) / (q - m.square() + layer.eps).sqrt() + c(layer.bias)
            deviation = c((square - mean.square() + layer.eps).sqrt())
            reference = c(layer.weight) * (reference - c(mean)) / deviation + c(layer.bias)
        else:
            x, reference = layer(x), layer(reference)
    return x


def test_output_and_weight_gradients_are_those_of_one_graph():
    f, reference, x = network(), data(5, 1), data(3, 2)
    set_reference(f, reference)
    with torch.no_grad():  # the weights move after the reference was set, as in training
        f[0].weight.mul_(1.5)
    expected = by_hand(f, reference, x)
    expected_slopes = torch.autograd.grad(expected.sin().sum(), list(f.parameters()))
    actual = f(x)
    slopes = torch.autograd.grad(actual.sin().sum(), list(f.parameters()))
    for a, e in zip([actual, *slopes], [expected, *expected_slopes], strict=True):
        torch.testing.assert_close(a, e, atol=1e-11, rtol=0)  # float64


def test_no_image_sees_another():
    f, x = network(), data(4, 2).requires_grad_()
    set_reference(f, data(5, 1))
    slope = torch.autograd.grad(f(x)[0], x)[0]
    assert slope[0].any() and not slope[1:].any()
    assert torch.equal(f(x)[0], f(torch.cat([x[:1], 9 * x[1:]]))[0])


def test_vectors_are_maps_of_one_pixel():
    layer = NORMALIZERS["virtual"](4).double()
    x, reference = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    set_reference(layer, reference)
    torch.testing.assert_close(layer(x), layer(x[:, :, None, None])[:, :, 0, 0], atol=1e-12, rtol=0)  # float64


def test_eval_mode_and_a_restored_network_use_the_last_statistics():
    f, x = network(), data(4, 2)
    set_reference(f, data(5, 1))
    last = f(x)
    f.eval()
    torch.testing.assert_close(f(x), last, atol=1e-12, rtol=0)
    restored = network(seed=1)
    restored.load_state_dict(f.state_dict())  # the reference batch itself is not in it
    assert torch.equal(restored.eval()(x), f(x))
    with torch.no_grad():
        f[0].weight.mul_(2)
    moved = f(x)
    assert not torch.equal(f.train()(x), moved)  # training mode runs the reference again


def test_a_copy_has_its_own_reference_pass():
    f, x = network(), data(4, 2)
    set_reference(f, data(5, 1))
    f(x).sum().backward()
    copied = copy.deepcopy(f)
    with torch.no_grad():
        copied[0].weight.mul_(2)
    expected = f(x)
    assert not torch.equal(copied(x), expected)
    assert torch.equal(f(x), expected)


# Between two graphs dynamo looks at .grad of every tensor and hides the warning, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_network_with_its_reference_agrees():
    torch._dynamo.reset()
    f, x = network(), data(4, 2)
    set_reference(f, data(5, 1))
    compiled = copy.deepcopy(f)
    expected = torch.autograd.grad(f(x).sin().sum(), list(f.parameters()))
    program = torch.compile(compiled, backend="aot_eager")
    actual = torch.autograd.grad(program(x).sin().sum(), list(compiled.parameters()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-11, rtol=0)  # float64


def test_a_failed_call_leaves_no_graph_behind():
    f = network()
    set_reference(f, data(5, 1))
    with pytest.raises(RuntimeError):
        f(torch.zeros(1, 9, 6, 6, dtype=torch.float64))
    assert not f[1].ref_mean.requires_grad
    assert not f[1].collecting


def test_errors_and_networks_that_need_none():
    with pytest.raises(UserError, match=r"needs its reference batch first: none was set; call set_reference"):
        network()(data(2, 0))
    with pytest.raises(UserError, match="at least one image: got none"):
        set_reference(network(), data(0, 0))
    plain = nn.Conv2d(2, 2, 3)
    set_reference(plain, data(2, 0))
    assert not plain._forward_pre_hooks
