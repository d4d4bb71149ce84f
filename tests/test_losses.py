"""Losses against their published formulas and optima; penalties against closed-form slopes."""

import math

import pytest
import torch

from gannorm.losses import LOSSES, gradient_penalty, r1_penalty
from gannorm.seeds import stream

FORMULAS = {
    "non_saturating": (
        lambda r, f: -math.log(1 / (1 + math.exp(-r))) - math.log(1 - 1 / (1 + math.exp(-f))),
        lambda f: -math.log(1 / (1 + math.exp(-f))),
    ),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda f: -f),
    "least_squares": (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda f: (f - 1) ** 2 / 2),
    "wasserstein": (lambda r, f: f - r, lambda f: -f),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_published_formulas(name):
    d_formula, g_formula = FORMULAS[name]
    real, fake = torch.tensor([1.3, -0.4, 2.2]).double(), torch.tensor([-0.7, 0.9, -2.0]).double()
    d = sum(d_formula(r, f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 3
    g = sum(g_formula(f) for f in fake.tolist()) / 3
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(d, rel=1e-12)  # float64 rounding
    assert LOSSES[name].generator(fake).item() == pytest.approx(g, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_each_side_gains_by_moving_its_logits_the_right_way(name):
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    LOSSES[name].discriminator(real, fake).backward()
    assert (real.grad < 0).all()  # raising a real logit lowers D's loss
    assert (fake.grad >= 0).all()
    fake.grad = None
    LOSSES[name].generator(fake).backward()
    assert (fake.grad < 0).all()


def test_non_saturating_loss_survives_huge_logits():
    huge = torch.tensor([1e4])
    assert LOSSES["non_saturating"].discriminator(-huge, huge).item() == pytest.approx(2e4)
    assert LOSSES["non_saturating"].generator(-huge).item() == pytest.approx(1e4)


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
