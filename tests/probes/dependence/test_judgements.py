"""The AUC and its interval for independent logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from gannorm.probes.dependence.judgements import auc, auc_without, independent_auc, own_images


def test_auc_counts_ties_half() -> None:
    values, labels = torch.tensor([1.0, 2, 2, 3, 3, 3]), torch.tensor([0, 0, 1, 0, 1, 1]) == 1
    assert auc(values[labels], values[~labels]) == pytest.approx(roc_auc_score(labels, values))


def test_the_auc_without_a_block_is_that_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randint(9, (count,), generator=generator).double() for count in (30, 40))  # with ties
    real_block, fake_block = torch.arange(30) % 5, torch.arange(40) % 5
    without = auc_without(real, real_block, fake, fake_block)
    assert without(None) == pytest.approx(auc(real, fake), abs=1e-12)
    for g in range(5):
        expected = auc(real[real_block != g], fake[fake_block != g])
        assert without(g) == pytest.approx(expected, abs=1e-12)  # float64
    ordered = auc_without(real + 9, real_block, fake - 1, fake_block)
    assert [ordered(g) for g in (None, *range(5))] == [1.0] * 6  # exactly


def test_delongs_variance_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(20, generator=generator) + 0.5, torch.randn(30, generator=generator)
    wins = (real[:, None] > fake).double().numpy()
    variance = wins.mean(1).var(ddof=1) / 20 + wins.mean(0).var(ddof=1) / 30
    estimate = independent_auc(real, fake)
    assert estimate.low is not None and estimate.high is not None
    half = 2.0930241 * np.sqrt(variance)  # t_{.975} with 19 degrees of freedom
    assert [estimate.mean - estimate.low, estimate.high - estimate.mean] == pytest.approx([half, half], rel=1e-6)


def test_perfect_ranks_are_bounded_by_their_count() -> None:
    estimate = independent_auc(torch.ones(10), torch.zeros(20))
    assert (estimate.mean, estimate.high) == (1, 1)
    assert estimate.low is not None and estimate.low**10 == pytest.approx(0.05)


def test_the_image_itself_is_of_its_own_class() -> None:
    assert [own_images(share, 64) for share in (1, 0.75, 0.5, 0.25, 1 / 16)] == [64, 48, 32, 16, 4]
    assert own_images(1 / 16, 4) == 1


def test_the_interval_of_independent_images_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        real, fake = (torch.randn(32, generator=generator) + m for m in (0.5, -0.5))
        auc = independent_auc(real, fake)
        assert auc.low is not None and auc.high is not None
        covered += auc.low <= 0.7602 <= auc.high
    assert covered / 200 == pytest.approx(0.95, abs=0.05)  # three binomial errors are .046
    assert math.isclose(0.7602, 0.5 * (1 + math.erf(0.5)), abs_tol=1e-3)  # Φ(1/√2)
