"""Shares of variance are those of the effects that an input is made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import variance_by_dimension

N, C, S = 6, 8, 4


def effect(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """A centred effect of variance scale², exactly."""
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    values = values - values.mean()
    return scale * values / values.var(correction=0).sqrt()


def of_input(x: Tensor) -> object:
    return variance_by_dimension(nn.BatchNorm2d(C).double(), x).layers["(the network)"]


def test_additive_effects_have_their_shares_of_the_variance() -> None:
    x = effect(N, 1, 1, 1, seed=1, scale=3) + effect(1, C, 1, 1, seed=2, scale=2) + effect(1, 1, S, S, seed=3)
    layer = of_input((x + 5).expand(N, C, S, S))
    shares = {"sample": 9 / 14, "channel": 4 / 14, "position": 1 / 14, "rest": 0.0}
    assert layer.main == pytest.approx(shares, abs=1e-12)  # sums of float64
    # Without an interaction what varies along a dimension is its main effect.
    assert layer.along == pytest.approx({name: shares[name] for name in layer.along}, abs=1e-12)
    assert layer.widest == "sample"


def test_an_interaction_is_in_the_rest_and_along_both_its_dimensions() -> None:
    rows = effect(N, C, 1, 1, seed=4)
    rows = rows - rows.mean(0, keepdim=True) - rows.mean(1, keepdim=True)  # no main effect is left
    layer = of_input(rows.expand(N, C, S, S))
    assert layer.main == pytest.approx({"sample": 0, "channel": 0, "position": 0, "rest": 1}, abs=1e-12)
    assert layer.along == pytest.approx({"sample": 1, "channel": 1, "position": 0}, abs=1e-12)


def test_centring_removes_what_a_normalizer_subtracts() -> None:
    x = torch.randn(N, C, S, S, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) + 1
    left = {
        "batch": nn.BatchNorm2d(C, affine=False, eps=1e-14),
        "instance": nn.InstanceNorm2d(C, eps=1e-14),
        "layer": nn.GroupNorm(1, C, eps=1e-14, affine=False),
        "group, 2 groups": nn.GroupNorm(2, C, eps=1e-14, affine=False),
    }
    removed = variance_by_dimension(nn.BatchNorm2d(C).double(), x, groups=2).layers["(the network)"].removed
    assert removed.keys() == left.keys()
    dims = {"batch": (0, 2, 3), "instance": (2, 3), "layer": (1, 2, 3)}
    for name, over in dims.items():
        rest = (x - x.mean(over, keepdim=True)).square().sum() / x.square().sum()
        assert removed[name] == pytest.approx(1 - rest.item(), abs=1e-12)
    grouped = x.unflatten(1, (2, -1))
    rest = (grouped - grouped.mean((2, 3, 4), keepdim=True)).square().sum() / x.square().sum()
    assert removed["group, 2 groups"] == pytest.approx(1 - rest.item(), abs=1e-12)


def test_a_batch_normalizer_leaves_nothing_between_channels() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C, eps=1e-12), nn.Conv2d(C, 1, 3)).double()
    shares = variance_by_dimension(network, torch.randn(N, 3, 8, 8, dtype=torch.float64) + 2).to_dict()
    assert list(shares) == ["0", "1", "2"]
    assert shares["1"]["channel"] > 0.1 and shares["2"]["channel"] < 1e-12  # each channel has mean 0 behind it
    for layer in shares.values():
        assert sum(layer.values()) == pytest.approx(1, abs=1e-12)


def test_tokens_have_their_channels_last() -> None:
    x = effect(N, 1, 1, seed=1).expand(N, 5, 7) + 2 * effect(1, 1, 7, seed=2)
    shares = variance_by_dimension(nn.LayerNorm(7).double(), x).to_dict()["(the network)"]
    assert shares == pytest.approx({"sample": 0.2, "channel": 0.8, "position": 0, "rest": 0}, abs=1e-12)


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(UserError, match="needs a module: got function"):
        variance_by_dimension(lambda x: x, torch.ones(2, 3))
    with pytest.raises(UserError, match="needs a layer with parameters"):
        variance_by_dimension(nn.ReLU(), torch.ones(2, 3))
    with pytest.raises(UserError, match="`groups` must be at least 1: got 0"):
        variance_by_dimension(nn.Linear(3, 1), torch.ones(2, 3), groups=0)
    with pytest.raises(UserError, match="the input of '1' holds NaN or infinity"):
        variance_by_dimension(nn.Sequential(nn.Flatten(), nn.Linear(3, 1)), torch.full((2, 3), torch.nan))
    constant = variance_by_dimension(nn.Linear(3, 1), torch.ones(2, 3)).to_dict()["(the network)"]
    assert constant == {"sample": 0, "channel": 0, "position": 0, "rest": 1}
