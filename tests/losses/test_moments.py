"""The moment penalty is 0 exactly for normalized activations, has the closed form elsewhere, and trains toward 0."""

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.losses.moments import moment_penalty, record_activations

X = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_normalized_activations_cost_nothing():
    normalized = nn.BatchNorm2d(3, eps=1e-12).double()(X)
    penalty, _ = moment_penalty({"a": normalized}, eps=1e-12)
    assert penalty.item() < 1e-20


def test_shift_and_scale_cost_their_squares():
    normalized = nn.BatchNorm2d(3, eps=1e-12).double()(X)
    penalty, by_layer = moment_penalty({"a": 3 * normalized + 2, "b": normalized}, eps=1e-12)
    assert by_layer["a"].item() == pytest.approx(2**2 + (3 - 1) ** 2, rel=1e-9)
    assert penalty.item() == pytest.approx(4, rel=1e-9)  # the mean of 8 and 0


def test_descent_normalizes_a_plain_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    penalties = []
    for _ in range(150):
        with record_activations(network) as activations:
            network(X.float())
        penalty, _ = moment_penalty(activations)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(penalty.item())
    assert penalties[-1] < 0.05 * penalties[0]


def test_recording_leaves_the_last_layer_out_and_no_hooks_behind():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with record_activations(network) as activations:
        output = network(torch.ones(4, 2))
    assert list(activations) == ["0"]
    assert torch.equal(network[1](activations["0"]), output)
    network(torch.zeros(4, 2))
    assert activations["0"].any() and not network[0]._forward_hooks


def test_nothing_to_measure_is_refused():
    with pytest.raises(UserError, match="at least one layer: got none"):
        moment_penalty({})
    with pytest.raises(UserError, match=r"layer 'a' gave \(1, 3\)"):
        moment_penalty({"a": torch.zeros(1, 3)})
