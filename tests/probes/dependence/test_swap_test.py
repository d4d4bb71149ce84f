"""Bitwise independence, rounding, and semantic coupling are told apart."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from support.toys import VIOLATORS, around, group_norm, image_network
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import assert_batch_invariant, batch_invariance, swap_test
from gannorm.probes.batch import codes
from gannorm.probes.dependence.swap_test import SwapTest, plan_swaps


@pytest.mark.parametrize("n", [2, 3, 8, 21])
def test_swaps_change_any_sample_while_any_other_is_kept(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    covered = torch.zeros(n, n, dtype=torch.bool)
    plan = plan_swaps(codes(n, generator), generator)
    for kept, source in plan:
        assert source[kept].tolist() == kept.tolist()
        changed = torch.tensor([i for i in range(n) if i not in kept.tolist()])
        assert set(source[changed].tolist()) <= set(kept.tolist())
        covered[kept[:, None], changed] = True
    assert torch.equal(covered, ~torch.eye(n, dtype=torch.bool))
    assert len(plan) == 2 * (n - 1).bit_length()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batch_independent_networks_are_bitwise_equal(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = image_network(group_norm).to(dtype)
    test = swap_test(network, torch.randn(16, 3, 8, 8, dtype=dtype))
    assert test.bitwise_equal
    assert test.max_change == test.noise == 0
    assert test.verdict == "independent"


@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("name", [name for name, (_, forward, _) in VIOLATORS.items() if forward])
def test_forward_violators_are_coupled(name: str, n: int) -> None:
    torch.manual_seed(0)
    test = swap_test(around(VIOLATORS[name][0]()), torch.randn(n, 3))
    assert not test.bitwise_equal
    assert test.verdict == "coupled"


def test_rounding_at_another_position_is_a_floor_that_shrinks_and_not_a_coupling() -> None:
    # Wide sums: the order of summation depends on the position on many kernels; here it surely does.
    def f(x: Tensor) -> Tensor:
        x = x.exp()  # of 24-bit numbers themselves a float64 sum is exact
        return torch.cat([x[:4].sum(1), x[4:].flip(1).cumsum(1)[:, -1]])

    test = swap_test(f, torch.randn(8, 1000, generator=torch.Generator().manual_seed(0)))
    assert test.bitwise_equal
    assert test.floor_fp32 is not None and test.floor_fp64 is not None
    assert test.floor_fp32 > 1e-6
    assert test.floor_ratio == test.floor_fp32 / test.floor_fp64
    assert 2**24 < test.floor_ratio < 2**34  # about 2^29; maxima of 8 samples scatter


@pytest.mark.parametrize("n", [6, 8])
def test_every_batch_has_the_size_that_was_given(n: int) -> None:
    sizes = set()

    def f(x: Tensor) -> Tensor:
        sizes.add(len(x))
        return x.sum(1)

    swap_test(f, torch.randn(n, 3))
    assert sizes == {n}


def test_rounding_that_depends_on_the_content_of_others_is_called_rounding() -> None:
    def routed(x: Tensor) -> Tensor:  # as in a mixture of experts: how many samples are summed together varies
        return x.sum(1) if (x[:, 0] > 0).sum() % 2 else x.flip(1).cumsum(1)[:, -1]

    test = swap_test(routed, torch.randn(16, 1000, generator=torch.Generator().manual_seed(0)))
    assert not test.bitwise_equal
    assert test.verdict == "rounding"


def test_a_network_that_sums_in_another_order_at_each_call_is_called_rounding() -> None:
    passes = itertools.count()
    unordered = lambda x: x.sum(1) if next(passes) % 2 else x.flip(1).cumsum(1)[:, -1]  # noqa: E731
    test = swap_test(unordered, torch.randn(8, 1000, generator=torch.Generator().manual_seed(0)))
    assert 0 < test.max_change <= 2 * test.noise
    assert test.verdict == "rounding"


@pytest.mark.parametrize("coupled", [False, True])
def test_of_a_network_that_draws_its_own_noise_nothing_is_said(coupled: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    network = lambda x: x.sum(1) + 9 * torch.randn(len(x), generator=drawn) + coupled * x.mean()  # noqa: E731
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert swap_test(network, x).verdict == "unrepeatable"
    with pytest.raises(UserError, match="the outputs must be repeatable to be compared, but two calls"):
        assert_batch_invariant(network, x)
    result = batch_invariance(network, x, x + 1, batch_size=8)
    assert not result.forward_coupling
    assert result.verdict.kind == "undecided"


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_noise_that_comes_at_a_few_calls_only_is_neither_rounding_nor_coupling(share: float) -> None:
    """So is stochastic depth with a generator of its own; by chance alone one verdict of ten may not see it."""
    verdicts = []
    for seed in range(40):
        draw = random.Random(seed)
        noisy = lambda x: x.sum(1) + (draw.random() < share) * draw.random()  # noqa: E731, B023
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))
        verdicts.append(swap_test(noisy, x).verdict)
    told = [verdict for verdict in verdicts if verdict != "independent"]  # where it came at no call
    assert told and told.count("unrepeatable") >= 0.9 * len(told)


def test_a_semantic_change_does_not_shrink() -> None:
    torch.manual_seed(0)
    test = swap_test(image_network(nn.BatchNorm2d), torch.randn(16, 3, 8, 8))
    assert test.max_change_fp64 == pytest.approx(test.max_change, rel=1e-3)


def test_dynamic_quantization_per_tensor_is_semantic_coupling() -> None:
    def quantized(x: Tensor) -> Tensor:
        scale = x.abs().max() / 127
        return ((x / scale).round() * scale).sum(1)

    assert swap_test(quantized, torch.randn(8, 20)).verdict == "coupled"


def test_dropout_has_the_same_mask_on_both_sides() -> None:
    network = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    assert swap_test(network, torch.randn(8, 3)).bitwise_equal


def test_floors_are_none_where_the_network_fixes_its_precision() -> None:
    weight = torch.randn(3, 1)  # a constant that no module holds, so it stays in float32
    test = swap_test(lambda x: x @ weight, torch.randn(8, 3))
    assert test.floor_fp64 is test.floor_ratio is None
    assert test.floor_fp32 is not None


def test_inputs_are_checked() -> None:
    with pytest.raises(UserError, match="at least two samples: got 1"):
        swap_test(lambda x: x, torch.ones(1, 3))
    with pytest.raises(UserError, match="the samples must differ"):
        swap_test(lambda x: x, torch.ones(8, 3))
    with pytest.raises(UserError, match=r"`generator` draws and must be .* got 7"):
        swap_test(lambda x: x, torch.randn(8, 3), generator=7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shrinks_by,noise,verdict",
    [
        (2.0**15, 0.0, "rounding"),  # half-way from 1 to 2^29 is the border
        (2.0**13, 0.0, "coupled"),
        (2.0**15, 0.6, "rounding"),
        (1.0, 0.6, "unrepeatable"),  # two noisy calls differ by up to twice the noise
        (1.0, 0.4, "coupled"),
    ],
)
def test_the_borders_between_rounding_noise_and_coupling(shrinks_by: float, noise: float, verdict: str) -> None:
    assert SwapTest(False, 1.0, 1.0, 1.0 / shrinks_by, None, None, noise).verdict == verdict
    assert SwapTest(False, 1.0, None, None, None, None, noise).verdict == ("unrepeatable" if noise > 0.5 else "coupled")
    assert SwapTest(True, 0.0, 1.0, 1.0 / shrinks_by, None, None, noise).verdict == "independent"
