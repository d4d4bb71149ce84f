"""The training step against the plain loop that it stands for."""

import numpy as np
import pytest
import torch
from support.plain_loop import final_state, plain_loop

from gannorm.data import to_float
from gannorm.errors import UserError
from gannorm.models import DISCRIMINATORS, GENERATORS, Discriminator, Generator, discriminator, generator, load_networks
from gannorm.normalizers import NORMALIZERS
from gannorm.seeds import stream
from gannorm.training import GAN, prepare, train


@pytest.mark.parametrize("g_composition", ["fake", "joint"])
@pytest.mark.parametrize("d_composition", ["separate", "joint"])
@pytest.mark.parametrize("d_steps", [1, 2])
def test_a_run_follows_the_plain_loop(configure, tmp_path, d_composition, g_composition, d_steps):
    config = configure(
        *("--model.d_composition", d_composition, "--model.g_composition", g_composition),
        *("--model.d_steps", str(d_steps), "--checkpoint_every", "4", "--model.ema_decay", "0.7"),
    )
    gan, data = prepare(config)
    loader = data.train_dataloader()
    expected, _ = plain_loop(gan, [next(loader) for _ in range(4)], config)
    state = final_state(train({**config, "precision": "exact"}, tmp_path / "run"))
    assert state.keys() == expected.keys()
    # fp32: Adam divides by √v, so that a last-bit difference between its fused and plain forms becomes about 1e-6.
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=2e-5)


def test_compositions_are_different_models_with_batch_norm_and_the_same_without(configure):
    def losses(norm):
        config = configure("--model.discriminator.norm", norm)
        gan, data = prepare(config)
        real = to_float(data.train.pixels[:16])
        fake = gan.generator(torch.randn(16, 4, generator=stream(0)))
        found = []
        for gan.d_composition in ("separate", "joint"):
            found.append(gan.discriminator_loss(real, fake).item())
        for gan.g_composition in ("fake", "joint"):
            found.append(gan.generator_loss(real, fake).item())
        return found

    separate, joint, fake, joint_g = losses("group")
    assert separate == pytest.approx(joint, rel=1e-5)  # fp32: batches of another size sum in another order
    assert fake == pytest.approx(joint_g, rel=1e-5)
    separate, joint, fake, joint_g = losses("batch")
    assert abs(separate - joint) > 1e-4
    assert abs(fake - joint_g) > 1e-4


