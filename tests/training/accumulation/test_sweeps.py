"""The sweeps over the microbatches: their number, their memory, their randomness."""

import copy

import pytest
import torch
from support.accumulation import (
    EXACT,
    MICROBATCH,
    N,
    accumulated,
    distance,
    gradient,
    inputs,
    plain,
    randomized,
    softplus,
)
from torch import nn

from gannorm.errors import UserError
from gannorm.training import accumulate_gradients
from gannorm.training.accumulation.accumulate import MODES


def test_dropout_repeats_its_masks_in_every_sweep_and_draws_new_ones_for_every_microbatch():
    network, x = randomized(nn.Sequential(nn.Linear(6, 6), nn.Dropout(), *plain(2))), inputs(N, 6)
    masks = []

    def keep(module, args, output):
        masks.append((output != 0).double())

    network[1].register_forward_hook(keep)
    torch.manual_seed(0)
    accumulate_gradients(network, softplus, x, MICROBATCH)
    last = masks[-N // MICROBATCH :]
    assert len({tuple(m.flatten().tolist()) for m in last}) == N // MICROBATCH
    assert all(any(torch.equal(m, kept) for kept in last) for m in masks)
    # With those masks in one batch the gradient is the same.
    reference, mask = copy.deepcopy(network), torch.cat(last)
    reference.zero_grad()
    softplus(reference[2:](reference[0](x) * mask * 2)).mean().backward()
    assert distance(gradient(network), gradient(reference)) < EXACT


def test_a_path_that_depends_on_the_samples_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = plain(1), plain(1)

        def forward(self, x):
            return self.one(x) if x[0, 0] > 0 else self.two(x)

    x = inputs(N, 6)
    x[:, 0] = torch.arange(N) - 5.0
    for mode in MODES:
        with pytest.raises(UserError, match="the same batch normalizers in the same order"):
            accumulated(randomized(Branching()), x, mode)


def peak_of_saved_activations(run):
    """The largest number of bytes that autograd keeps for backward passes at one time; shared storage counts once."""
    users, sizes, now, peak = {}, {}, 0, 0

    class Saved:
        def __init__(self, tensor):
            nonlocal now, peak
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            users[self.key] = users.get(self.key, 0) + 1
            if users[self.key] == 1:
                sizes[self.key] = tensor.untyped_storage().nbytes()
                now += sizes[self.key]
                peak = max(peak, now)

        def __del__(self):
            nonlocal now
            users[self.key] -= 1
            if users[self.key] == 0:
                now -= sizes[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        run()
    return peak


def test_memory_is_that_of_one_microbatch():
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2048, 1),
        nn.Flatten(0),
    )
    x = torch.randn(256, 1, 16, 16, generator=torch.Generator().manual_seed(0))

    def accumulate():
        accumulate_gradients(network, softplus, x, 32)

    one = peak_of_saved_activations(lambda: softplus(network(x[:32].clone())).mean().backward())
    full = peak_of_saved_activations(lambda: softplus(network(x)).mean().backward())
    assert peak_of_saved_activations(accumulate) <= 1.3 * one
    assert full > 7 * one
    assert peak_of_saved_activations(lambda: None) == 0


def test_the_number_of_passes_is_stated():
    passes = []
    network, x = randomized(plain(3)), inputs(N, 6)
    network.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    k, calls = N // MICROBATCH, 3
    for mode, sweeps in (("naive", 1), ("frozen", calls + 1), ("exact", 2 * calls + 1)):
        passes.clear()
        accumulate_gradients(network, softplus, x, MICROBATCH, mode)
        assert len(passes) == sweeps * k + (0 if mode == "naive" else 2)  # two for the test of independence
    passes.clear()
    accumulate_gradients(network, softplus, x, N)
    assert passes == [N]
