"""Losses against their published formulas and optima, and their declared coupling against the measured one."""

import math

import pytest
import torch

from gannorm.losses import LOSSES
from gannorm.probes import loss_coupling
from gannorm.seeds import stream


def softplus(x):
    return math.log(1 + math.exp(x))


def mean(values):
    return sum(values) / len(values)


def pairs(function):
    return lambda one, other: mean([function(a, b) for a, b in zip(one, other, strict=True)])


def against_means(above, below):
    """Each image against the mean of the other kind."""
    up = [softplus(mean(below) - a) for a in above]
    down = [softplus(b - mean(above)) for b in below]
    return mean(up) + mean(down)


# (real, fake) → D's loss and (fake, real) → G's, of lists of logits.
FORMULAS = {
    "non_saturating": (
        pairs(lambda r, f: -math.log(1 / (1 + math.exp(-r))) - math.log(1 - 1 / (1 + math.exp(-f)))),
        pairs(lambda f, r: -math.log(1 / (1 + math.exp(-f)))),
    ),
    "hinge": (pairs(lambda r, f: max(0, 1 - r) + max(0, 1 + f)), pairs(lambda f, r: -f)),
    "least_squares": (pairs(lambda r, f: ((r - 1) ** 2 + f**2) / 2), pairs(lambda f, r: (f - 1) ** 2 / 2)),
    "wasserstein": (pairs(lambda r, f: f - r), pairs(lambda f, r: -f)),
    "relativistic": (pairs(lambda r, f: softplus(f - r)), pairs(lambda f, r: softplus(r - f))),
    "relativistic_average": (against_means, against_means),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_published_formulas(name):
    d_formula, g_formula = FORMULAS[name]
    real, fake = torch.tensor([1.3, -0.4, 2.2]).double(), torch.tensor([-0.7, 0.9, -2.0]).double()
    d, g = d_formula(real.tolist(), fake.tolist()), g_formula(fake.tolist(), real.tolist())
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(d, rel=1e-12)  # float64 rounding
    assert LOSSES[name].generator(fake, real).item() == pytest.approx(g, rel=1e-12)
    assert LOSSES[name](real, fake).shape == LOSSES[name].fool(fake, real).shape == (3,)


@pytest.mark.parametrize("name", LOSSES)
def test_each_side_gains_by_moving_its_logits_the_right_way(name):
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    LOSSES[name].discriminator(real, fake).backward()
    assert (real.grad < 0).all()  # raising a real logit lowers D's loss
    assert (fake.grad >= 0).all()
    fake.grad = None
    LOSSES[name].generator(fake, real).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_declared_coupling_and_need_of_real_logits_are_the_measured_ones(name):
    loss = LOSSES[name]
    real, fake = (0.5 * torch.randn(6, generator=stream(seed)).double() for seed in (0, 1))
    for terms in (loss, lambda real, fake: loss.fool(fake, real)):
        assert loss_coupling(terms, real, fake).couples == loss.couples_batch
    moved = loss.fool(fake, real + 1)
    assert (not torch.equal(moved, loss.fool(fake, real))) == loss.needs_real


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].needs_real])
def test_relativistic_losses_do_not_see_a_shift_of_all_logits(name):
    real, fake = (torch.randn(6, generator=stream(seed)).double() for seed in (0, 1))
    shifted = LOSSES[name].discriminator(real + 7, fake + 7)
    torch.testing.assert_close(shifted, LOSSES[name].discriminator(real, fake), atol=1e-13, rtol=0)  # float64


def test_non_saturating_loss_survives_huge_logits():
    huge = torch.tensor([1e4])
    assert LOSSES["non_saturating"].discriminator(-huge, huge).item() == pytest.approx(2e4)
    assert LOSSES["non_saturating"].generator(-huge).item() == pytest.approx(1e4)
