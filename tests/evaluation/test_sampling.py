"""A generator is sampled under stated statistics and left as it was."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known_images import Replay, images_of
from torch import nn
from torch_fidelity.noise import random_normal

from gannorm.data import to_uint8
from gannorm.errors import UserError
from gannorm.evaluation import sampling
from gannorm.evaluation.generators import SIGNED, NotFiniteError, sampler
from gannorm.evaluation.sampling import check_generator, generated, set_standing_statistics
from gannorm.models import Generator
from gannorm.normalizers import sync


class FirstNorm(nn.Module):
    """BatchNorm straight on the latents, then an image of 2×2 pixels: every statistic has a closed form."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.fill_(0.5)  # unlike any batch

    def forward(self, z):
        return torch.tanh(self.norm(3 * z + 1)).reshape(-1, 1, 2, 2)


def draw(generator, count=10, *, batch_size=4, seed=0, statistics="running"):
    drawn = sampler(generator, value_range=SIGNED)
    with generated(drawn, count, batch_size=batch_size, seed=seed, statistics=statistics) as batches:
        return torch.cat(list(batches))


def state(module):
    return [t.clone() for t in module.state_dict().values()] + [m.training for m in module.modules()]


def test_latents_are_those_of_torch_fidelity_whatever_the_batch_size():
    generator = FirstNorm().eval()
    z = random_normal(np.random.RandomState(5), (10, 4))
    with torch.no_grad():
        expected = to_uint8(generator(z))
    for size in (1, 3, 10, 64):
        assert torch.equal(draw(generator, batch_size=size, seed=5), expected)
    assert not torch.equal(draw(generator, seed=6), expected)


