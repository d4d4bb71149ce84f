"""Companion variance and shift: closed forms of a mean, and no bias from few draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import companion_shift, companion_variance


def classes(n: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    real, fake = torch.randn(2, n, *shape, dtype=torch.float64, generator=generator)
    return real + 1, fake - 1


def first(x: Tensor) -> Tensor:
    return x[:, 0]


def others(x: Tensor) -> Tensor:
    return (x.sum() - x[:, 0]) / (len(x) - 1)


@pytest.mark.parametrize("draws", [2, 3, 16])
def test_few_draws_do_not_bias_it(draws: int) -> None:
    # f_i = x_i + √(B−1)·mean of the others, all N(0, 1): half of the variance is the others'. With three draws,
    # population variances gave .33, and companion sets that all images share .60.
    size, images = 5, 2000 // draws
    generator = torch.Generator().manual_seed(0)
    x, companions = torch.randn(2, images, 1, generator=generator, dtype=torch.float64)
    f = lambda x: x[:, 0] + (len(x) - 1) ** 0.5 * others(x)  # noqa: E731
    found = companion_variance(f, x, companions, draws=draws, batch_size=size, generator=generator)
    within = companions.var(correction=0).item()
    between = x.var().item()
    # each component to √(2/1000) = 4.5 % for two draws; between to √(2/125) = 13 % for 16: .25·.13·3
    assert found == pytest.approx(within / (within + between), abs=0.1)


def test_it_has_its_closed_form_for_a_mean() -> None:
    # f_i = x_i − mean(batch), companions ±1: Var_c f_i = (B−1)/B², Var_i E_c f_i = Var(x)·((B−1)/B)².
    size = 5
    x = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    companions = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    cvf = companion_variance(lambda x: x[:, 0] - x.mean(), x, companions, draws=1500, batch_size=size)
    within = (size - 1) / size**2
    between = x.var().item() * ((size - 1) / size) ** 2
    assert cvf == pytest.approx(within / (within + between), rel=0.15)  # 6000 draws: a variance to 2 %


def test_it_is_one_if_only_companions_matter_and_zero_if_they_do_not() -> None:
    real, fake = classes(32, 3)
    # The first image counts for nothing; between images no variance is left but that of their draws.
    found = companion_variance(lambda x: (x.sum() - x[0].sum()).expand(len(x)), real[:8], fake, draws=64)
    assert found == pytest.approx(1, abs=0.1)  # σ_i² is 0 to σ_c²/64 · √(2/7)
    assert companion_variance(first, real[:4], fake) == 0
    assert companion_shift(first, real[:4], real, fake) == 0


def test_every_image_has_companions_of_its_own() -> None:
    seen: list[tuple[float, ...]] = []
    x, companions = torch.arange(3.0)[:, None], torch.arange(100.0, 200)[:, None]
    companion_variance(lambda x: seen.append(tuple(x[:, 0].tolist())) or x[:, 0], x, companions, 4, batch_size=9)
    assert [batch[0] for batch in seen] == [0] * 4 + [1] * 4 + [2] * 4
    assert len({batch[1:] for batch in seen}) == 12


def test_companion_shift_has_its_closed_form() -> None:
    # f_i = x_i + mean of the others: companions all 1 against all 0 move it by 1; SD 1 of x, and 1/2 of the kinds.
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    ones, zeros = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    f = lambda x: x[:, 0] + others(x)  # noqa: E731
    assert companion_shift(f, x, ones, zeros, batch_size=8) == pytest.approx(1 / math.sqrt(1 + 0.25), abs=1e-12)
    assert companion_shift(f, x, zeros, ones, batch_size=8) == pytest.approx(-1 / math.sqrt(1.25), abs=1e-12)
    assert companion_shift(others, x, ones, zeros, batch_size=8) == pytest.approx(2, abs=1e-12)  # nothing else matters


def test_arguments_are_checked() -> None:
    real, fake = classes(8, 1)
    with pytest.raises(UserError, match="`draws` must be at least 2"):
        companion_variance(first, real, fake, draws=1)
    with pytest.raises(UserError, match="at least 1: got 0"):
        companion_shift(first, real, real, fake, draws=0)
    with pytest.raises(UserError, match="at least two samples: got 1"):
        companion_variance(first, real[:1], fake)
    with pytest.raises(UserError, match="`batch_size` must be at least 2"):
        companion_variance(first, real, fake, batch_size=1)
    with pytest.raises(UserError, match=r"got \(3,\) and \(4,\)"):
        companion_variance(nn.Linear(3, 1), torch.randn(8, 3), torch.randn(8, 4))
