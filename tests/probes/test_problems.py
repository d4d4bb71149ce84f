"""The ready-made problems are the ones of the literature."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes import deep_linear_network, landscape, one_neuron_chain


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
