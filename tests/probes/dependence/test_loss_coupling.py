"""A loss's coupling is its Jacobian off the diagonal: exact zeros without, the closed form with, and refusals."""

import pytest
import torch
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.probes import loss_coupling
from gannorm.seeds import stream

REAL, FAKE = (torch.randn(5, generator=stream(seed)) for seed in (0, 1))


def test_terms_that_never_meet_leave_exact_zeros():
    found = loss_coupling(lambda real, fake: F.softplus(fake - real), REAL, FAKE)
    assert found.ratio == 0 and not found.couples
    # ∂ℓ/∂r = −σ(f − r) and ∂ℓ/∂f its opposite.
    slope = torch.sigmoid(FAKE - REAL).double()
    torch.testing.assert_close(found.matrix, torch.diag(slope * 2**0.5), atol=1e-7, rtol=0)  # logits are float32


def test_a_mean_couples_every_pair_with_every_other():
    found = loss_coupling(lambda real, fake: real - fake.mean(), REAL, FAKE)
    n = len(REAL)  # each row: 1 and 1/n² on the diagonal, 1/n² elsewhere
    assert found.couples
    assert found.ratio == pytest.approx(((n - 1) / n**2) / (1 + 1 / n), rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda real, fake: real * fake.roll(1),
        lambda real, fake: real - fake.max(),
        lambda real, fake: real.sort().values - fake,
    ],
)
def test_hidden_coupling_is_caught(loss):
    assert loss_coupling(loss, REAL, FAKE).couples


def test_a_constant_loss_has_no_coupling_and_no_nan():
    assert loss_coupling(lambda real, fake: torch.ones_like(real), REAL, FAKE).ratio == 0


def test_what_is_no_loss_of_pairs_is_refused():
    with pytest.raises(UserError, match=r"as many real as fake logits.* got \(5,\) and \(4,\)"):
        loss_coupling(torch.sub, REAL, FAKE[:4])
    with pytest.raises(UserError, match=r"one number for each of the 5 pairs: got shape \(\)"):
        loss_coupling(lambda real, fake: (real - fake).mean(), REAL, FAKE)
