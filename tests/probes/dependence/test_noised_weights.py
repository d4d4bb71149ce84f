"""Noise on the weights: it reaches every parameter, shows what a zero hides, and leaves no trace."""

from __future__ import annotations

import torch
from torch import nn

from gannorm.probes import swap_test
from gannorm.probes.dependence.noised_weights import noised_weights


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def hidden() -> nn.Sequential:
    """(N, 3) -> (N, 1), a BatchNorm1d behind a zero head."""
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    nn.init.zeros_(network[3].weight)
    return network


def test_what_is_multiplied_by_zero_shows() -> None:
    network, x = hidden(), torch.randn(16, 3)
    assert swap_test(network, x).verdict == "independent"
    with noised_weights([network], seeded()):
        assert swap_test(network, x).verdict == "coupled"


def test_a_network_that_couples_nothing_still_couples_nothing() -> None:
    network, x = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)), torch.randn(16, 3)
    with noised_weights([network], seeded()):
        assert swap_test(network, x).verdict == "independent"


def test_every_parameter_moves_by_about_one_percent_and_comes_back() -> None:
    network = hidden()
    before = {name: (p.data_ptr(), p._version, p.detach().clone()) for name, p in network.named_parameters()}
    with noised_weights([network, network[0]], seeded()):
        for name, p in network.named_parameters():
            change, own = (p - before[name][2]).norm(), before[name][2].norm()
            size = own or p.numel() ** 0.5
            assert 0 < change < 0.04 * size, name  # four standard deviations of a single number
    for name, p in network.named_parameters():
        pointer, version, content = before[name]
        assert (p.data_ptr(), p._version) == (pointer, version) and torch.equal(p, content), name


def test_the_noise_is_seeded() -> None:
    network = hidden()
    drawn = []
    for _ in range(2):
        with noised_weights([network], seeded()):
            drawn.append(network[0].weight.detach().clone())
    assert torch.equal(*drawn)
