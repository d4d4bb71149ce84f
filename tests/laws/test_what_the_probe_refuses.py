"""What the whole probe cannot measure: it refuses bad input before any work, and says what it did not test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.toys import group_norm, image_network
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import batch_invariance
from gannorm.verdict import Evidence, decide


def images(n: int = 64, shift: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, n, 3, 8, 8, generator=generator)
    return real + shift, fake - shift


def points(n: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = spread * torch.randn(2, n, 1, generator=generator)
    return real + 1, fake - 1


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (lambda x: x.mean((1, 2, 3)), {"batch_size": 128}, "fill a batch of 128 each: got 64 and 64"),
        (lambda x: x.mean((1, 2, 3)), {"batch_dim": -5}, "got -5 for"),
        (lambda x: x.mean((1, 2, 3)), {"batch_size": 6}, "multiple of 4 and at least 8: got 6"),
        (lambda x: x.mean((1, 2, 3)), {"cost": "quik"}, "`cost` must be one of full, quick: got 'quik'"),
        (lambda x: x.mean(), {}, "one entry per sample"),
        (lambda x: x.mean((1, 2, 3)) / 0, {}, "outputs must be finite"),
    ],
)
def test_bad_input_is_refused_before_any_work(f: object, options: dict[str, int], message: str) -> None:
    calls = []
    with pytest.raises(UserError, match=message):
        batch_invariance(lambda x: calls.append(1) or f(x), *images(), **options)  # type: ignore[operator]
    assert len(calls) <= 1


@pytest.mark.parametrize("cost", ["quick", "full"])
@pytest.mark.parametrize(
    ("f", "dtype", "kind"),
    [
        (lambda x: x.mean((1, 2, 3)).detach(), torch.float32, "judges images"),
        (lambda x: torch.zeros(len(x)), torch.float32, "undecided"),  # a constant
        (lambda x: (x.mean((1, 2, 3)) > 9).float(), torch.float32, "undecided"),  # 0 or 1
        (lambda x: x.float().mean((1, 2, 3)), torch.uint8, "judges images"),
    ],
)
def test_where_no_gradient_can_be_tested_the_logits_are_and_the_verdict_says_so(
    f: Callable[[Tensor], Tensor], dtype: torch.dtype, kind: str, cost: str
) -> None:
    real, fake = images()
    with pytest.warns(UserWarning, match="logits were tested, and gradients were not"):
        result = batch_invariance(f, (real + 9).to(dtype), (fake + 9).to(dtype), 16, cost=cost, threshold=None)
    assert result.verdict.kind == kind and result.gradient_change is None and "not tested" in repr(result)
    assert kind == "undecided" or "gradients could not be tested" in str(result.verdict)
    evidence = Evidence.from_metrics(result.metrics())
    assert evidence is not None and decide(evidence) == result.verdict


def test_the_remedy_for_few_images_works() -> None:
    real, fake = images(10)
    f = image_network(group_norm)
    with pytest.raises(UserError, match="got 10 and 10 images; pass more, or batch_size=8"):
        batch_invariance(f, real, fake)
    assert batch_invariance(f, real, fake, batch_size=8).batch_size == 8


@pytest.mark.parametrize("size", [4, 9, 30])
def test_quick_takes_any_batch_size(size: int) -> None:
    sizes = set()
    torch.manual_seed(0)
    network = image_network(nn.BatchNorm2d)
    network.register_forward_pre_hook(lambda module, inputs: sizes.add(len(inputs[0])))
    assert batch_invariance(network, *images(), batch_size=size, cost="quick").batch_size == size
    assert sizes == {size}


def test_real_and_fake_of_unequal_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"got \(3,\) and \(4,\) without the batch; pass both"):
        batch_invariance(lambda x: x.sum(1), torch.randn(64, 3), torch.randn(64, 4))
