"""The composition curve of functions of a batch whose logits are known, and how often its intervals hold the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support.toys import group_norm, image_network, judge_of_batches
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import composition_curve, composition_gap
from gannorm.verdict import CONFLICT, MIXED, PURE, SHARES


def classes(n: int, *shape: int, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    real, fake = torch.randn(2, n, *shape, dtype=torch.float64, generator=generator)
    return real + shift, fake - shift


def first(x: Tensor) -> Tensor:
    return x[:, 0]


# -- the curve --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 10, 16, 25])
def test_every_batch_has_the_stated_size_and_shares_and_holds_no_image_twice(size: int) -> None:
    real, fake = torch.arange(1.0, 4 * size + 1)[:, None], -torch.arange(1.0, 4 * size + 1)[:, None]
    seen: list[Tensor] = []
    composition_curve(lambda x: seen.append(x[:, 0].clone()) or x[:, 0], real, fake, batch_size=size)
    own = {max(1, round(share * size)) for share in SHARES}
    for batch in seen:
        assert len(batch) == len(set(batch.tolist())) == size
        assert int((batch > 0).sum()) in own | {size - k for k in own}
    # In pure and, of an even size, in mixed batches each image is judged once.
    for reals in (size, 0, *([] if size % 2 else [size // 2])):
        images = torch.cat([batch for batch in seen if int((batch > 0).sum()) == reals])
        assert len(set(images.tolist())) == len(images)
        assert len(images) == (4 if reals in (0, size) else 8) * size


def test_a_batch_is_drawn_from_one_block() -> None:
    real, fake = torch.arange(1.0, 65)[:, None], -torch.arange(1.0, 65)[:, None]
    seen: list[Tensor] = []
    composition_curve(lambda x: seen.append(x[:, 0].clone()) or x[:, 0], real, fake, batch_size=16)
    blocks = [set(batch.tolist()) for batch in seen if (batch > 0).all()]
    assert len(blocks) == 4
    for batch in seen:
        reals = {v for v in batch.tolist() if v > 0}
        assert sum(bool(reals & block) for block in blocks) <= 1


def test_a_judge_of_images_has_one_auc_at_every_share() -> None:
    real, fake = classes(128, 3, 8, 8, shift=0.1)
    torch.manual_seed(0)
    curve = composition_curve(image_network(group_norm).double(), real, fake, batch_size=32)
    assert curve.flat
    assert len(set(curve.auc)) == len(set(curve.accuracy or ())) == 1
    assert curve.auc_gap == curve.accuracy_gap == 0
    assert all((change.mean, change.low, change.high) == (0, 0, 0) for change in curve.changes)
    curve = composition_curve(image_network(nn.BatchNorm2d).double(), real, fake, batch_size=32)
    assert not curve.flat and len(set(curve.auc)) > 1


def test_auc_and_accuracy_are_those_of_the_logits() -> None:
    real, fake = classes(100, 1, shift=0.3)
    curve = composition_curve(first, real, fake, batch_size=25)
    logits, labels = torch.cat([real, fake])[:, 0], np.repeat([1, 0], 100)
    assert curve.auc_pure == pytest.approx(roc_auc_score(labels, logits.numpy()), abs=1e-12)  # float64
    assert curve.accuracy_pure == pytest.approx(((logits > 0).numpy() == labels).mean(), abs=1e-12)


def test_a_share_of_the_own_class_moves_the_logits_as_it_says() -> None:
    # f = mean of the batch, images ±1: at own share k/N a real image gets 2k/N − 1, a fake image 1 − 2k/N.
    real, fake = torch.ones(64, 1), -torch.ones(64, 1)
    curve = composition_curve(judge_of_batches, real, fake, batch_size=16)
    assert [auc.mean for auc in curve.auc] == [1, 1, 0.5, 0, 0]
    assert [accuracy.mean for accuracy in curve.accuracy or ()] == [1, 1, 0.5, 0, 0]
    assert curve.decisions_follow_batch == 1
    cells = curve.cells
    assert (cells.real_among_real, cells.fake_among_fake) == (1, -1)
    assert cells.real_among_fake == pytest.approx(2 / 16 - 1)
    assert cells.fake_among_real == pytest.approx(1 - 2 / 16)
    assert curve.own_among_others == pytest.approx([(k - 1) / 15 for k in (16, 12, 8, 4, 1)])


def test_ranks_and_decisions_are_told_apart() -> None:
    # A shift that follows the batch moves all its logits: ranks within a batch stay, decisions need not.
    real, fake = classes(256, 1, shift=3.0)
    curve = composition_curve(lambda x: x[:, 0] + 8 * x.mean().clamp(-1, 1), real, fake, batch_size=64)
    assert all(auc.mean == 1 for auc in curve.same_batch.values())
    assert list(curve.same_batch) == [CONFLICT, MIXED, 1 - CONFLICT]
    assert curve.auc_conflict < 0.05 and curve.decisions_follow_batch == 1
    # D = 4·tanh(3x) + 8·clamp(Var − 1/4, 0, 1) ranks perfectly everywhere; its accuracy falls to one half.
    narrow = (0.4 * (real - 3) + 1, 0.4 * (fake + 3) - 1)
    shifted = composition_curve(lambda x: 4 * (3 * first(x)).tanh() + 8 * (first(x).var() - 0.25).clamp(0, 1), *narrow)
    assert min(auc.mean for auc in shifted.auc) > 0.99
    assert (shifted.accuracy_pure or 0) > 0.97 and shifted.accuracy_mixed == 0.5


def test_changes_are_of_the_same_images() -> None:
    # x plus a constant times the real share of the batch, too small to reorder any two images: no change at all.
    real, fake = (torch.arange(64.0)[:, None] * 1000 + offset for offset in (0.0, 500.0))

    def f(x: Tensor) -> Tensor:
        return x[:, 0] + (x[:, 0] % 1000 < 250).float().mean() * 100

    curve = composition_curve(f, real, fake, batch_size=16)
    assert not curve.flat
    assert [change.mean for change in curve.changes] == [0] * 5


def test_an_auc_of_one_has_no_interval_of_zero_width() -> None:
    real, fake = torch.ones(64, 1), -torch.ones(64, 1)
    curve = composition_curve(lambda x: x[:, 0] + 0.1 * x.mean(), real, fake, batch_size=16)
    assert [auc.mean for auc in curve.auc] == [1] * 5
    for auc, change, count in zip(curve.auc, curve.changes, curve.counts, strict=True):
        assert auc.high == 1 and auc.low == pytest.approx(0.05 ** (1 / count))
        assert (change.low, change.high) == ((auc.low - 1, 1 - auc.low) if change is not curve.changes[0] else (0, 0))
    assert min(curve.counts) >= 32


def test_fewer_than_four_batches_a_class_give_no_interval() -> None:
    real, fake = classes(127, 1)
    curve = composition_curve(lambda x: x[:, 0] + x.mean(), real, fake, batch_size=32)
    assert (curve.images, curve.blocks) == (96, 3)
    assert all(auc.low is None and auc.high is None for auc in (*curve.auc, *curve.changes))
    assert curve.auc_images.low is not None


def test_a_ragged_end_is_dropped_and_stated() -> None:
    real, fake = classes(70, 1)
    curve = composition_curve(first, real, fake[:69], batch_size=16, fakes="noise")
    assert (curve.images, curve.batch_size, curve.blocks, curve.fakes) == (64, 16, 4, "noise")


def test_patch_discriminators_are_averaged_over_their_map() -> None:
    real, fake = classes(32, 1, 4, 4)
    curve = composition_curve(lambda x: x, real, fake, batch_size=8)
    assert curve.outputs == 16
    assert replace(curve, outputs=1) == composition_curve(lambda x: x.mean((1, 2, 3)), real, fake, batch_size=8)


@pytest.mark.parametrize(
    "scores",
    [
        lambda x: x[:, :2],
        lambda x: x.log_softmax(1),
        lambda x: x.softmax(1),
        lambda x: x.half().softmax(1),
    ],
)
def test_scores_of_classes_are_no_logits(scores: Callable[[Tensor], Tensor]) -> None:
    real, fake = classes(32, 5)
    with pytest.raises(UserError, match=r"scores of [25] classes, shape \(8, [25]\); .*out\[:, 1\] - out\[:, 0\]"):
        composition_curve(scores, real, fake, batch_size=8)
    by_class = composition_curve(scores, real, fake, batch_size=8, output=lambda out: out[:, 1] - out[:, 0])
    assert by_class.outputs == 1


def test_outputs_like_probabilities_get_the_remedy_for_their_threshold() -> None:
    real, fake = classes(32, 1)
    with pytest.warns(UserWarning, match=r"all outputs lie in \[0, 1\].*got threshold=0; pass threshold=0.5"):
        assert composition_curve(torch.sigmoid, real, fake, batch_size=8).border_missed
    assert not composition_curve(torch.sigmoid, real, fake, batch_size=8, threshold=0.5).border_missed
    assert not composition_curve(lambda x: 2 * torch.sigmoid(x), real, fake, batch_size=8).border_missed


@pytest.mark.parametrize("batch_size", [16.0, "16", None])
def test_a_batch_size_that_is_no_whole_number_is_refused(batch_size: Any) -> None:
    with pytest.raises(UserError, match="`batch_size` must be a whole number"):
        composition_curve(lambda x: x, *classes(32, 1), batch_size=batch_size)


def test_a_border_at_one_half_and_none_at_all() -> None:
    real = classes(64, 2)[0].abs()
    fake = real * torch.tensor([-1.0, 1.0])

    def judge(x: Tensor) -> Tensor:
        return 0.9 * (x[:, 0] > 0).double() + 0.05 + 0.01 * x[:, 1].clamp(max=1)

    gap = composition_gap(judge, real, fake, batch_size=16, threshold=0.5)
    assert gap.accuracy_pure == gap.accuracy_mixed == 1 and gap.accuracy_gap == 0
    critic = composition_curve(judge, real, fake, batch_size=16, threshold=None)
    assert critic.accuracy is None and critic.accuracy_pure is None and critic.decisions_follow_batch is None
    assert composition_gap(judge, real, fake, batch_size=16, threshold=None).accuracy_gap is None


def test_the_gap_is_the_two_ends_of_the_curve() -> None:
    real, fake = classes(128, 3, shift=0.3)
    f = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    gap = composition_gap(f, real, fake, batch_size=16)
    curve = composition_curve(f, real, fake, batch_size=16, shares=(PURE, MIXED))
    for name in ("accuracy_pure", "accuracy_mixed", "auc_pure", "auc_mixed", "accuracy_gap", "auc_gap"):
        value = getattr(gap, name)
        assert isinstance(value, float) and value == getattr(curve, name)
    assert gap.auc_gap < -0.1  # BatchNorm removes what the classes differ by, in pure batches


def test_a_judge_of_batches_loses_everything_when_mixed() -> None:
    gap = composition_gap(judge_of_batches, *classes(512, 1), batch_size=64)
    assert gap.accuracy_pure == gap.auc_pure == 1
    # 16 mixed batches of one logit each: accuracy is 1/2 exactly, half of every batch being of each class.
    assert gap.accuracy_mixed == 0.5
    assert gap.auc_mixed == pytest.approx(0.5, abs=1e-12)  # and so is the AUC, by ties and symmetry


def test_noise_inside_the_network_is_the_same_at_all_shares_and_differs_between_batches() -> None:
    noise: dict[int, set[float]] = {}

    def f(x: Tensor) -> Tensor:
        reals = int((x[:, 0] > 0).sum())
        noise.setdefault(reals, set()).add(torch.rand(()).item())
        return x[:, 0]

    state = torch.get_rng_state()
    composition_curve(f, *classes(64, 1, shift=9.0), batch_size=16)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(noise[16]) == 4 and noise[16] == noise[0] <= noise[8]
    assert noise[8] == noise[12] == noise[4] <= noise[1]


@pytest.mark.parametrize("shares", [(0.0, 1.0), (1.5,), (-0.5,)])
def test_shares_out_of_range_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"`shares` must be in \(0, 1\]"):
        composition_curve(first, *classes(32, 1), batch_size=8, shares=shares)


def test_an_end_that_was_not_measured_is_not_made_up() -> None:
    curve = composition_curve(first, *classes(32, 1), batch_size=8, shares=(0.5,))
    assert curve.shares == (1.0, 0.5)
    with pytest.raises(UserError, match=r"`shares` must hold 0.0625 for this end of the curve: got \[1.0, 0.5\]"):
        _ = curve.conflict


def test_bad_batches_are_refused() -> None:
    real, fake = classes(32, 1)
    with pytest.raises(UserError, match="fill a batch of 64 each: got 32 and 32 images; pass more, or batch_size=32"):
        composition_gap(first, real, fake)
    with pytest.raises(UserError, match="got 32 and 7 images; pass at least 64 of each"):
        composition_gap(first, real, fake[:7])
    with pytest.raises(UserError, match="`batch_size` must be at least 2, for other images: got 1"):
        composition_gap(first, real, fake, batch_size=1)


# -- intervals --------------------------------------------------------------------------------------------------------


def of_the_batch(x: Tensor) -> Tensor:
    """Noise that all images of a batch share, drawn by what it holds."""
    return 1.5 * torch.sin(1e4 * x.double().sum()).float()


def batch_norm_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))


# AUC at each share for N(±1/2, 1) and N = 64, measured once over 1500 batches a class and share, to about ±0.005
TRUTH: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], tuple[float, ...]]] = {
    "coupled": (lambda: lambda x: first(x) + 3 * x.mean(), (0.995, 0.945, 0.739, 0.369, 0.148)),
    "batch-level noise": (lambda: lambda x: first(x) + of_the_batch(x), (0.680,) * 5),
    "mean shift": (lambda: lambda x: first(x) + (2 * x.mean()).clamp(-1, 1), (0.974, 0.909, 0.749, 0.496, 0.324)),
    "batch norm": (batch_norm_network, (0.500, 0.362, 0.238, 0.142, 0.093)),
    "per image": (lambda: first, (0.7602,) * 5),  # Φ(1/√2)
}


def test_intervals_cover_the_truth() -> None:
    covered = dict.fromkeys(TRUTH, 0)
    repetitions = 30
    for name, (make, truth) in TRUTH.items():
        f = make()
        for seed in range(repetitions):
            generator = torch.Generator().manual_seed(seed)
            real, fake = (torch.randn(256, 1, generator=generator) + m for m in (0.5, -0.5))
            curve = composition_curve(f, real, fake, generator=generator)
            covered[name] += sum(auc.low <= t <= auc.high for auc, t in zip(curve.auc, truth, strict=True))  # type: ignore[operator]
    # At length, over 300 repetitions with N = 64 and 16, G = 4 and 8, single shares were covered .91 to .98. The five
    # shares of one draw count as one: of 30 draws at .90 to .97, three binomial errors are .16.
    shares = {name: count / repetitions / 5 for name, count in covered.items()}
    assert all(share >= 0.90 - 0.16 for share in shares.values()), shares
    # Over the five networks, 150 draws: three binomial errors of .90 are .073.
    assert 0.90 - 0.073 <= sum(shares.values()) / 5 <= 0.97 + 0.03, shares
