"""Exact accumulation is one large batch, to the last digits; naive is ghost batches; frozen is neither."""

import copy

import pytest
import torch
from support.accumulation import (
    EXACT,
    MICROBATCH,
    POOLED,
    N,
    accumulated,
    buffers,
    convolutional,
    distance,
    gradient,
    inputs,
    plain,
    pooled_network,
    randomized,
    softplus,
    whole,
)
from support.toys import VIOLATORS, around
from torch import nn
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.models.minibatch import MinibatchDiscrimination, MinibatchStddev
from gannorm.normalizers import NORMALIZERS, set_reference
from gannorm.normalizers.batch import GhostBatchNorm
from gannorm.training import accumulate_gradients
from gannorm.training.accumulation.accumulate import MODES
from gannorm.training.accumulation.pooling import taken_apart


class Residual(nn.Module):
    """(N, 6) → (N, 6): x + BN(W·tanh BN(W·x)), which may be called on its own output, or with one BN for both."""

    def __init__(self, shared=False):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm_1 = nn.BatchNorm1d(6)
        self.norm_2 = self.norm_1 if shared else nn.BatchNorm1d(6)

    def forward(self, x):
        return x + self.norm_2(self.second(torch.tanh(self.norm_1(self.first(x)))))


class Composed(nn.Module):
    """z ↦ D(G(z)), both with batch normalizers; D's weights get no gradient, as in a generator's step."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
        self.discriminator = plain(2).requires_grad_(False)

    def forward(self, z):
        return self.discriminator(self.generator(z))


NETWORKS = {
    "1 normalizer": lambda: plain(1),
    "2 normalizers": lambda: plain(2),
    "6 normalizers": lambda: plain(6),
    "residual": lambda: nn.Sequential(Residual(), nn.Tanh(), Residual(), nn.Linear(6, 1), nn.Flatten(0)),
    "shared layer": lambda: nn.Sequential(Residual(shared=True), nn.Linear(6, 1), nn.Flatten(0)),
    "shared block": lambda: nn.Sequential(*[Residual()] * 2, nn.Linear(6, 1), nn.Flatten(0)),
    "generator and discriminator": Composed,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_is_one_large_batch_and_the_others_are_not(name):
    network, x = randomized(NETWORKS[name]()), inputs(N, 6)
    expected, moved, value = whole(network, x)
    found, found_buffers, found_value = accumulated(network, x)
    assert distance(found, expected) < EXACT
    assert distance(found_buffers, moved) < EXACT
    assert distance(found_value, value) < EXACT
    frozen, frozen_buffers, frozen_value = accumulated(network, x, "frozen")
    assert distance(frozen, expected) > 0.01
    # Only the gradient is frozen: the forward pass is that of the large batch.
    assert distance(frozen_buffers, moved) < EXACT and distance(frozen_value, value) < EXACT
    assert distance(accumulated(network, x, "naive")[0], expected) > 0.01


def test_normalizers_are_mixed_and_shared():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(pooled_network(case)[1] for case in POOLED)
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            for _ in range(2):  # renorm's second call finds the running statistics that its first has moved
                for layer in self.layers:
                    x = torch.tanh(self.convolution(layer(x)))
            return x.mean((1, 2, 3))

    network, x = randomized(Mixed()), inputs(N, 3, 4, 4)
    expected, moved, _ = whole(network, x)
    found, found_buffers, _ = accumulated(network, x, microbatch=8)
    assert distance(found, expected) < EXACT
    assert distance(found_buffers, moved) < EXACT


@pytest.mark.parametrize(
    "name",
    [name for name, entry in NORMALIZERS.items() if not (entry.gradient_coupling or entry.forward_coupling)],
)
def test_networks_that_judge_images_are_the_same_in_every_mode(name):
    x = inputs(N, 1, 8, 8)
    network = randomized(
        nn.Sequential(nn.Conv2d(1, 8, 3), NORMALIZERS[name](8), nn.Tanh(), nn.Conv2d(8, 1, 6), nn.Flatten(0))
    )
    set_reference(network, inputs(6, 1, 8, 8, seed=2))
    for mode in MODES:
        assert distance(accumulated(network, x, mode)[0], whole(network, x)[0]) < EXACT


@pytest.mark.parametrize("case", ["batch", "lp 1", "renorm clipped"])
def test_naive_is_ghost_batches(case):
    network, x = pooled_network(case), inputs(N, 1, 4, 4)
    found, _, value = accumulated(network, x, "naive")
    ghosts = [whole(network, part) for part in x.split(MICROBATCH)]
    assert distance(found, torch.stack([g for g, _, _ in ghosts]).mean(0)) < EXACT
    assert distance(value, torch.stack([v for _, _, v in ghosts]).mean()) < EXACT
    # The normalizer of that name, on the whole batch, says the same of BatchNorm.
    if case == "batch":
        ghost = convolutional(lambda channels: GhostBatchNorm(channels, size=MICROBATCH)).double()
        ghost.load_state_dict(network.state_dict())
        assert distance(found, whole(ghost, x)[0]) < EXACT


def test_naive_moves_the_running_statistics_once():
    network, x = plain(1).double(), inputs(N, 6)
    moved = copy.deepcopy(network)
    moved(x)  # what the first normalizer sees does not depend on the mode
    assert distance(accumulated(network, x, "naive")[1], buffers(moved)) < EXACT


@pytest.mark.parametrize("mode", ["naive", "frozen", "exact"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_of_an_instance_norm_are_those_of_all_instances(mode, momentum):
    norm = nn.InstanceNorm2d(3, momentum=momentum, affine=True, track_running_stats=True)
    layers = nn.Conv2d(1, 3, 3), norm, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)
    network, x = randomized(nn.Sequential(*layers)), inputs(N, 1, 4, 4)
    expected, moved, value = whole(network, x)
    found, found_buffers, found_value = accumulated(network, x, mode)
    assert distance(found, expected) < EXACT  # it couples nothing, in any mode
    assert distance(found_buffers, moved) < EXACT and distance(found_value, value) < EXACT
    network.eval()  # there the running statistics are constants
    assert distance(accumulated(network, x, mode)[0], whole(network, x)[0]) < EXACT


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}, {"affine": False}])
def test_torch_batch_norm_with_its_options(options):
    network, x = plain(2), inputs(N, 6)
    network[1], network[4] = nn.BatchNorm1d(6, **options), nn.BatchNorm1d(6, **options)
    network = randomized(network)
    expected, moved, _ = whole(network, x)
    found, found_buffers, _ = accumulated(network, x)
    assert distance(found, expected) < EXACT
    torch.testing.assert_close(found_buffers, moved, rtol=EXACT, atol=0)


def test_batch_norm_of_sequences_and_volumes():
    network = nn.Sequential(
        nn.BatchNorm1d(2), nn.Unflatten(2, (2, 2, 2)), nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.Tanh(), nn.Flatten()
    )
    network, x = randomized(nn.Sequential(network, nn.Linear(24, 1), nn.Flatten(0))), inputs(N, 2, 8)
    assert distance(accumulated(network, x)[0], whole(network, x)[0]) < EXACT


def test_eval_mode_is_left_alone():
    network, x = randomized(plain(2)).eval(), inputs(N, 6)
    expected, before, _ = whole(network, x)
    for mode in MODES:
        found, after, _ = accumulated(network, x, mode)
        assert distance(found, expected) < EXACT
        assert torch.equal(after, before)


def test_microbatches_of_one_sample():
    network, x = randomized(plain(2)), inputs(5, 6)
    assert distance(accumulated(network, x, microbatch=1)[0], whole(network, x)[0]) < EXACT
    with pytest.raises(UserError, match="more than one value a channel"):
        accumulated(network, x, "naive", microbatch=1)


def test_statistics_far_off_centre_stay_exact_in_float32():
    network = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 1), nn.Flatten(0))
    x = (inputs(N, 6) + 1000).float()
    found, _, _ = accumulated(network, x)
    exact, _, _ = whole(copy.deepcopy(network).double(), x.double())
    # Rounding of x itself, 1000·2⁻²⁴ = 6e-5, remains; E[x²] − μ² would be off by 1000²·2⁻²⁴ = 6e-2.
    assert distance(found.double(), exact) < 1e-3


def test_gradients_add_up_as_backward_adds_them_and_reach_a_leaf_input():
    network, x = randomized(plain(2)), inputs(N, 6).requires_grad_()
    other = copy.deepcopy(network)
    for _ in range(2):
        accumulate_gradients(network, softplus, x, MICROBATCH)
    slope, x.grad = x.grad, None
    for _ in range(2):
        softplus(other(x)).mean().backward()
    assert distance(gradient(network), gradient(other)) < EXACT
    assert distance(slope, x.grad) < EXACT
    assert distance(buffers(network), buffers(other)) < EXACT


def test_discriminator_step_on_fakes_made_in_it_and_on_a_joint_batch():
    model, z, real = randomized(Composed()), inputs(N, 6), inputs(N, 6, seed=2)
    g, d = model.generator, model.discriminator.requires_grad_(True)
    reference = copy.deepcopy(model)

    def judge_fakes(z):
        with torch.no_grad():
            images = g(z)
        return d(images)

    passes = []
    g.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    accumulate_gradients(judge_fakes, F.softplus, z, MICROBATCH)
    # Three forward sweeps, adjoint sweeps for the discriminator's two normalizers, a final one, and the test.
    assert len(passes) == (3 + 2 + 1) * N // MICROBATCH + 2
    F.softplus(reference.discriminator(reference.generator(z).detach())).mean().backward()
    assert distance(gradient(d), gradient(reference.discriminator)) < EXACT
    assert distance(buffers(model), buffers(reference)) < EXACT
    assert all(p.grad is None for p in g.parameters())

    images, labels = torch.cat([real, z])[torch.arange(2 * N).view(2, N).t().flatten()], torch.arange(2 * N) % 2
    d.zero_grad()
    reference.zero_grad()

    def bce(found):
        logits, labels = found
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")

    accumulate_gradients(lambda images, labels: (d(images), labels), bce, (images, labels), MICROBATCH)
    bce((reference.discriminator(images), labels)).mean().backward()
    assert distance(gradient(d), gradient(reference.discriminator)) < EXACT


@pytest.mark.parametrize("mode", MODES)
def test_spectral_norm_takes_one_power_iteration(mode):
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), *plain(1)).double()
    x = inputs(N, 6)
    expected, moved, _ = whole(network, x)
    found, found_buffers, _ = accumulated(network, x, mode)
    assert mode != "exact" or distance(found, expected) < EXACT
    assert distance(found_buffers[:12], moved[:12]) < EXACT  # the vectors u and v


def test_the_network_is_left_as_it_was():
    network, x = randomized(plain(2)), inputs(N, 6)
    network[4].eval()
    handle = network[1].register_forward_hook(lambda *_: None)
    keys = {name: set(vars(m)) for name, m in network.named_modules()}
    weights = [p.clone() for p in network.parameters()]
    accumulate_gradients(network, softplus, x, MICROBATCH)
    assert {name: set(vars(m)) for name, m in network.named_modules()} == keys
    assert [m.training for m in network] == [True] * 4 + [False] + [True] * 3
    assert list(network[1]._forward_hooks) == [handle.id]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights, strict=True))
    assert (x == inputs(N, 6)).all()  # not even by a layer that works in place


def test_an_error_leaves_buffers_and_gradients_alone():
    network = randomized(nn.Sequential(plain(1)[:-1], MinibatchDiscrimination(1, 2, 2), nn.Linear(3, 1), nn.Flatten(0)))
    before = buffers(network)
    with pytest.raises(UserError):
        accumulate_gradients(network, softplus, inputs(N, 6), MICROBATCH)
    assert torch.equal(buffers(network), before)
    assert all(p.grad is None for p in network.parameters())
    assert not any("forward" in vars(m) for m in network.modules())


class OwnBatchNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


UNKNOWN = {name: layer for name, (layer, _, _) in VIOLATORS.items() if name != "batch norm"} | {
    "stddev": lambda: nn.Sequential(nn.Unflatten(1, (8, 1, 1)), MinibatchStddev(), nn.Flatten(), nn.Linear(9, 8)),
    "discrimination": lambda: nn.Sequential(MinibatchDiscrimination(8, 2, 2), nn.Linear(10, 8)),
    "subclass of batch norm": lambda: OwnBatchNorm(8),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_coupling_is_refused_by_name(name):
    network, x = nn.Sequential(around(UNKNOWN[name]()), nn.BatchNorm1d(1), nn.Flatten(0)).double(), inputs(N, 3)
    for mode in ("frozen", "exact"):
        with pytest.raises(UserError, match=rf"{mode} accumulation needs .*: '0\.2\.1(\.\w+)?' couples"):
            accumulated(network, x, mode)
    accumulated(network, x, "naive")  # there it is meant to see a microbatch
    accumulated(network, x, "exact", microbatch=N)  # and here the batch


def test_unknown_coupling_is_refused_where_microbatches_of_one_would_hide_it():
    network = randomized(nn.Sequential(MinibatchDiscrimination(6, 2, 2), nn.Linear(8, 1), nn.Flatten(0)))
    with pytest.raises(UserError, match="'0' couples"):
        accumulated(network, inputs(N, 6), microbatch=1)


def test_coupling_outside_layers_is_refused():
    network, x = randomized(plain(1)), inputs(N, 6)
    with pytest.raises(UserError, match="f itself couples"):
        accumulate_gradients(lambda x: network(x) - network(x).mean(), softplus, x, MICROBATCH)
    with pytest.raises(UserError, match="f or the loss couples"):
        accumulate_gradients(network, lambda y: softplus(y - y.mean()), x, MICROBATCH)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mode": "exakt"}, "unknown accumulation mode 'exakt': did you mean 'exact'"),
        ({"microbatch": 0}, "at least 1: got 0"),
        ({"microbatch": 6, "mode": "naive"}, "must divide the batch: got microbatch=6, batch=16; try microbatch=4"),
        ({"loss": lambda y: y.mean()}, r"one number for each of the 4 samples: got shape \(\)"),
        ({"loss": lambda y: y[:, None]}, r"got shape \(4, 1\)"),
        ({"loss": lambda y: 0.0}, "got float"),
        ({"x": inputs(0, 6)}, "at least one"),
        ({"x": (inputs(4, 6), inputs(5, 6))}, r"the same samples .* got batches of \[4, 5\]"),
        ({"x": inputs(N, 6).requires_grad_() * 2}, "must not carry a graph"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, match):
    x = arguments.pop("x", inputs(N, 6))
    given = {"loss": softplus, "microbatch": MICROBATCH} | arguments
    with pytest.raises(UserError, match=match) as caught:
        accumulate_gradients(randomized(plain(1)), x=x, **given)
    assert "\n" not in str(caught.value)


def test_ghost_batches_must_lie_within_a_microbatch():
    network = randomized(convolutional(lambda channels: GhostBatchNorm(channels, size=8)))
    with pytest.raises(UserError, match=r"within a microbatch: got size=8 and a microbatch of 4"):
        accumulated(network, inputs(N, 1, 4, 4))
    network = randomized(convolutional(lambda channels: GhostBatchNorm(channels, size=1)))  # the second sees one pixel
    with pytest.raises(UserError, match="more than one value a channel: got ghost batches of size=1"):
        accumulated(network, inputs(N, 1, 4, 4))


def test_a_layer_whose_forward_was_replaced_is_another_module():
    norm = nn.BatchNorm1d(3)
    assert taken_apart(norm) is not None
    norm.forward = lambda x: x - x.mean(0)  # on the instance: its class still says BatchNorm
    assert taken_apart(norm) is None
    with pytest.raises(UserError, match="couples"):
        accumulate_gradients(norm, lambda y: y.square().sum(1), torch.randn(8, 3), microbatch=4)
