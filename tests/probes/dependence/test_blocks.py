"""Disjoint blocks: who is in a batch, and intervals from the blocks."""

from __future__ import annotations

import math

import pytest
import torch

from gannorm.probes.dependence.blocks import Blocks, jackknife, see, unseen


def blocks(n: int = 64, size: int = 16) -> Blocks:
    return Blocks(n, size, torch.Generator().manual_seed(0))


def test_blocks_share_no_image_and_pure_batches_hold_each_once() -> None:
    drawn = blocks()
    assert len(drawn) == 4
    assert torch.cat([batch.index for batch in drawn.pure()]).sort().values.tolist() == list(range(128))
    assert [batch.reals for batch in drawn.pure()] == [16, 0] * 4


@pytest.mark.parametrize(("reals", "turns"), [(4, 4), (8, 2), (12, 4), (1, 16)])
def test_batches_go_round_the_images_of_their_block(reals: int, turns: int) -> None:
    drawn = blocks()
    own = {number: set(torch.cat(pair).tolist()) for number, pair in enumerate(drawn.blocks)}
    batches = drawn.mixed(reals, turns)
    assert len(batches) == 4 * turns
    for batch in batches:
        assert set(batch.index.tolist()) <= own[batch.block]
        assert len(set(batch.index.tolist())) == 16
        assert int((batch.index < 64).sum()) == batch.reals == reals
    counts = torch.bincount(torch.cat([batch.index for batch in batches]), minlength=128)
    assert set(counts[:64].tolist()) == {reals * turns // 16}
    assert set(counts[64:].tolist()) == {(16 - reals) * turns // 16}


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 5.0], dtype=torch.float64)
    keep = ~torch.eye(4, dtype=torch.bool)
    estimate = jackknife(
        lambda g: values.mean().item() if g is None else values[keep[g]].mean().item(), 4, -math.inf, math.inf
    )
    half = 3.1824463 * values.std().item() / 2  # t_{.975} with 3 degrees of freedom
    assert [estimate.mean, estimate.low, estimate.high] == pytest.approx([3, 3 - half, 3 + half], rel=1e-6)


def test_an_interval_of_a_share_stays_inside_and_is_longer_away_from_the_limit() -> None:
    shares = [0.99, 0.98, 0.9, 0.97]
    estimate = jackknife(
        lambda g: sum(s for i, s in enumerate(shares) if i != g) / (3 if g is not None else 4), 4, 0, 1
    )
    assert estimate.low is not None and estimate.high is not None
    assert 0 < estimate.low < estimate.mean < estimate.high < 1
    assert estimate.mean - estimate.low > estimate.high - estimate.mean


def test_a_share_of_one_is_bounded_by_its_count() -> None:
    estimate = jackknife(lambda g: 1.0, 4, 0, 1, counted=32)
    assert (estimate.mean, estimate.high) == (1, 1)
    assert estimate.low is not None and estimate.low**32 == pytest.approx(0.05)
    assert unseen(32) == pytest.approx(1 - estimate.low)
    assert jackknife(lambda g: 1.0, 3, 0, 1, counted=32).low is None


@pytest.mark.parametrize(
    ("values", "constant", "saturated"),
    [
        (lambda x: 0 * x + 3, True, False),
        (lambda x: 1000 + 1e-5 * x, True, False),  # float32 holds 1000 to 3e-5
        (lambda x: x, False, False),
        (lambda x: (x > 0).float(), False, True),
        (lambda x: x * 0, True, True),
        (lambda x: torch.stack([(x > 0).float(), 0.5 + 0 * x, x], 1), False, False),
    ],
)
def test_dead_outputs_are_noticed(values: object, constant: bool, saturated: bool) -> None:
    x = torch.randn(128, generator=torch.Generator().manual_seed(1))
    seen = see(values, x, blocks().pure(), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert (seen.constant, seen.saturated) == (constant, saturated)


def test_small_logits_that_differ_only_between_batches_are_not_constant() -> None:
    real, fake = torch.ones(8, 1), -torch.ones(8, 1)
    blocks = Blocks(8, 4, torch.Generator().manual_seed(0))
    seen = see(lambda x: 1e-4 * x.mean(0).expand(len(x)), torch.cat([real, fake]), blocks.pure(), torch.Generator())
    assert seen.logits.min() < seen.logits.max() and not seen.constant
