"""Networks of the kinds that public code holds: the right layers, the right remedy, at a bounded cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.third_party import CASES, Residual, mlp
from torch import Tensor, nn

from gannorm import BatchCouplingError, assert_batch_invariant
from gannorm.errors import UserError
from gannorm.probes import coupled_layers, coupling_matrix, locate_coupling, swap_test

# What TorchScript and the old forms of spectral and weight norm say of themselves.
deprecated = pytest.mark.filterwarnings("ignore")
reentrant = pytest.mark.filterwarnings("ignore:None of the inputs")


@deprecated
@pytest.mark.parametrize("name", CASES)
def test_the_layers_that_couple_are_found_and_no_others(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    assert coupled_layers(case.f, case.x, **case.options) == case.layers


# -- outputs ----------------------------------------------------------------------------------------------------------


# -- remedies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()), nn.LazyConv2d(3, 1)])
def test_a_lazy_module_must_run_once_first(network: nn.Module) -> None:
    x = torch.randn(4, 3, 2, 2) if isinstance(network, nn.LazyConv2d) else torch.randn(4, 3)
    with pytest.raises(UserError, match="run the network once first"):
        assert_batch_invariant(network, x)
    network(x)
    coupled_layers(network, x)


def test_a_missing_input_is_named_and_a_list_is_spread_as_a_tuple_is() -> None:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.embedding = nn.Linear(3, 1), nn.Embedding(5, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.linear(x) + self.embedding(y)

    x, y = torch.randn(8, 3), torch.arange(8) % 5
    with pytest.raises(UserError, match=r"takes \(x, y\): got one input"):
        swap_test(Labelled(), x)
    for inputs in ([x, y], (x, y), {"x": x, "y": y}):
        assert_batch_invariant(Labelled(), inputs)


@reentrant
def test_gradients_that_cannot_be_tested_are_said_to_be_untested() -> None:
    ids = torch.arange(24).view(8, 3) % 5
    table = torch.randn(5, 4)
    with pytest.warns(UserWarning, match="gradients were not: the input must hold floating-point"):
        assert_batch_invariant(lambda ids: table[ids].sum((1, 2)), ids)
    network, x = mlp(nn.LayerNorm(8)), torch.randn(8, 3)
    with pytest.warns(UserWarning, match="gradients were not: reentrant checkpointing refuses it; pass use_reentrant"):
        assert_batch_invariant(lambda x: torch.utils.checkpoint.checkpoint(network, x, use_reentrant=True), x)
    assert_batch_invariant(lambda x: x.argmax(1).float(), x)  # there is no gradient to be coupled


@pytest.mark.parametrize("fold", [False, True])
def test_embedded_tokens_are_differentiated_by_wherever_the_batch_is(fold: bool) -> None:
    class Folded(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.embedding, self.norm = nn.Embedding(9, 6), norm

        def forward(self, ids: Tensor) -> Tensor:
            n = len(ids)
            h = self.embedding(ids.flatten()).view(n, -1, 6) if fold else self.embedding(ids)
            return self.norm(h.mean(1)).square().sum(1)

    ids = torch.randint(9, (5, 4), generator=torch.Generator().manual_seed(0))
    coupled = coupling_matrix(Folded(nn.BatchNorm1d(6)), ids)
    free = coupling_matrix(Folded(nn.LayerNorm(6)), ids)
    assert (coupled - coupled.diagonal().diag()).max() > 0
    assert (free - free.diagonal().diag()).max() == 0 < free.diagonal().min()


def test_random_and_stateful_code_of_the_function_itself_is_said() -> None:
    drawn, calls = torch.Generator().manual_seed(0), []
    network, x = mlp(), torch.randn(8, 3)
    for f in (
        lambda x: network(x) + torch.randn(8, 1, generator=drawn),
        lambda x: network(x) * (calls.append(1) or len(calls)),
    ):
        with pytest.raises(UserError, match="the function's own code, outside any module"):
            coupled_layers(f, x)
        with pytest.raises(UserError, match="the function's own code, outside any module"):
            assert_batch_invariant(f, x)


def test_an_iterator_cannot_be_put_back_and_is_refused_before_it_runs() -> None:
    class Cycling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gains, self.calls = nn.Linear(3, 1), iter([1.0, 2.0]), 0

        def forward(self, x: Tensor) -> Tensor:
            return next(self.gains) * self.linear(x)

    network = Cycling()
    with pytest.raises(UserError, match=r"must keep no iterator.*keep a list and an index"):
        assert_batch_invariant(network, torch.randn(8, 3))
    assert list(network.gains) == [1.0, 2.0]


def test_a_wrapper_for_several_processes_is_left_out(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        x = torch.randn(8, 3)
        for network, layers in ((mlp(), ["module.1"]), (mlp(nn.LayerNorm(8)), [])):
            wrapped = nn.parallel.DistributedDataParallel(network)
            assert coupled_layers(wrapped, x) == layers
            assert "forward" not in vars(wrapped)
            wrapped(x).sum().backward()  # as if nothing had been
        with pytest.raises(BatchCouplingError):
            assert_batch_invariant(nn.parallel.DistributedDataParallel(mlp()), x)
        holder = {"get": None}
        holder["get"] = nn.parallel.DistributedDataParallel(mlp())
        assert coupled_layers(lambda x: holder["get"](x), x) == ["holder.get.module.1"]
    finally:
        torch.distributed.destroy_process_group()


# -- what is allowed, and what hides ----------------------------------------------------------------------------------


# -- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 8, 64, 300])
@pytest.mark.parametrize("norm", ["BatchNorm1d", "LayerNorm", "hidden"])
def test_the_assertion_costs_at_most_40_passes_and_locating_60(norm: str, n: int) -> None:
    passes = []
    network: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
    if norm == "LayerNorm":
        network = mlp(nn.LayerNorm(8))
    elif norm == "hidden":
        network = Residual("branch")
    x = torch.randn(n, 3)

    def f(x: Tensor) -> Tensor:
        passes.append(1)
        return network(x)

    try:
        assert_batch_invariant(f, x)
        assert norm == "LayerNorm"
    except BatchCouplingError as error:
        assert norm != "LayerNorm" and error.layers
    assert 0 < len(passes) <= 40
    passes.clear()
    layers = locate_coupling(f, x)
    assert 0 < len(passes) <= 60 + len(layers)
