"""Singular values of known maps; a batch normalizer is measured by an image's own block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes import condition_number
from gannorm.probes.theory import product_edge

X = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def linear(depth: int, width: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)), nn.Linear(width, 1)).double()
    for layer in network[:depth]:
        nn.init.normal_(layer.weight, std=width**-0.5)
    return network


def test_a_linear_chain_has_the_singular_values_of_its_product() -> None:
    network = linear(3, 12)
    product = network[2].weight @ network[1].weight @ network[0].weight
    result = condition_number(network, X)
    assert result.layers == ("2",)  # the last hidden map
    assert result.singular_values[0] == pytest.approx(torch.linalg.svdvals(product).detach().numpy(), rel=1e-9)


def test_random_products_spread_with_depth_as_the_theory_says() -> None:
    x = torch.randn(2, 200, dtype=torch.float64)
    for depth in (1, 3):
        top = condition_number(linear(depth, 200), x, layers=[str(depth - 1)], images=1).singular_values[0][0] ** 2
        # The edge holds for infinite width; at width 200 the largest value fluctuates by about 200^(−2/3) = 3 %.
        assert top == pytest.approx(product_edge(depth), rel=0.15)


def test_depth_spreads_a_plain_chain_and_an_orthogonal_one_not() -> None:
    conditions = [condition_number(linear(depth, 12), X).condition[0] for depth in (1, 4, 12)]
    assert conditions == sorted(conditions) and conditions[2] > 10 * conditions[0]
    orthogonal = linear(12, 12)
    for layer in orthogonal[:12]:
        nn.init.orthogonal_(layer.weight)
    assert condition_number(orthogonal, X).condition[0] == pytest.approx(1, rel=1e-9)


def test_behind_a_batch_norm_it_is_the_images_own_block() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    result = condition_number(network, X, layers=["1"], images=1)
    full = torch.autograd.functional.jacobian(lambda x: network[:2](x), X)  # (6, 5, 6, 12)
    expected = torch.linalg.svdvals(full[0, :, 0, :])
    assert result.singular_values[0] == pytest.approx(expected.numpy(), rel=1e-9)


def test_lost_directions_make_it_infinite() -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 1))
    network[0].weight.data = torch.diag(torch.tensor([1.0, 0, 0, 0]))
    assert np.isinf(condition_number(network, torch.randn(3, 4), layers=["0"]).condition[0])


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(UserError, match="at least two layers with kernels"):
        condition_number(nn.Linear(4, 1), torch.randn(3, 4))
    with pytest.raises(UserError, match="needs a module: got function"):
        condition_number(lambda x: x, X)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"differentiable: got torch\.int64"):
        condition_number(nn.Embedding(5, 3), torch.ones(3, 4).long())
    with pytest.raises(UserError, match="'head'"):
        condition_number(linear(2, 12), X, layers=["head"])
    with pytest.raises(UserError, match="at most 4096 entries an image: got 5000"):
        condition_number(nn.Linear(5000, 1), torch.randn(2, 5000))
    with pytest.raises(UserError, match=r"`images` must be in 1…6: got 7"):
        condition_number(linear(2, 12), X, images=7)
