"""The ready-made problems are the ones of the literature, and products of random matrices have their density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes import (
    deep_linear_network,
    landscape,
    one_neuron_chain,
    product_density,
    product_edge,
    product_spectrum,
)


def test_the_deep_linear_network_is_a_product_of_its_weights() -> None:
    f, loss, (x, target) = deep_linear_network(depth=4, width=5, samples=50)
    product = torch.eye(5, dtype=torch.float64)
    for layer in f:
        product = layer.weight.detach() @ product
        assert layer.weight.abs().max() <= (6 / 10) ** 0.5  # Glorot: U(±√(6/(fan_in + fan_out)))
    exact = (product @ x.T - target.T).square().sum().item()
    assert loss(f, (x, target)).item() == pytest.approx(exact, rel=1e-12)
    assert torch.linalg.matrix_rank(torch.cat([x, target], 1)) == 5  # the target is a linear map of x


def test_its_normalizer_stands_behind_every_layer_but_the_last() -> None:
    f = deep_linear_network(depth=3, normalizer=nn.BatchNorm1d).network
    assert [type(m) for m in f] == [nn.Linear, nn.BatchNorm1d, nn.Linear, nn.BatchNorm1d, nn.Linear]


def test_a_step_along_the_chain_multiplies_all_updates() -> None:
    w, k, eps = 1.5, 6, 0.1
    problem = one_neuron_chain(depth=k, weight=w)
    result = landscape(*problem, learning_rate=eps, factors=[1])
    assert result.losses[0] == pytest.approx((w - eps * w ** (k - 1)) ** k, rel=1e-12)


def test_problems_repeat_and_leave_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, second = (deep_linear_network(depth=2) for _ in range(2))
    other = deep_linear_network(depth=2, generator=torch.Generator().manual_seed(1))
    one_neuron_chain(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.network[1].weight, second.network[1].weight)
    assert not torch.equal(first.network[1].weight, other.network[1].weight)


def test_an_empty_problem_is_refused() -> None:
    with pytest.raises(UserError, match="`depth` must be at least 1: got 0"):
        one_neuron_chain(0)
    with pytest.raises(UserError, match="`samples` must be at least 1"):
        deep_linear_network(samples=0)


FACTORS = [1, 2, 3, 5, 8]


def moment(factors: int, power: int, up_to: float = 1.0) -> float:
    """∫ x^power ρ(x) dx from 0 to up_to·edge, with x = edge·u^{M+1}, which removes the pole at 0."""
    edge, m = product_edge(factors), factors
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(500))
    top = up_to ** (1 / (m + 1))
    u = top * (nodes + 1) / 2
    x = edge * u ** (m + 1)
    integrand = product_density(x, m) * x**power * edge * (m + 1) * u**m
    return (integrand * weights).sum().item() * top / 2


@pytest.mark.parametrize("factors", FACTORS)
def test_integral_and_mean_are_one(factors: int) -> None:
    # 1e-6: the density ends in a square root, on which 500 nodes are that good
    assert moment(factors, 0) == pytest.approx(1, abs=1e-6)
    assert moment(factors, 1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("factors", [1, 3])
@pytest.mark.parametrize("power", [2, 3])
def test_moments_are_the_fuss_catalan_numbers(factors: int, power: int) -> None:
    fuss_catalan = math.comb((factors + 1) * power, power) / (factors * power + 1)
    assert moment(factors, power) == pytest.approx(fuss_catalan, rel=1e-6)


def test_one_factor_is_the_law_of_marchenko_and_pastur() -> None:
    x = torch.linspace(0.01, 3.99, 50, dtype=torch.float64)
    exact = (x * (4 - x)).sqrt() / (2 * math.pi * x)
    assert torch.allclose(product_density(x, 1), exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("factors", FACTORS)
def test_the_density_ends_at_the_edge(factors: int) -> None:
    edge = product_edge(factors)
    x = torch.tensor([-1.0, 0.0, 1e-200, edge * (1 - 1e-9), edge * (1 + 1e-9), math.inf], dtype=torch.float64)
    density = product_density(x, factors).tolist()
    assert density[0] == density[4] == density[5] == 0
    assert density[1] == math.inf
    assert 1 < density[2] < math.inf
    assert 0 < density[3] < 1e-3


@pytest.mark.parametrize("factors", [1, 3, 5])
def test_simulated_products_follow_the_density(factors: int) -> None:
    spectrum = product_spectrum(width=200, factors=factors, draws=4)
    assert spectrum.shape == (800,) and torch.equal(spectrum, spectrum.sort().values)
    for share in (0.01, 0.1, 0.5):
        measured = (spectrum < share * product_edge(factors)).double().mean().item()
        # 0.02: eigenvalues repel, so that counts scatter by a few of 800; finite width adds as much
        assert measured == pytest.approx(moment(factors, 0, up_to=share), abs=0.02)
    # the mean of X_1…X_M's squared singular values is 1 for every width; its scatter is of order √M/width
    assert spectrum.mean().item() == pytest.approx(1, abs=4 * math.sqrt(factors) / 200)


def test_another_number_of_factors_does_not_fit() -> None:
    spectrum = product_spectrum(width=200, factors=3, draws=4)
    below = (spectrum < 0.01 * product_edge(5)).double().mean().item()
    assert abs(below - moment(5, 0, up_to=0.01)) > 0.1


def test_products_repeat_with_their_generator() -> None:
    first, second = (product_spectrum(8, 2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, product_spectrum(8, 2))


def test_no_factor_is_refused() -> None:
    for call in (lambda: product_edge(0), lambda: product_density(torch.ones(1), 0), lambda: product_spectrum(4, 0)):
        with pytest.raises(UserError, match="at least 1 factor: got 0"):
            call()
    with pytest.raises(UserError, match="`width` and `draws` must be at least 1"):
        product_spectrum(0, 1)
