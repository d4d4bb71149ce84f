"""Uniformity: it sees the symptom that an ICC within pure batches cannot, and nothing in a judge of images."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from gannorm.probes import batch_invariance, icc, uniformity
from gannorm.probes.dependence.blocks import Blocks, see
from gannorm.probes.dependence.leak_ratio import varied_shares
from gannorm.probes.dependence.uniformity import uniformity_of
from gannorm.verdict import KINDS


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


def two_values(x: Tensor) -> Tensor:
    return 2.0 * (x[:, 0] > 0) - 1


DEGENERATE = {
    "a constant in each class": two_values,
    "one logit a batch": lambda x: x.mean().expand(len(x)),
    "a constant in the real class": lambda x: torch.where(x[:, 0] > 0, 1.0, x[:, 0]),
    "large": lambda x: 1e30 * x[:, 0],
    "whole numbers": lambda x: x[:, 0].round(),
    "half precision": lambda x: x[:, 0].half(),
    "constant": lambda x: 0 * x[:, 0],
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_what_is_undefined_is_none_and_no_error(name: str) -> None:
    real, fake = classes(64, seeded(), shift=9.0)
    result = uniformity(DEGENERATE[name], real, fake, batch_size=16)
    undefined = name in ("a constant in each class", "constant")
    assert (result.icc is None) == undefined
    if result.icc is not None:
        assert result.icc.low is not None and result.icc.high is not None
        assert -1 / 15 <= result.icc.low <= result.icc.icc <= result.icc.high <= 1
    if name == "one logit a batch":
        assert result.icc is not None and result.icc.icc == result.icc.low == 1


@pytest.mark.parametrize("cost", ["quick", "full"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_every_network_that_answers_gets_a_verdict(name: str, cost: str) -> None:
    real, fake = classes(64, seeded(), shift=9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps, that no gradient could be tested
        result = batch_invariance(DEGENERATE[name], real, fake, batch_size=16, cost=cost)
    assert result.verdict.kind in KINDS and repr(result) and result.metrics()


def test_with_few_blocks_there_is_no_interval() -> None:
    result = uniformity(judge, *classes(16, seeded()), batch_size=16)
    assert result.icc is not None and result.icc.low is None
    assert result.majority_interval is None and result.sd_interval is None


def test_the_correlation_is_that_of_the_analysis_of_variance() -> None:
    blocks = Blocks(64, 16, seeded())
    images = torch.cat(classes(64, seeded()))
    seen = see(lambda x: x[:, 0] + 3 * x.mean(), images, varied_shares(blocks), seeded())
    is_real = torch.stack([batch.index < 64 for batch in seen.batches])
    pairs = zip(seen.logits, is_real, strict=True)
    w = torch.stack([v[real].mean() - v[~real].mean() for v, real in pairs]).mean()
    estimate = uniformity_of(seen, see(lambda x: x[:, 0], images, blocks.pure(), seeded()), 64, 0.0).icc
    assert estimate is not None and estimate.icc == pytest.approx(icc(seen.logits - w * is_real).icc, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_intervals_hold_the_truth(weight: float) -> None:
    def f(x: Tensor) -> Tensor:
        return x[:, 0] + weight * x.mean()

    many = uniformity(f, *classes(64 * 200, seeded(999)))
    held = [0, 0, 0]
    for seed in range(100):
        one = uniformity(f, *classes(256, seeded(seed)), generator=seeded(seed))
        assert one.icc is not None and many.icc is not None and one.icc.low is not None and one.icc.high is not None
        assert one.majority_interval is not None and many.majority_share is not None and one.sd_interval is not None
        held[0] += one.icc.low <= many.icc.icc <= one.icc.high
        held[1] += one.majority_interval[0] <= many.majority_share <= one.majority_interval[1]
        held[2] += one.sd_interval[0] <= many.sd_ratio <= one.sd_interval[1]
    assert all(88 <= count <= 100 for count in held), held  # of 95, by 3 binomial standard deviations of 2.2
