"""The layers that mix the batch are named, all of them and only them; the assertion passes on what they say."""

from __future__ import annotations

import pytest
import torch
from support.toys import VIOLATORS, GradientCentred, around, group_norm, image_network
from torch import Tensor, nn

from gannorm.probes import BatchCouplingError, assert_batch_invariant, coupled_layers, locate_coupling


@pytest.mark.parametrize("n", [2, 8, 14])
@pytest.mark.parametrize("name", VIOLATORS)
def test_violators_are_named_with_their_direction(name: str, n: int) -> None:
    torch.manual_seed(0)
    layer, forward, gradient = VIOLATORS[name]
    (found,) = locate_coupling(around(layer()), torch.randn(n, 3))
    assert found.name == ("2.1.attention" if name == "attention over the batch" else "2.1")
    assert (found.forward > 0, found.gradient > 0) == (forward, gradient)


@pytest.mark.parametrize("name", VIOLATORS)
def test_the_assertion_raises_on_every_violator(name: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(BatchCouplingError, match=r"the first coupled layer is '2\.1") as error:
        assert_batch_invariant(around(VIOLATORS[name][0]()), torch.randn(8, 3))
    assert len(error.value.layers) == 1


def test_all_coupled_layers_are_found_in_forward_order() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), around_twice(), nn.BatchNorm1d(8))
    assert coupled_layers(network, torch.randn(16, 3)) == ["1", "2.late", "2.early", "3"]


def around_twice() -> nn.Module:
    class Backwards(nn.Module):
        """Registers its layers in another order than it calls them."""

        def __init__(self) -> None:
            super().__init__()
            self.early = nn.BatchNorm1d(8)
            self.late = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.early(self.late(x).relu())

    return Backwards()


def test_code_between_layers_is_blamed_on_the_module_that_holds_it() -> None:
    class Block(nn.Module):
        def __init__(self, centre: bool, at_the_end: bool) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.centre, self.at_the_end = centre, at_the_end

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            if self.centre:
                h = h - h.mean(0)
            return self.second(h) - (x.mean(0) if self.at_the_end else 0)

    for centre, at_the_end in ((True, False), (False, True), (True, True)):
        network = nn.Sequential(nn.Linear(3, 8), Block(centre, at_the_end), nn.ReLU())
        assert coupled_layers(network, torch.randn(9, 3)) == ["1"]
    assert coupled_layers(nn.Sequential(nn.Linear(3, 8), Block(False, False)), torch.randn(9, 3)) == []


def test_gradient_coupling_between_layers_is_blamed_too() -> None:
    linear = nn.Linear(3, 3)
    assert coupled_layers(lambda x: GradientCentred.apply(linear(x)), torch.randn(9, 3)) == [""]


def test_own_code_of_the_network_has_the_empty_name() -> None:
    network = nn.Linear(3, 1)
    (found,) = locate_coupling(lambda x: network(x - x.mean(0)), torch.randn(8, 3))
    assert (found.name, found.kind) == ("", "function")
    (found,) = locate_coupling(nn.BatchNorm1d(3), torch.randn(8, 3))
    assert (found.name, found.kind) == ("", "BatchNorm1d")


def test_batch_norm_on_a_folded_batch_is_found() -> None:
    class Folded(nn.Module):
        def __init__(self, time_major: bool) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.time_major = time_major

        def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
            if self.time_major:
                return self.norm(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, len(x))).transpose(0, 1)
            return self.norm(x.flatten(0, 1)).unflatten(0, (len(x), -1))

    for time_major in (False, True):
        folded = Folded(time_major)
        assert coupled_layers(folded, torch.randn(6, 5, 4)) == ["norm"]
        assert coupled_layers(folded.eval(), torch.randn(6, 5, 4)) == []


def test_one_batch_norm_left_in_training_mode_is_found() -> None:
    network = image_network(nn.BatchNorm2d).eval()
    assert coupled_layers(network, torch.randn(8, 3, 8, 8)) == []
    network[4].train()
    assert coupled_layers(network, torch.randn(8, 3, 8, 8)) == ["4"]


@pytest.mark.parametrize("n", [2, 8, 16])
def test_innocents_have_no_coupled_layer(n: int) -> None:
    # n = 8 and 16 are also numbers of channels: weights with that many rows must not be read as batches.
    network = nn.Sequential(image_network(group_norm), nn.Dropout(0.5))
    nn.utils.parametrizations.spectral_norm(network[0][0])
    nn.utils.parametrizations.weight_norm(network[0][3])
    assert coupled_layers(network, torch.randn(n, 3, 8, 8)) == []
    assert_batch_invariant(network, torch.randn(n, 3, 8, 8))


def test_hooks_are_removed_also_when_the_network_raises() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("boom")

    network = nn.Sequential(nn.Linear(3, 3), Failing())
    with pytest.raises(RuntimeError, match="boom"):
        coupled_layers(network, torch.randn(4, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_the_message_says_how_strong_and_which() -> None:
    torch.manual_seed(0)
    with pytest.raises(BatchCouplingError) as error:
        assert_batch_invariant(image_network(nn.BatchNorm2d), torch.randn(8, 3, 8, 8))
    message = str(error.value)
    assert "the first coupled layer is '1' (BatchNorm2d)" in message
    assert message.endswith("then '4'.")
    assert error.value.swap.max_change > 0
    assert isinstance(error.value, AssertionError)


def test_the_message_names_the_networks_own_code_after_a_layer_too() -> None:
    class Relative(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y - y.mean(0)

    network = Relative(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(BatchCouplingError, match=r"'1' \(BatchNorm1d\).*; then the network's own code"):
        assert_batch_invariant(network, torch.randn(8, 3))


def test_the_assertion_works_in_train_and_eval_mode_and_without_a_gradient() -> None:
    network = image_network(nn.BatchNorm2d)
    x = torch.randn(8, 3, 8, 8)
    with pytest.raises(BatchCouplingError):
        assert_batch_invariant(network.train(), x)
    assert_batch_invariant(network.eval(), x)
    assert_batch_invariant(lambda x: x.argmax(1).float(), x.flatten(1))
    with pytest.raises(BatchCouplingError, match="the function's own code"):
        assert_batch_invariant(lambda x: x.argmax(0).float().expand(8, -1), x.flatten(1))


def test_the_pytest_fixture_is_the_assertion(assert_batch_invariant: object) -> None:
    from gannorm import probes

    assert assert_batch_invariant is probes.assert_batch_invariant
