"""ICC(1): the golden table of Shrout & Fleiss, closed forms, and coverage of its interval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes import icc

GOLDEN = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_golden_table() -> None:
    result = icc(torch.tensor(GOLDEN))
    values = [result.icc, result.low, result.high, result.f, result.p]
    # The published figures have four decimals.
    assert values == pytest.approx([0.1657, -0.1329, 0.7226, 1.7947, 0.1648], abs=5e-5)
    assert result.design_effect == pytest.approx(1 + 3 * result.icc)


@pytest.mark.parametrize("after", [nn.Identity(), nn.Linear(6, 1)])
def test_logits_of_a_batch_norm_layer_have_the_least_possible_icc(after: nn.Module) -> None:
    # Every batch has the same mean, also after a linear map: MSB = 0.
    k = 16
    norm = nn.Sequential(nn.BatchNorm1d(6), after).double()
    batches = torch.randn(5, k, 6, dtype=torch.float64)
    logits = torch.stack([norm(batch)[:, 0] for batch in batches]).detach()
    assert icc(logits).icc == pytest.approx(-1 / (k - 1), abs=1e-12)


def test_uniform_batches_have_an_icc_of_one() -> None:
    result = icc([[1, 1, 1], [2, 2, 2]])
    assert (result.icc, result.low, result.high, result.f, result.p) == (1, 1, 1, math.inf, 0)


def test_unequal_batches_use_their_effective_size() -> None:
    unequal = icc([[1.0, 2, 4], [2.0, 5], [3.0, 3.5, 5, 9]])
    sizes = [3, 2, 4]
    assert unequal.batch_size == pytest.approx((9 - sum(k * k for k in sizes) / 9) / 2)
    equal = icc([row[:3] for row in GOLDEN])
    assert equal.batch_size == 3


def test_the_interval_covers_the_true_value() -> None:
    generator = torch.Generator().manual_seed(0)
    true, covered, draws = 0.3, 0, 300
    for _ in range(draws):
        batch = torch.randn(8, 1, generator=generator) * math.sqrt(true)
        result = icc(batch + torch.randn(8, 6, generator=generator) * math.sqrt(1 - true))
        covered += result.low <= true <= result.high
    assert covered / draws == pytest.approx(0.95, abs=0.05)  # 4 standard errors of 300 coins at 0.95


def test_bad_values_are_refused() -> None:
    for values in ([[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], []]):
        with pytest.raises(UserError, match="at least two batches of two values"):
            icc(values)
    for values in ([[1.0, 1.0], [1.0, 1.0]], [[1.0, math.nan], [1.0, 2.0]]):
        with pytest.raises(UserError, match="finite values that differ"):
            icc(values)
    with pytest.raises(UserError, match="`confidence` must be between 0 and 1"):
        icc(GOLDEN, confidence=95)
