"""Networks of the kinds that public code holds: the right layers, the right remedy, at a bounded cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.third_party import CASES, Residual, mlp
from torch import Tensor, nn

from gannorm import BatchCouplingError, assert_batch_invariant, probes
from gannorm.errors import UserError
from gannorm.probes import coupled_layers, coupling_matrix, locate_coupling, swap_test
from gannorm.probes.batch import selecting
from gannorm.probes.dependence.coupling_matrix import rows_without_own

# What TorchScript and the old forms of spectral and weight norm say of themselves.
deprecated = pytest.mark.filterwarnings("ignore")
reentrant = pytest.mark.filterwarnings("ignore:None of the inputs")
PROBES = [swap_test, coupled_layers, coupling_matrix, probes.estimate_coupling, assert_batch_invariant]


@deprecated
@pytest.mark.parametrize("name", CASES)
def test_the_layers_that_couple_are_found_and_no_others(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    assert coupled_layers(case.f, case.x, **case.options) == case.layers


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


# -- outputs ----------------------------------------------------------------------------------------------------------


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


# -- remedies ---------------------------------------------------------------------------------------------------------


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


def test_a_slow_network_shows_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert_batch_invariant(mlp(nn.LayerNorm(8)), torch.randn(8, 3))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("gannorm.probes.progress.AFTER", 0.0)
    assert_batch_invariant(mlp(nn.LayerNorm(8)), torch.randn(8, 3))
    error = capsys.readouterr().err
    assert error.startswith("\rassert_batch_invariant: 1 of at most 40 forward passes, 0 s") and error.endswith("\n")


def test_a_failing_assertion_in_pytest_shows_its_message_and_none_of_our_code(tmp_path: Path) -> None:
    (tmp_path / "test_critic.py").write_text(
        "import torch\n"
        "from gannorm import assert_batch_invariant as direct\n"
        "def test_fixture(assert_batch_invariant):\n"
        "    assert_batch_invariant(torch.nn.BatchNorm1d(3), torch.randn(8, 3))\n"
        "def test_import():\n"
        "    direct(torch.nn.BatchNorm1d(3), torch.randn(8, 3))\n"
        "def test_refusal():\n"
        "    direct(torch.nn.BatchNorm1d(3), torch.ones(8, 3))\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "3 failed" in out
    assert "E       gannorm.probes.dependence.assertion.BatchCouplingError: the output for a sample must not" in out
    assert "E       gannorm.errors.UserError: the samples must differ" in out
    assert "assertion.py" not in out and "swap_test.py" not in out and "def _" not in out
