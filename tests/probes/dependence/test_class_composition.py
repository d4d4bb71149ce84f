"""The composition curve of classifiers whose answers are known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.toys import Apply
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.probes import class_composition
from gannorm.probes.dependence.judgements import own_images
from gannorm.verdict import SHARES


def images(classes: int = 4, of_each: int = 64) -> tuple[Tensor, Tensor]:
    """One-hot images: the class itself, and one number that makes every image another."""
    labels = torch.arange(classes * of_each) % classes
    x = F.one_hot(labels).double()
    return torch.cat([x, torch.linspace(0, 1, len(x), dtype=torch.float64)[:, None]], 1), labels


def image_judge(x: Tensor) -> Tensor:
    """Right on the images whose last number is below 0.7, otherwise one class too far."""
    right = x[:, :-1]
    return torch.where(x[:, -1:] < 0.7, right, right.roll(1, 1))


def test_the_curve_of_a_judge_of_images_is_flat_at_its_accuracy() -> None:
    x, labels = images()
    curve = class_composition(image_judge, x, labels, batch_size=16)
    assert curve.spread == pytest.approx(0, abs=1e-12)  # means of the same answers, with other divisors
    assert curve.accuracy[0].mean == pytest.approx((x[:, -1] < 0.7).double().mean().item(), abs=1e-12)
    assert (curve.chance, curve.blocks, curve.images) == (0.25, 4, 64)
    assert curve.shares == (1.0, 0.75, 0.5, 0.25, 1 / 16)  # 1/K is among them
    for accuracy in curve.accuracy:
        assert accuracy.low is not None and accuracy.low < accuracy.mean < accuracy.high


def test_what_subtracts_the_batch_mean_fails_where_its_own_class_fills_the_batch() -> None:
    """Score of class c: 1[own = c] − a·(share of c). The own class wins while 1 − a·s > −a·(smallest other share)."""
    x, labels = images()
    curve = class_composition(lambda v: v[:, :-1] - 1.5 * v[:, :-1].mean(0), x, labels, batch_size=16)
    # Pure: 1 − 1.5 < 0. At three quarters 4 companions of 3 classes: 1 − 1.125 = −.125 against −1.5/16 (one of a class)
    # or 0 (none): always lost, as by 4 images some class has at most one. At one half: 1 − .75 > 0.
    assert [accuracy.mean for accuracy in curve.accuracy] == [0, 0, 1, 1, 1]


def test_what_answers_with_the_batchs_majority_is_right_only_among_its_own() -> None:
    x, labels = images()
    curve = class_composition(lambda v: v[:, :-1].mean(0).expand(len(v), 4), x, labels, 16, shares=[1.0, 0.75, 1 / 16])
    assert curve.accuracy[0].mean == curve.accuracy[1].mean == 1
    assert curve.accuracy[2].mean == 0  # 15 companions of 3 classes: some class has at least five


def test_a_constant_answer_is_at_chance_at_every_share() -> None:
    x, labels = images(5)
    curve = class_composition(lambda v: torch.eye(5)[0].expand(len(v), 5), x, labels, 16)
    assert [accuracy.mean for accuracy in curve.accuracy] == pytest.approx([0.2] * 6, abs=1e-12)
    assert curve.chance == 0.2


@pytest.mark.parametrize("share", [*SHARES, 0.1])
def test_every_batch_holds_the_stated_share_of_one_class_and_no_image_twice(share: float) -> None:
    x, labels = images(3, 32)
    seen: list[Tensor] = []
    class_composition(lambda v: seen.append(v.clone()) or v[:, :-1], x, labels, 8, shares=[share])
    k = own_images(share, 8)
    for batch in seen:
        assert len(batch) == len(batch[:, -1].unique()) == 8
        assert k in batch[:, :-1].sum(0).tolist()
    assert len(torch.cat(seen)[:, -1].unique()) >= 90  # of 96: companions are drawn, own images go round


def test_outputs_and_batches_may_be_elsewhere() -> None:
    x, labels = images()
    plain = class_composition(image_judge, x, labels, 16)
    turned = class_composition(lambda v: {"logits": image_judge(v.T)}, x.T, labels, 16, output="logits", batch_dim=1)
    assert plain == turned


def test_dropout_repeats_and_differs_from_block_to_block_and_nothing_is_changed() -> None:
    x, labels = images()
    network = nn.Sequential(Apply(lambda v: v[:, :-1]), nn.Dropout(0.5))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    curves = [class_composition(network, x, labels, 16) for _ in range(2)]
    assert curves[0] == curves[1]
    assert torch.equal(state, torch.get_rng_state())


def test_no_interval_with_fewer_than_four_blocks() -> None:
    x, labels = images(2, 32)
    assert class_composition(image_judge, x, labels, 16).accuracy[0].low is None


@pytest.mark.parametrize(
    "change,message",
    [
        ({"labels": torch.zeros(256, dtype=torch.long)}, "at least two classes: got \\[0\\]"),
        ({"labels": torch.zeros(255, dtype=torch.long)}, "one integer per image: got torch.int64 \\(255,\\) for 256"),
        ({"labels": torch.zeros(256)}, "one integer per image: got torch.float32"),
        ({"labels": [0] * 256}, "one integer per image: got list"),
        ({"labels": torch.arange(256) % 4 - 1}, "from 0 on: got -1"),
        ({"labels": torch.arange(256) % 5}, "K above the largest label 4: got \\(16, 4\\)"),
        ({"batch_size": 65}, "every class must fill a batch of 65: class 0 has 64 images"),
        ({"batch_size": 1}, "at least 2, for other images: got 1"),
        ({"shares": [0.0]}, "in \\(0, 1\\]: got \\[0.0\\]"),
        ({"shares": []}, "in \\(0, 1\\]: got \\[\\]"),
        ({"f": lambda v: v[:, 0]}, "must be \\(N, K\\) scores"),
    ],
)
def test_what_cannot_be_measured_is_one_line(change: dict[str, Any], message: str) -> None:
    x, labels = images()
    with pytest.raises(UserError, match=message) as error:
        class_composition(**({"f": image_judge, "images": x, "labels": labels, "batch_size": 16} | change))
    assert "\n" not in str(error.value)
