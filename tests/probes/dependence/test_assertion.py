"""The assertion fails on coupled networks only, names their layers, and allows what it is asked to allow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.third_party import CASES, Residual, mlp
from torch import Tensor, nn

from gannorm import BatchCouplingError, assert_batch_invariant
from gannorm.errors import UserError
from gannorm.probes import coupling_matrix
from gannorm.probes.dependence.coupling_matrix import rows_without_own

# What TorchScript and the old forms of spectral and weight norm say of themselves.
deprecated = pytest.mark.filterwarnings("ignore")


@deprecated
@pytest.mark.parametrize("name", CASES)
def test_the_assertion_fails_on_these_only(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    if case.layers:
        with pytest.raises(BatchCouplingError) as error:
            assert_batch_invariant(case.f, case.x, **case.options)
        assert [layer.name for layer in error.value.layers] == case.layers
    else:
        assert_batch_invariant(case.f, case.x, **case.options)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + x.mean(0)


@pytest.mark.parametrize("allow", [(nn.BatchNorm1d,), ("1",), ["1"], (nn.modules.batchnorm._BatchNorm,)])
def test_allowed_layers_may_couple_and_nothing_else(allow: Any) -> None:
    x = torch.randn(16, 3)
    assert_batch_invariant(mlp(), x, allow=allow)
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), Mean(), nn.Linear(8, 1))
    with pytest.raises(BatchCouplingError, match=r"the first coupled layer is '2' \(Mean\)") as error:
        assert_batch_invariant(network, x, allow=allow)
    assert [layer.name for layer in error.value.layers] == ["2"]


def test_what_is_inside_an_allowed_layer_is_allowed_and_its_surroundings_are_not() -> None:
    network, x = nn.Sequential(nn.Linear(3, 8), Block(), nn.Linear(8, 1)), torch.randn(16, 3)
    assert_batch_invariant(network, x, allow=(Block,))
    assert_batch_invariant(network, x, allow=("1",))
    with pytest.raises(BatchCouplingError, match=r"'1' \(Block\)"):
        assert_batch_invariant(network, x, allow=("1.norm",))
    with pytest.raises(UserError, match=r"`allow` must name layers: got '1.nrm'"):
        assert_batch_invariant(network, x, allow=("1.nrm",))
    with pytest.raises(UserError, match="must hold module classes or qualified names: got 1"):
        assert_batch_invariant(network, x, allow=(1,))


def test_an_allowed_layer_does_not_hide_one_behind_a_zero() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Residual("branch"))
    with pytest.raises(BatchCouplingError, match=r"'2\.norm'"):
        assert_batch_invariant(network, torch.randn(16, 3), allow=("1",))
    assert_batch_invariant(network, torch.randn(16, 3), allow=(nn.BatchNorm1d,))


@pytest.mark.parametrize("zero", ["branch", "gamma", "gain", "head"])
def test_a_layer_behind_a_zero_is_named_and_the_message_says_so(zero: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(BatchCouplingError, match=r"multiplied by zero.*'norm' \(BatchNorm1d\)"):
        assert_batch_invariant(Residual(zero), torch.randn(8, 3))
    assert_batch_invariant(Residual(zero).eval(), torch.randn(8, 3))


def test_logits_without_their_own_sample_are_named() -> None:
    class Tiled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            spread = x.view(4, 2, -1).std(1).mean(1, keepdim=True)  # of groups 01 23 45 67
            return spread.repeat(2, 1)  # tiled as if the groups were 04 15 26 37

    x = torch.randn(8, 3)
    rows = rows_without_own(coupling_matrix(Tiled(), x))
    assert rows == [1, 2, 3, 4, 5, 6]
    with pytest.raises(BatchCouplingError, match="The logits of samples 1, 2, 3, 4, 5, 6 do not depend on their own"):
        assert_batch_invariant(Tiled(), x)
    assert rows_without_own(coupling_matrix(mlp(), x)) == rows_without_own(torch.zeros(3, 3)) == []
