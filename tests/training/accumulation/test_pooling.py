"""Pooled normalizers taken apart: their parts are the normalizer."""

import pytest
import torch
from support.accumulation import (
    EXACT,
    MICROBATCH,
    POOLED,
    N,
    accumulated,
    convolutional,
    distance,
    inputs,
    pooled_network,
    randomized,
    whole,
)

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS
from gannorm.training import accumulate_gradients
from gannorm.training.accumulation.pooling import taken_apart


@pytest.mark.parametrize("case", POOLED)
@pytest.mark.parametrize("microbatch", [4, 6])
def test_exact_is_one_large_batch_with_every_pooled_normalizer(case, microbatch):
    network, x = pooled_network(case), inputs(N, 1, 4, 4)  # 16 = 6 + 6 + 4
    expected, moved, _ = whole(network, x)
    found, found_buffers, _ = accumulated(network, x, microbatch=microbatch)
    assert distance(found, expected) < EXACT
    assert distance(found_buffers, moved) < EXACT


@pytest.mark.parametrize("case", POOLED)
def test_parts_of_a_normalizer_are_the_normalizer(case):
    layer, x = pooled_network(case)[1], inputs(N, 3, 4, 4)
    parts = taken_apart(layer)
    assert parts is not None
    output = parts.output(x, parts.statistics(x), parts.running)
    torch.testing.assert_close(output, layer(x), rtol=1e-12, atol=1e-12)  # float64, values of order one


@pytest.mark.parametrize("case", ["lp 1", "lp inf"])
def test_where_lp_has_no_derivative_the_choice_is_the_layers(case):
    layer, x = pooled_network(case)[1], inputs(N, 3, 4, 4).round()  # zeros, and maxima attained in several images
    assert (x == 0).any() and ((x.abs() == x.abs().amax((0, 2, 3), keepdim=True)).any((2, 3)).sum(0) > 1).any()
    slopes = []
    for run in (
        lambda x: layer(x).sin().mean().backward(),
        lambda x: accumulate_gradients(layer, lambda y: y.sin().mean((1, 2, 3)), x, MICROBATCH),
    ):
        leaf = x.clone().requires_grad_()
        run(leaf)
        slopes.append(leaf.grad)
    assert distance(slopes[1], slopes[0]) < EXACT


def test_every_normalizer_that_couples_is_pooled_or_refused():
    pooled = {name for name, _ in POOLED.values()}
    coupled = {name for name, entry in NORMALIZERS.items() if entry.forward_coupling or entry.gradient_coupling}
    assert coupled - pooled == {"noisy", "local"}  # noise of its own; virtual batches of no fixed size
    x = inputs(N, 1, 4, 4)
    with pytest.raises(UserError, match=r"exact accumulation needs .*'1', '4' couples"):
        accumulated(randomized(convolutional(NORMALIZERS["noisy"])), x)
