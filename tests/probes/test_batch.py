"""Batches and outputs of any structure: taken apart, chosen from, and refused with a remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.third_party import CASES
from torch import nn

from gannorm import assert_batch_invariant, probes
from gannorm.errors import UserError
from gannorm.probes import coupled_layers, coupling_matrix, swap_test
from gannorm.probes.batch import selecting

PROBES = [swap_test, coupled_layers, coupling_matrix, probes.estimate_coupling, assert_batch_invariant]


@pytest.mark.parametrize("probe", PROBES)
def test_none_of_several_outputs_is_guessed(probe: Any) -> None:
    network = CASES["nested_lists"]().f
    with pytest.raises(UserError, match=r"2 were returned: .*\(1, 1\): float32 \(8, 1\).*`output=`"):
        probe(network, torch.randn(8, 3))


def test_a_wrong_output_lists_what_there_is() -> None:
    network = CASES["a_dictionary"]().f
    with pytest.raises(UserError, match=r"got 'logits'; there are 'h': float32 \(8, 8\), 'out': float32 \(8, 1\)"):
        swap_test(network, torch.randn(8, 3), output="logits")


def test_a_single_tensor_is_taken_out_of_any_structure() -> None:
    x = torch.randn(8, 3)
    for wrap in (lambda y: [y], lambda y: {"a": (y, None)}, lambda y: ([[y]], 3), lambda y: (y, y)):
        assert torch.equal(selecting(lambda x, wrap=wrap: wrap(x.sum(1)))(x), x.sum(1))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("k,features", [(10, 6), (2, 3)])
def test_packs_are_recognized(probe: Any, k: int, features: int) -> None:
    network = nn.Sequential(nn.Unflatten(0, (-1, k)), nn.Flatten(), nn.Linear(k * features, 1))
    with pytest.raises(UserError, match=rf"if {k} samples share a logit.*x.unflatten\(0, \(-1, {k}\)\)"):
        probe(network, torch.randn(4 * k, features))
    by_packs = lambda packs: network(packs.flatten(0, 1))  # noqa: E731
    assert_batch_invariant(by_packs, torch.randn(4, k, features))


def test_flattened_maps_a_forgotten_dimension_and_a_mean_have_their_remedies() -> None:
    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(UserError, match=r"each sample has 64 entries, pass output=lambda out: out.unflatten\(0, \(4,"):
        swap_test(lambda x: x.mean(1).flatten(), x)
    swap_test(lambda x: x.mean(1).flatten(), x, output=lambda out: out.unflatten(0, (4, -1)))
    with pytest.raises(UserError, match=r"its 7 rows are the samples, pass the dimension .* as batch_dim"):
        swap_test(lambda x: x.sum((0, 2)), torch.randn(5, 7, 2))
    with pytest.raises(UserError, match="remove the mean"):
        swap_test(lambda x: x.mean(), x)