def test_standing_statistics_of_a_first_layer_are_those_of_all_its_inputs_together():
    generator = FirstNorm()
    set_standing_statistics(sampler(generator), batch_size=8, seed=2, samples=100)  # 13 whole batches
    inputs = 3 * random_normal(np.random.RandomState([2, 1]), (104, 4)).double() + 1
    # The buffers are float32.
    torch.testing.assert_close(generator.norm.running_mean.double(), inputs.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(generator.norm.running_var.double(), inputs.var(0, unbiased=False), rtol=1e-6, atol=0)


def test_standing_statistics_of_a_layer_that_is_called_twice_or_never():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.unused = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, z):
            self.norm(torch.cat([z, z + 5])[:, 4:])
            return self.norm(z[:, :4]).view(-1, 1, 2, 2)

    generator = Twice()
    set_standing_statistics(sampler(generator, latent_dim=8), batch_size=8, seed=2, samples=100)
    z = random_normal(np.random.RandomState([2, 1]), (104, 8)).double()
    inputs = torch.cat([z[:, :4], z[:, 4:], z[:, 4:] + 5])  # 8 and 16 rows of each batch
    # The buffers are float32.
    torch.testing.assert_close(generator.norm.running_mean.double(), inputs.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(generator.norm.running_var.double(), inputs.var(0, unbiased=False), rtol=1e-6, atol=0)
    assert torch.equal(generator.unused.running_var, torch.ones(4))


def test_standing_statistics_pool_each_layer_behind_batch_normalized_ones():
    generator = Generator(image_size=8, channels=1, width=4, latent_dim=3)
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs, probe = [], copy.deepcopy(generator).train()
    last = [m for m in probe.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    last.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach().double()))
    z = random_normal(np.random.RandomState([0, 1]), (32, 3))
    for batch in z.split(16):
        probe(batch)
    set_standing_statistics(sampler(generator), batch_size=16, seed=0, samples=32)
    pooled = torch.cat(inputs)
    torch.testing.assert_close(norms[-1].running_mean.double(), pooled.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(norms[-1].running_var.double(), pooled.var((0, 2, 3), unbiased=False), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["batch", "ghost", "renorm", "noisy"])
def test_our_own_averaging_layers_follow_the_statistics_too(norm):
    torch.manual_seed(0)
    generator = Generator(image_size=8, channels=1, width=16, latent_dim=3, norm=norm)
    images = [draw(generator, batch_size=64, count=64, statistics=s) for s in sampling.STATISTICS]
    assert all(not torch.equal(images[i], images[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_standing_statistics_refuse_a_layer_that_keeps_no_variance():
    generator = Generator(image_size=8, channels=1, width=16, latent_dim=3, norm="lp")
    data = images_of(torch.zeros(20, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="pools variances"):
        check_generator(sampler(generator), data, statistics="standing")
    check_generator(sampler(generator), data, statistics="batch")


def test_standing_statistics_refuse_renorm_whose_training_leans_on_its_running_averages():
    generator = Generator(image_size=8, channels=1, width=16, latent_dim=3, norm="renorm")
    data = images_of(torch.zeros(20, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="also uses the running averages"):
        check_generator(sampler(generator), data, statistics="standing")
    check_generator(sampler(generator), data, statistics="running")


@pytest.mark.parametrize("statistics", ["batch", "standing"])
def test_a_batch_size_that_a_layer_refuses_is_known_at_once(statistics):
    generator = Generator(image_size=8, channels=1, width=16, latent_dim=3, norm="ghost", norm_options={"size": 24})
    data = images_of(torch.zeros(20, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="64"):
        check_generator(sampler(generator), data, statistics=statistics)
    check_generator(sampler(generator), data, statistics=statistics, batch_size=48)
    check_generator(sampler(generator), data, statistics="running")


@pytest.mark.parametrize("norm", ["group", "instance", "none"])
def test_a_generator_without_batch_statistics_is_the_same_under_all(norm):
    generator = Generator(image_size=8, channels=1, width=16, latent_dim=3, norm=norm)
    running, batch, standing = (draw(generator, batch_size=64, count=64, statistics=s) for s in sampling.STATISTICS)
    assert torch.equal(running, batch) and torch.equal(running, standing)


def test_batch_statistics_normalize_each_batch_by_itself_at_the_stated_size():
    generator = FirstNorm()
    z = random_normal(np.random.RandomState(0), (12, 4))
    oracle = copy.deepcopy(generator).train()
    with torch.no_grad():
        expected = torch.cat([to_uint8(oracle(batch)) for batch in z.split(4)])[:10]
    assert torch.equal(draw(generator, 10, statistics="batch"), expected)
    assert not torch.equal(draw(generator, 10, statistics="running"), expected)
    assert not torch.equal(draw(generator, 10, batch_size=512, statistics="standing"), expected)


@pytest.mark.parametrize("statistics", sampling.STATISTICS)
@pytest.mark.parametrize("training", [True, False])
def test_the_generator_and_the_random_state_survive(statistics, training):
    generator = Generator(image_size=8, channels=1, width=4, latent_dim=3).train(training)
    generator.image.eval()  # a mixed mode survives too
    before, random_state, grad = state(generator), torch.get_rng_state(), torch.is_grad_enabled()
    draw(generator, batch_size=512, statistics=statistics)
    with (
        pytest.raises(KeyError),
        generated(sampler(generator, value_range=SIGNED), 8, batch_size=512, seed=0, statistics=statistics) as batches,
    ):
        next(batches)
        raise KeyError("in the middle")
    for a, b in zip(before, state(generator), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert torch.equal(torch.get_rng_state(), random_state) and torch.is_grad_enabled() == grad
    assert all(not m._forward_pre_hooks for m in generator.modules())


class Noise(nn.Module):
    latent_dim = 1

    def forward(self, z):
        return torch.rand(len(z), 1, 4, 4) * 2 - 1


def test_a_synchronized_layer_waits_for_no_other_process_while_images_are_drawn(monkeypatch):
    """One process of a group may score while the others train on: they would not come to a layer's meeting."""
    seen = []

    class Spy(Noise):
        def forward(self, z):
            seen.append(sync.processes())
            return super().forward(z)

    group = {"is_available": lambda: True, "is_initialized": lambda: True, "get_world_size": lambda: 2}
    monkeypatch.setattr(sync, "distributed", SimpleNamespace(**group))
    assert sync.processes() == 2
    check_generator(sampler(Spy()), DATA, statistics="running")
    draw(Spy())
    assert seen and set(seen) == {1}


def test_noise_in_layers_is_drawn_anew_for_each_batch_and_is_that_of_the_seed():
    images = draw(Noise(), 12, batch_size=4)
    assert len({image.numpy().tobytes() for image in images}) == 12
    assert torch.equal(draw(Noise(), 12, batch_size=4), images)
    assert not torch.equal(draw(Noise(), 12, batch_size=4, seed=1), images)


def test_a_double_generator_stays_double():
    generator = Generator(image_size=8, channels=1, width=4, latent_dim=3).double()
    assert draw(generator).dtype == torch.uint8
    assert next(generator.parameters()).dtype == torch.float64


class Scaled(nn.Module):
    latent_dim = 2

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, z):
        return torch.full((len(z), 1, 4, 4), self.value)


DATA = images_of(torch.zeros(20, 1, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(value):
    with pytest.raises(NotFiniteError, match="images must be finite"):
        check_generator(sampler(Scaled(value)), DATA, statistics="running")
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    generator = Replay(images)
    generator.images[15] = value
    with pytest.raises(NotFiniteError, match="images must be finite"):
        draw(generator, 20)


def test_a_generator_that_cannot_be_scored_is_named():
    fine = Generator(image_size=8, channels=1, width=4, latent_dim=3)
    with pytest.raises(UserError, match=r"got \(1, 8, 8\), made has \(1, 4, 4\)"):
        check_generator(sampler(fine), DATA, statistics="running")
    with pytest.raises(UserError, match="did you mean 'running'"):
        check_generator(sampler(fine), DATA, statistics="runing")
    with pytest.raises(UserError, match=r"the generator must be .* got int"):
        check_generator(sampler(3), DATA, statistics="running")
    with pytest.raises(UserError, match="give latent_dim=100"):
        check_generator(sampler(nn.Identity()), DATA, statistics="running")
    stateless = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.BatchNorm2d(1, track_running_stats=False), nn.Tanh())
    with pytest.raises(UserError, match="needs running statistics: 1 keeps none"):
        check_generator(sampler(stateless, latent_dim=16), DATA, statistics="standing")
    check_generator(sampler(stateless, latent_dim=16), DATA, statistics="batch")
