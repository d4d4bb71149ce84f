"""Penalties against closed-form slopes."""

import pytest
import torch

from gannorm.losses import PENALTIES, gradient_penalty, r1_penalty, r1r2_penalty
from gannorm.seeds import stream


def linear(x):  # slope 3 in every one of the 4 inputs: ‖∇f‖ = 6
    return 3 * x.flatten(1).sum(dim=1)


def test_penalties_of_a_linear_discriminator_are_known():
    x = torch.randn(5, 1, 2, 2, generator=stream(0)).double()
    assert r1_penalty(linear, x).tolist() == pytest.approx([18] * 5, rel=1e-12)
    assert gradient_penalty(linear, x, -x, stream(0)).tolist() == pytest.approx([25] * 5, rel=1e-12)


def test_gradient_penalty_looks_only_between_real_and_fake():
    real, fake = torch.zeros(64, 1, 1, 1).double(), torch.ones(64, 1, 1, 1).double()

    def square(x):  # slope 2x: on [0, 1] the penalty (2x − 1)² has mean 1/3
        return x.flatten(1).square().sum(dim=1)

    points = torch.rand(64, generator=stream(7), dtype=torch.float64)
    expected = (2 * points - 1).square()
    assert gradient_penalty(square, real, fake, stream(7)).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_penalties_can_be_differentiated_with_respect_to_the_weights():
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 1, 2, 2, generator=stream(1)).double()
    r1_penalty(lambda x: weight * x.flatten(1).sum(dim=1), x).mean().backward()  # ½·4w²
    assert weight.grad.item() == pytest.approx(4 * 2.0, rel=1e-12)


def test_penalties_send_no_gradient_into_the_images_and_leave_them_as_they_were():
    """A generator's images may come with their graph; a penalty is the discriminator's alone."""
    weight = torch.tensor(2.0, requires_grad=True)
    real, source = torch.randn(3, 1, 2, 2, generator=stream(1)), torch.randn(3, 1, 2, 2, requires_grad=True)
    fake = 2 * source
    penalty = r1_penalty(lambda x: weight * x.flatten(1).square().sum(dim=1), real) + r1_penalty(
        lambda x: weight * x.flatten(1).square().sum(dim=1), fake
    )
    penalty = penalty + gradient_penalty(lambda x: weight * x.flatten(1).square().sum(dim=1), real, fake, stream(0))
    penalty.sum().backward()
    assert weight.grad != 0 and source.grad is None
    assert not real.requires_grad


def test_r1r2_is_the_penalty_of_real_and_of_fake_images_together():
    real, fake = (torch.randn(3, 1, 2, 2, generator=stream(seed)).double() for seed in (1, 2))

    def square(x):  # slope 2x: R1 is 2·‖x‖²
        return x.flatten(1).square().sum(dim=1)

    expected = 2 * (square(real) + square(fake))
    assert r1r2_penalty(square, real, fake).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert PENALTIES["r1r2"](square, real, fake, stream(0)).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
