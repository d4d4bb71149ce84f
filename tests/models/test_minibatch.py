"""The two deliberate couplings against their closed forms."""

import pytest
import torch

from gannorm.errors import UserError
from gannorm.models.minibatch import MinibatchDiscrimination, MinibatchStddev


def test_stddev_has_the_closed_form_derivative():
    # ∂s/∂x_j = (x_j − μ)/(G·s) for one value an image.
    x = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    s = MinibatchStddev(group=4)(x.view(4, 1, 1, 1))[0, 1, 0, 0]
    s.backward()
    expected = (x - x.mean()) / (4 * x.std(correction=0))
    torch.testing.assert_close(x.grad, expected.detach(), atol=1e-8, rtol=0)  # the 1e-8 below the root


def test_groups_are_strided_and_separate():
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    appended = MinibatchStddev(group=4)(x)[:, 3]
    for m in range(2):
        expected = (x[m::2].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(appended[m::2], expected.expand(4, 2, 2), atol=1e-12, rtol=0)
    assert torch.equal(MinibatchStddev(group=4)(x)[:, :3], x)
    assert MinibatchStddev(group=4)(x[:3]).shape == (3, 4, 2, 2)  # a small batch is one group


def test_equal_images_have_no_deviation():
    assert MinibatchStddev()(torch.ones(4, 2, 2, 2))[:, 2].max() < 1.1e-4  # √1e-8


def test_discrimination_is_a_sum_over_pairs():
    layer = MinibatchDiscrimination(features=5, kernels=3, kernel_dim=2).double()
    f = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    m = (f @ layer.T.weight.detach().T).view(4, 3, 2)
    expected = [
        [sum(torch.exp(-(m[i, b] - m[j, b]).abs().sum()) for j in range(4)) for b in range(3)] for i in range(4)
    ]
    y = layer(f)
    assert torch.equal(y[:, :5], f)
    torch.testing.assert_close(y[:, 5:], torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_both_couple_as_declared():
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for layer, x in ((MinibatchDiscrimination(5), features), (MinibatchStddev(), features[:, :, None, None])):
        assert layer.forward_coupling and layer.gradient_coupling
        slope = torch.autograd.grad(layer(x)[0].sum(), x)[0]
        assert slope[1:].any()


def test_bad_groups_are_refused():
    with pytest.raises(UserError, match="`group` of at least 2 images: got 1"):
        MinibatchStddev(group=1)
    with pytest.raises(UserError, match="`group` must divide the batch: got group=4, batch=6"):
        MinibatchStddev()(torch.zeros(6, 1, 2, 2))
