"""The leak ratio of functions of a batch whose coefficients are known, and its errors against their scatter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import leak_ratio


def classes(n: int, *shape: int, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    real, fake = torch.randn(2, n, *shape, dtype=torch.float64, generator=generator)
    return real + shift, fake - shift


def labels(n: int) -> tuple[Tensor, Tensor]:
    return torch.ones(n, 1, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)


def first(x: Tensor) -> Tensor:
    return x[:, 0]


def others(x: Tensor) -> Tensor:
    """The mean of the other images, for each."""
    return (x.sum() - x[:, 0]) / (len(x) - 1)


@pytest.mark.parametrize("context", [0.0, 0.5, -3.0])
def test_it_recovers_the_coefficients_that_made_the_logits(context: float) -> None:
    leak = leak_ratio(lambda x: 7 + 2 * x[:, 0] + context * others(x), *labels(64), batch_size=16)
    assert leak.own.value == pytest.approx(2, abs=1e-10)
    assert leak.context.value == pytest.approx(context, abs=1e-10)
    assert leak.ratio == pytest.approx(abs(context) / 2, abs=1e-10)


def test_both_classes_have_a_slope_of_their_own() -> None:
    # Slope 5 for real and −1 for fake images; at p = 1/2 the class itself is worth 2.
    def f(x: Tensor) -> Tensor:
        return 2 * x[:, 0] + (others(x) - 0.5) * torch.where(x[:, 0] > 0, 5.0, -1.0)

    leak = leak_ratio(f, *labels(64), batch_size=16)
    found = [leak.own.value, leak.context.value, leak.context_real.value, leak.context_fake.value]
    assert found == pytest.approx([2, 2, 5, -1], abs=1e-10)


def test_no_context_effect_is_zero_up_to_rounding_and_not_merely_on_average() -> None:
    # The logits vary from image to image; a random design would leave a coefficient of the size of its standard error.
    leak = leak_ratio(first, *classes(64, 1, shift=0.1), batch_size=16)
    assert leak.ratio < 1e-12


def test_standard_errors_are_those_of_the_images_and_not_of_the_batches() -> None:
    # f = x₀ of n images a class: the error of the difference of two means is √(2/n). For n = 256 that is .088, and
    # clusters by batch, which share their images, reported .0375.
    errors, values, covered = [], [], 0
    repetitions = 120
    for seed in range(repetitions):
        generator = torch.Generator().manual_seed(seed)
        real, fake = (torch.randn(64, 1, generator=generator) + m for m in (1, -1))
        own = leak_ratio(first, real, fake, batch_size=16, generator=generator).own
        assert own.standard_error is not None and own.low is not None and own.high is not None
        errors.append(own.standard_error)
        values.append(own.value)
        covered += own.low <= 2 <= own.high
    true = (2 / 64) ** 0.5
    assert np.std(values) == pytest.approx(true, rel=0.2)  # 120 draws: an SD to 6.5 %, three of these
    # A standard error from 4 blocks has 3 degrees of freedom: its root mean square is right to 4 %.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(true, rel=0.13)
    assert covered / repetitions == pytest.approx(0.95, abs=0.06)  # three binomial errors


def test_the_context_slope_of_a_centred_network_is_covered() -> None:
    # f = x − mean of the batch: context −2·(N − 1)/N for a distance of 2 between the class means.
    covered, repetitions = 0, 120
    for seed in range(repetitions):
        generator = torch.Generator().manual_seed(seed)
        real, fake = (torch.randn(64, 1, generator=generator) + m for m in (1, -1))
        context = leak_ratio(lambda x: x[:, 0] - x.mean(), real, fake, 16, generator=generator).context
        assert context.low is not None and context.high is not None
        covered += context.low <= -2 * 15 / 16 <= context.high
    assert covered / repetitions == pytest.approx(0.95, abs=0.06)  # three binomial errors


def test_every_image_meets_every_share_equally_often() -> None:
    counts = torch.zeros(3, 64)
    shares: list[float] = []

    def f(x: Tensor) -> Tensor:
        assert len(set(x[:, 0].tolist())) == 16  # no image twice in a batch
        share = (x < 32).double().mean().item()
        shares.append(share)
        counts[round(share * 4) - 1].index_add_(0, x[:, 0].long(), torch.ones(len(x)))
        return x[:, 0]

    leak_ratio(f, torch.arange(32.0)[:, None], torch.arange(32.0, 64)[:, None], batch_size=16)
    assert sorted(shares) == [0.25] * 8 + [0.5] * 8 + [0.75] * 8
    assert counts[:, :32].T.tolist() == [[1, 2, 3]] * 32
    assert counts[:, 32:].T.tolist() == [[3, 2, 1]] * 32


def test_constant_logits_have_no_leak_and_pure_context_an_infinite_one() -> None:
    for value in (1.0, 0.1, 1000.1):  # the last two are not exact, and neither is their mean
        constant = torch.full((16,), value, dtype=torch.float64)
        assert leak_ratio(lambda x, y=constant: y, *labels(16), batch_size=16).ratio == 0
    assert leak_ratio(others, *labels(16), batch_size=16).ratio > 1e10


def test_with_fewer_than_four_blocks_there_is_no_error() -> None:
    leak = leak_ratio(first, *classes(48, 1), batch_size=16)
    assert leak.images == 48 and leak.own.standard_error is None and leak.own.low is None


def test_the_output_and_the_dimension_of_the_batch_are_chosen() -> None:
    real, fake = classes(16, 3)
    wanted = leak_ratio(first, real, fake, batch_size=16)
    assert leak_ratio(lambda x: {"logit": x[0], "features": x}, real.T, fake.T, 16, "logit", batch_dim=1) == wanted


def test_bad_input_is_refused_before_any_run() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the network must not run")

    real, fake = classes(32, 1)
    with pytest.raises(UserError, match="`batch_size` must be a multiple of 4, for quarters: got 10; try 8"):
        leak_ratio(Never(), real, fake, batch_size=10)
    with pytest.raises(UserError, match=r"got \(3,\) and \(3, 2\)"):
        leak_ratio(Never(), torch.randn(8, 3), torch.randn(8, 3, 2), batch_size=4)
