"""No weight normalizer, augmentation or penalty couples the images of a batch.

`tests/laws/test_formulas.py` measures the flags of every normalizer, `tests/losses/test_adversarial.py` of every loss.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gannorm.losses import PENALTIES
from gannorm.models.augmentation import AUGMENTATIONS
from gannorm.normalizers import WEIGHT_NORMALIZERS
from gannorm.seeds import stream

X = torch.randn(6, 3, 8, 8, generator=stream(0)).double()
OTHER = torch.cat([X[:1], 3 * X[1:].flip(0) + 1])  # the first image among others


def coupling(f: Callable[[Tensor], Tensor]) -> tuple[bool, bool]:
    """Whether the first value depends on the other images, and whether its gradient reaches them."""

    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return f(x)

    inner = X.clone().requires_grad_()
    value = seeded(inner)
    (slope,) = torch.autograd.grad(value[:1].sum(), inner, allow_unused=True)
    forward = not torch.allclose(value[0], seeded(OTHER.clone().requires_grad_())[0], rtol=1e-12, atol=1e-12)
    return forward, slope is not None and bool(slope[1:].any())


def test_what_couples_is_caught() -> None:
    assert coupling(lambda x: x - x.mean(0)) == (True, True)
    assert coupling(lambda x: x - x.mean(0).detach()) == (True, False)


@pytest.mark.parametrize("name", WEIGHT_NORMALIZERS)
def test_no_weight_normalizer_couples(name: str) -> None:
    layer = nn.Conv2d(3, 4, 3).double()
    made = WEIGHT_NORMALIZERS[name](layer)
    assert coupling((made or layer).eval()) == (False, False)  # spectral norm moves its vector in training


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_augmentation_couples(name: str) -> None:
    assert coupling(AUGMENTATIONS[name]) == (False, False)


@pytest.mark.parametrize("name", PENALTIES)
def test_no_penalty_couples_images_that_the_discriminator_judges_alone(name: str) -> None:
    def of(f: Callable[[Tensor], Tensor]) -> tuple[bool, bool]:
        values = [PENALTIES[name](f, x, x, stream(0))[0] for x in (X, OTHER)]
        return bool((values[0] - values[1]).abs() > 1e-9), False

    assert of(lambda x: x.flatten(1).square().sum(1)) == (False, False)
    if name != "none":  # beside a discriminator that couples, each penalty of an image takes in the others
        assert of(lambda x: (x - x.mean(0)).flatten(1).square().sum(1) * x.mean()) == (True, False)