def test_a_repeated_run_is_bit_identical_and_another_seed_is_not(configure, tmp_path):
    config = configure("--checkpoint_every", "4")
    first, again = (final_state(train(config, tmp_path / name)) for name in ("first", "again"))
    other = final_state(train({**config, "seed": 1}, tmp_path / "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["discriminator.logit.weight"], other["discriminator.logit.weight"])


@pytest.mark.parametrize("norm,weight_norm", [("batch", "spectral"), ("group", "none")])
def test_measuring_does_not_disturb_training(configure, tmp_path, norm, weight_norm):
    factors = ("--model.discriminator.norm", norm, "--model.discriminator.weight_norm", weight_norm)
    plain = configure(*factors, "--checkpoint_every", "4")
    measured = configure(
        *factors, *("--checkpoint_every", "4", "--probe_every", "1", "--probe_images", "32", "--sample_every", "1")
    )
    first = final_state(train(plain, tmp_path / "plain"))
    run = train(measured, tmp_path / "measured")
    second = final_state(run)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert list(run.probes()) == list(run.samples()) == [0, 1, 2, 3, 4]
    steps, ratios = run.series("batch_dependence/train/coupling_ratio")
    assert steps == [0, 1, 2, 3, 4]
    assert all((ratio > 1e-6) == (norm == "batch") for ratio in ratios)  # rounding leaves about 1e-13 without coupling
    assert all(
        ratio > 0 for ratio in run.series("batch_dependence/generator/coupling_ratio")[1]
    )  # G has BatchNorm in both
    with np.load(run.probes()[4]) as matrices:
        assert {name: m.shape for name, m in matrices.items()} == dict.fromkeys(
            ("coupling_train", "coupling_eval", "coupling_generator"), (16, 16)
        )


def test_lightning_counts_generator_updates(configure, tmp_path):
    run = train(configure("--model.d_steps", "3", "--checkpoint_every", "2", "--steps", "6"), tmp_path / "run")
    assert list(run.checkpoints()) == [2, 4, 6]
    content = torch.load(run.checkpoint_file(6), weights_only=True)
    assert content["step"] == content["global_step"] == 6
    assert (run.status()["state"], run.status()["step"]) == ("finished", 6)


def test_the_discriminator_gets_no_gradient_in_the_generator_step(configure):
    gan, data = prepare(configure())
    real = to_float(data.train.pixels[:16])
    for p in gan._trainable:
        p.requires_grad_(False)
    gan.generator_loss(real, gan.generator(torch.randn(16, 4, generator=stream(0)))).backward()
    assert all(p.grad is None for p in gan.discriminator.parameters())
    assert all(p.grad is not None for p in gan.generator.parameters())


def test_a_diverged_run_ends_and_keeps_its_last_good_checkpoint(configure, tmp_path):
    config = configure(
        *("--steps", "50", "--checkpoint_every", "1", "--model.max_loss", "30", "--model.loss", "wasserstein"),
        *("--model.lr_d", "0.01", "--model.lr_g", "0.01", "--model.discriminator.norm", "none"),
    )
    run = train(config, tmp_path / "run")
    status = run.status()
    assert status["state"] == "diverged"
    assert status["step"] < 50
    assert "max_loss=30" in status["reason"]
    state = final_state(run)
    assert all(torch.isfinite(v).all() for v in state.values())
    assert max(run.checkpoints()) < status["step"]  # an explosion of finite numbers is no good checkpoint either


def test_own_networks_train_and_are_loaded_from_their_checkpoint(configure, tmp_path, monkeypatch):
    for registry in (DISCRIMINATORS, GENERATORS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    @discriminator("mine")
    def judge(image_size, channels, width, norm, norm_options=None):
        convolution, layer = torch.nn.Conv2d(channels, width, image_size), NORMALIZERS[norm](width)
        return torch.nn.Sequential(
            convolution, layer, torch.nn.Flatten(), torch.nn.Linear(width, 1), torch.nn.Flatten(0)
        )

    @generator("mine")
    def paint(image_size, channels, latent_dim, **_):
        linear = torch.nn.Linear(latent_dim, channels * image_size**2)
        return torch.nn.Sequential(linear, torch.nn.Tanh(), torch.nn.Unflatten(1, (channels, image_size, image_size)))

    own = ("--model.discriminator.architecture", "mine", "--model.generator.architecture", "mine")
    own += ("--model.discriminator.norm", "reference", "--checkpoint_every", "4", "--probe_every", "2")
    run = train(configure(*own, "--probe_images", "16"), tmp_path / "run")
    assert run.status()["state"] == "finished"
    networks = load_networks(run.path)
    images = networks.generator(torch.zeros(3, networks.generator.latent_dim))
    assert networks.discriminator(images).shape == (3,)


@pytest.mark.parametrize("g_composition", ["fake", "joint"])
def test_a_relativistic_generator_is_compared_with_the_real_images(configure, g_composition):
    flags = ("--model.loss", "relativistic", "--model.g_composition", g_composition)
    gan, data = prepare(configure(*flags, "--model.discriminator.norm", "group"))
    real = to_float(data.train.pixels[:16])
    fake = gan.generator(torch.randn(16, 4, generator=stream(0))).detach()
    expected = torch.nn.functional.softplus(gan.discriminator(real) - gan.discriminator(fake)).mean()
    torch.testing.assert_close(gan.generator_loss(real, fake), expected, atol=1e-6, rtol=0)  # float32 of order one


def test_both_losses_and_penalties_see_augmented_images(configure):
    flags = ("--model.augment", "diffaugment", "--model.penalty", "r1", "--model.discriminator.norm", "none")
    gan, data = prepare(configure(*flags))
    gan._penalty_randomness = stream(0)
    real = to_float(data.train.pixels[:16])
    fake = gan.generator(torch.randn(16, 4, generator=stream(0)))
    seen = []
    gan.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    gan.discriminator_loss(real, fake.detach())
    gan.generator_loss(real, fake)
    kinds = (real, fake, real, fake)  # the last real ones are the penalty's, the last fake ones the generator's
    for images, shown in zip(kinds, seen, strict=True):
        assert shown.shape == images.shape
        assert not any(torch.equal(a, b) for a, b in zip(images, shown, strict=True))
    (slope,) = torch.autograd.grad(seen[-1].sum(), fake)
    assert slope.any()


def test_the_reference_is_half_of_each_batch_of_the_step_before(configure, tmp_path, monkeypatch):
    judged, references = [], []

    def noting(gan, real, fake):
        judged.append(torch.cat([real[::2], fake.detach()[1::2]]))
        references.append(gan.discriminator.reference.clone())
        return original(gan, real, fake)

    original = GAN.discriminator_terms
    monkeypatch.setattr(GAN, "discriminator_terms", noting)
    train(configure("--model.discriminator.norm", "reference"), tmp_path / "run")
    assert len(references) == 4
    assert all(torch.equal(a, b) for a, b in zip(references[1:], judged, strict=False))
    assert not torch.equal(references[0], judged[0])  # the first is of the images that initialize the network


@pytest.mark.parametrize(
    "options,message",
    [
        ({"augment": "diffaug"}, "unknown augmentation 'diffaug': did you mean 'diffaugment'"),
        ({"loss": "hinged"}, "did you mean 'hinge'"),
        ({"penalty": "r2"}, "choose from none, r1, r1r2, gradient"),
        ({"d_steps": 0}, "`d_steps` must be at least 1"),
        ({"lr_d": -1.0}, "learning rates must be positive"),
        ({"ema_decay": 1.0}, "`ema_decay` must be in"),
        ({"betas": (0.5, 1.0)}, "`betas` must be in"),
        ({"max_loss": 0.0}, "`max_loss` must be positive"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GAN(Generator(8, 1, 4, 2), Discriminator(8, 1, 4), **options)
