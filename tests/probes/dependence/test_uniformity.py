"""Uniformity: it sees the symptom that an ICC within pure batches cannot, and nothing in a judge of images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gannorm.probes import icc, uniformity


def classes(n: int, generator: torch.Generator, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    real, fake = torch.randn(2, n, 1, dtype=torch.float64, generator=generator)
    return real + shift, fake - shift


def judge(x: Tensor) -> Tensor:
    """Nearly one logit a batch: its class."""
    return 6 * torch.tanh(4 * x.mean()) + 0.1 * x[:, 0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_sees_uniform_batches_where_the_icc_within_pure_batches_does_not() -> None:
    real, fake = classes(512, seeded())
    found = uniformity(judge, real, fake)
    assert found.icc is not None and found.icc.icc > 0.99
    assert found.majority_share is not None and found.majority_share > 0.9
    # .1·x within a batch, 2·6·tanh(4) + .2 between the classes
    assert found.sd_ratio == pytest.approx(0.1 / 12.2, rel=0.1)  # an SD of 1024 draws to 2.2 %
    assert icc(torch.stack([judge(batch) for batch in real.split(64)])).icc < 0.1  # every batch of reals has one level


def test_a_judge_of_images_has_none() -> None:
    found = [uniformity(lambda x: x[:, 0], *classes(256, seeded(seed))) for seed in range(10)]
    correlations = [result.icc.icc for result in found if result.icc is not None]
    assert len(correlations) == 10
    # The 12 batches of a block go round the same images, so that 4 blocks count and not 48 batches: an ICC of 0
    # scatters by √(2/3)/64 = .013, and the mean of ten by .004; three of each.
    assert all(abs(value) < 0.04 for value in correlations), correlations
    assert abs(sum(correlations) / 10) < 0.013
    for result in found:
        # half of a batch is real and .84 of each class is decided rightly, so half of it is above, to 1/16
        assert result.majority_share is not None and 0.5 <= result.majority_share < 0.56
        assert result.sd_ratio == pytest.approx(0.5, rel=0.17)  # a distance of 2 to .088: 4.4 %, ten of them


def test_an_effect_of_the_own_class_is_no_uniformity() -> None:
    # Composition alone makes the means of mixed batches differ, if the own class is not removed.
    found = uniformity(lambda x: 10 * x[:, 0].sign() + 0.1 * x[:, 0], *classes(256, seeded(), shift=6.0))
    assert found.icc is not None and abs(found.icc.icc) < 0.05


def test_constant_logits_have_no_correlation_and_a_critic_no_majority() -> None:
    real, fake = classes(64, seeded())
    constant = uniformity(lambda x: torch.ones(len(x)) + 0 * x[:, 0], real, fake, batch_size=16)
    assert constant.icc is None and constant.majority_share == 1 and math.isnan(constant.sd_ratio)
    assert uniformity(judge, real, fake, batch_size=16, threshold=None).majority_share is None
