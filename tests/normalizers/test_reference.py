"""The reference mechanism: a fresh reference is half of each batch of before, and its gradient is an option."""

import copy

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, refresh_reference, set_reference
from gannorm.normalizers.reference import fresh_references, restore_references, wants_fresh


def data(n, seed):
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(norm="reference", **options):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), NORMALIZERS[norm](4, **options), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3)]
    layers += [NORMALIZERS[norm](4, **options), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1)]
    return nn.Sequential(*layers).double()


def by_hand(f, reference, x, gradient):
    """Reference and images side by side in one graph, both normalized by the reference's moments."""
    for layer in f:
        if isinstance(layer, type(f[1])):
            mean, variance = reference.mean((0, 2, 3)), reference.var((0, 2, 3), correction=0)
            if not gradient:
                mean, variance = mean.detach(), variance.detach()
            scale, c = layer.weight / (variance + layer.eps).sqrt(), lambda t: t.view(1, -1, 1, 1)
            x, reference = (c(scale) * (t - c(mean)) + c(layer.bias) for t in (x, reference))
        else:
            x, reference = layer(x), layer(reference)
    return x


@pytest.mark.parametrize("gradient", [True, False])
def test_output_and_weight_gradients_are_those_of_one_graph(gradient):
    f, reference, x = network(gradient=gradient), data(5, 1), data(3, 2)
    set_reference(f, reference)
    with torch.no_grad():  # the weights move after the reference was set, as in training
        f[0].weight.mul_(1.5)
    expected = by_hand(f, reference, x, gradient)
    expected_slopes = torch.autograd.grad(expected.sin().sum(), list(f.parameters()))
    actual = f(x)
    slopes = torch.autograd.grad(actual.sin().sum(), list(f.parameters()))
    for a, e in zip([actual, *slopes], [expected, *expected_slopes], strict=True):
        torch.testing.assert_close(a, e, atol=1e-11, rtol=0)  # float64
    other = by_hand(f, reference, x, not gradient)
    other_slopes = torch.autograd.grad(other.sin().sum(), list(f.parameters()))
    assert not torch.allclose(slopes[0], other_slopes[0], rtol=1e-3)  # the option is seen


def test_no_image_sees_another():
    f, x = network(), data(4, 2).requires_grad_()
    set_reference(f, data(5, 1))
    slope = torch.autograd.grad(f(x)[0], x)[0]
    assert slope[0].any() and not slope[1:].any()
    assert torch.equal(f(x)[0], f(torch.cat([x[:1], 9 * x[1:]]))[0])


def test_a_fresh_reference_is_half_of_each_batch_and_acts_at_the_next_call():
    f, x, real, fake = network(), data(4, 2), data(5, 3), data(5, 4)
    set_reference(f, data(5, 1))
    refresh_reference(f, real, fake)
    halves = torch.cat([real[::2], fake[1::2]])  # 3 and 2 images
    assert torch.equal(f.reference, halves)
    expected = by_hand(f, halves, x, True)
    torch.testing.assert_close(f(x), expected, atol=1e-12, rtol=0)  # float64
    kept = f.reference.data_ptr()
    refresh_reference(f, fake, real, view=lambda images: 2 * images)
    assert torch.equal(f.reference, 2 * torch.cat([fake[::2], real[1::2]]))
    assert f.reference.data_ptr() == kept  # in place: a step replayed as a CUDA graph reads the same memory


def test_a_fixed_reference_and_a_network_without_one_are_left_alone():
    f, fixed = network("virtual"), data(5, 1)
    set_reference(f, fixed)
    refresh_reference(f, data(5, 2), data(5, 3), view=lambda images: pytest.fail("nobody asked for a view"))
    assert torch.equal(f.reference, fixed) and not wants_fresh(f)
    refresh_reference(nn.Linear(2, 1), data(5, 2))
    assert wants_fresh(network())


def test_a_run_continues_from_the_references_in_its_checkpoint():
    both = nn.ModuleDict({"generator": network(), "discriminator": network("virtual"), "plain": nn.Linear(1, 1)})
    for f in (both["generator"], both["discriminator"]):
        set_reference(f, data(5, 1))
    refresh_reference(both["generator"], data(5, 7))
    saved = {name: reference.clone() for name, reference in fresh_references(both).items()}
    assert list(saved) == ["generator"]
    assert not any("reference" in name for name in both.state_dict())
    resumed = copy.deepcopy(both)
    refresh_reference(resumed["generator"], data(5, 9))
    restore_references(resumed, saved)
    assert torch.equal(resumed["generator"](data(4, 2)), both["generator"](data(4, 2)))


def test_without_gradient_a_bf16_pass_still_trains_every_weight():
    f = network(gradient=False).float()
    set_reference(f, data(5, 1).float())
    with torch.autocast("cpu", torch.bfloat16):  # whose cache of weights the reference pass fills without gradient
        f(data(4, 2).float()).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in f.parameters())


def test_use_before_the_reference_is_refused():
    with pytest.raises(UserError, match=r"needs its reference batch first: none was set; call set_reference"):
        network()(data(2, 0))
