"""SGD noise against every mini-batch that can be drawn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import sgd_noise
from gannorm.probes.optimization.sgd_noise import SGDNoise

N = 6


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 3, dtype=torch.float64, generator=generator), torch.arange(N) % 3


def classify(f: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(f(batch[0]), batch[1])


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 3).double()


def gradient(f: nn.Module, chosen: list[int]) -> Tensor:
    x, y = samples()
    grads = torch.autograd.grad(classify(f, (x[chosen], y[chosen])), list(f.parameters()))
    return torch.cat([g.flatten() for g in grads])


def mean_squared_error(f: nn.Module, draws: list[list[int]]) -> float:
    full = gradient(f, list(range(N)))
    return sum((gradient(f, d) - full).square().sum().item() for d in draws) / len(draws)


@pytest.mark.parametrize("b", [1, 2, 3, 5, 6])
def test_without_replacement_it_is_the_mean_over_all_subsets(b: int) -> None:
    f = linear()
    draws = [list(d) for d in itertools.combinations(range(N), b)]
    noise = sgd_noise(f, classify, samples(), batch_size=1)
    # 1e-12: the same numbers in float64; abs for b = N, where both are 0
    assert noise.expected(b) == pytest.approx(mean_squared_error(f, draws), rel=1e-12, abs=1e-28)


@pytest.mark.parametrize("b", [1, 2, 3])
def test_with_replacement_it_is_the_mean_over_all_tuples(b: int) -> None:
    f = linear()
    draws = [list(d) for d in itertools.product(range(N), repeat=b)]
    noise = sgd_noise(f, classify, samples(), batch_size=1)
    exact = 0.3**2 * mean_squared_error(f, draws)
    assert noise.expected(b, learning_rate=0.3, replacement=True) == pytest.approx(exact, rel=1e-12)
    # a printed form with 1/b² is wrong for this C
    assert b == 1 or noise.variance / b**2 != pytest.approx(mean_squared_error(f, draws), rel=0.1)


@pytest.mark.parametrize("b", [2, 3])
def test_a_partition_estimates_the_same_without_bias(b: int) -> None:
    f, generator = linear(), torch.Generator().manual_seed(0)
    exact = sgd_noise(f, classify, samples(), batch_size=1).variance
    draws = 60
    estimates = torch.tensor([sgd_noise(f, classify, samples(), b, generator=generator).variance for _ in range(draws)])
    # three standard errors of the mean over independent partitions
    assert abs(estimates.mean().item() - exact) < 3 * estimates.std().item() / draws**0.5


def test_batches_of_independent_samples_have_no_bias() -> None:
    noise = sgd_noise(linear(), classify, samples(), batch_size=2)
    assert noise.batch_bias < 1e-15 < noise.gradient_norm  # rounding of float64


def test_a_batch_norm_is_another_model_in_a_small_batch() -> None:
    f = nn.Sequential(nn.BatchNorm1d(3), linear()).double()
    noise = sgd_noise(f, classify, samples(), batch_size=2)
    assert noise.batch_bias > 0.1 * noise.gradient_norm


@pytest.mark.parametrize("b", [0, 4, 6])
def test_a_batch_size_that_does_not_divide_is_refused(b: int) -> None:
    with pytest.raises(UserError, match=f"must divide the 6 samples into two or more: got {b}"):
        sgd_noise(linear(), classify, samples(), b)


def test_the_batch_size_that_a_refusal_names_is_taken() -> None:
    network, x = nn.Linear(3, 1), torch.randn(9, 3)
    with pytest.raises(UserError, match=r"divide the 9 samples into two or more: got 2; try 3\.$"):
        sgd_noise(network, lambda f, x: f(x).square().mean(), x, 2)
    assert sgd_noise(network, lambda f, x: f(x).square().mean(), x, 3).samples == 9


@pytest.mark.parametrize("b", [0, 7])
def test_an_expected_batch_size_beyond_the_samples_is_refused(b: int) -> None:
    with pytest.raises(UserError, match="must be in 1…6"):
        sgd_noise(linear(), classify, samples(), 1).expected(b)


@pytest.mark.parametrize("signal", [0.5, 2.0])
def test_noise_to_signal_is_that_of_the_population(signal: float) -> None:
    # The loss θ·x̄ has the gradient x̄, of x ~ N(signal, 1): noise to signal is (1/N)/signal². Over the batch's own
    # squared gradient, which holds the noise, the ratio r came out as r/(1 + r): .2 of .25, .8 of 4, 1.00 of infinity.
    n, noise, power = 16, [], []
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(1, 1, bias=False).double()
    for _ in range(200):
        x = torch.randn(n, 1, dtype=torch.float64, generator=generator) + signal
        found = sgd_noise(net, lambda f, x: f(x).mean(), x, batch_size=1)
        part = found.variance / (n - 1)
        noise.append(part)
        power.append(found.gradient_norm**2 - part)
        expected = part / power[-1] if power[-1] > 0 else math.inf
        assert found.noise_to_signal == pytest.approx(expected, rel=1e-12)
    mean_noise, mean_power = torch.tensor(noise).mean().item(), torch.tensor(power).mean().item()
    assert mean_noise == pytest.approx(1 / n, rel=0.08)  # (N−1) degrees in each of 200: √(2/3000) = 2.6 %
    assert mean_power == pytest.approx(signal**2, abs=3 * 2 * signal / (n * 200) ** 0.5 + 0.01)  # 3 SE of a square
    assert mean_noise / mean_power == pytest.approx(1 / n / signal**2, rel=0.3)


def test_where_no_signal_is_seen_the_ratio_is_unbounded() -> None:
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    found = sgd_noise(nn.Linear(1, 1, bias=False), lambda f, x: f(x).mean(), x, batch_size=1)
    assert found.gradient_norm == 0 and found.noise_to_signal == math.inf
    assert math.isnan(SGDNoise(0.0, 0.0, 0.0, samples=4, batch_size=1).noise_to_signal)
