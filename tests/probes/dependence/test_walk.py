"""The walk visits every module's inputs and outputs in order, and its swaps blame the layer that mixes."""

import torch
from torch import nn

from gannorm.isolate import hooked
from gannorm.probes.batch import codes, running
from gannorm.probes.dependence.swap_test import plan_swaps
from gannorm.probes.dependence.walk import Walk, own_code

N = 8


def walked(network):
    """The walk after one run and all swaps."""
    torch.manual_seed(0)
    x = torch.randn(N, 3)
    generator = torch.Generator().manual_seed(0)
    bits = codes(N, generator)
    walk = Walk({"": network}, network, N, bits, batch_dim=0)
    with torch.no_grad(), running(network, x) as run, hooked(walk.hooks()):
        walk.go(run, x, walk.record)
        walk.swap(run, x, plan_swaps(bits, generator))
    return walk


def test_the_first_run_is_recorded_at_every_boundary():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    walk = walked(network)
    shapes = [[tuple(t.shape) for t in seen] for seen in walk.base]
    # The input of the whole, then of and from each layer, then the output of the whole: each is read and returned.
    assert shapes[0] == [(N, 3)] and shapes[-1] == [(N, 1)]
    assert shapes.count([(N, 4)]) == 4  # from the first layer, into and from tanh, into the last
    assert walk.blamed == {}


def test_the_layer_that_mixes_is_blamed_and_no_layer_after_it():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Tanh())
    assert list(walked(network).blamed) == ["1"]
    assert list(walked(network.eval()).blamed) == []


def test_a_layer_that_moves_samples_around_is_caught():
    class Roll(nn.Module):
        def forward(self, t):
            return t.roll(1, 0)

    assert list(walked(nn.Sequential(nn.Linear(3, 4), Roll())).blamed) == ["1"]


def test_code_outside_layers_is_called_by_words():
    assert own_code("function") != own_code("Sequential")
