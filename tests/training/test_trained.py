"""What a step trains: each network once, with the loss that the step lowers on the batch that it saw."""

import pytest
import torch

from gannorm.seeds import stream
from gannorm.training import prepare
from gannorm.training.trained import networks_of, trained_in


@pytest.fixture
def gan(configure):
    """A GAN after one step, without a Trainer."""
    module, data = prepare(configure("--model.d_steps", "2"))
    optimizers = module.configure_optimizers()
    module.optimizers = lambda use_pl_optimizer: optimizers
    module._optimizers = optimizers
    module.manual_backward = torch.Tensor.backward
    module._latent_randomness = stream(0, "latents")  # else started by a Trainer
    module.losses = module.update(data.train.take(32, seed=0))
    return module


def test_networks_have_their_names_and_every_weight_is_in_one_optimizer(gan):
    assert list(networks_of(gan)) == ["discriminator", "generator"] == [t.name for t in trained_in(gan, None)]
    for trained in trained_in(gan, None):
        given = {id(p) for group in trained.optimizer.param_groups for p in group["params"]}
        assert given == {id(p) for p in trained.network.parameters()}


def test_the_last_of_several_discriminator_updates_is_measured(gan):
    assert [t.last_update for t in trained_in(gan, None)] == [2, 1]


def test_the_losses_are_those_of_the_steps_images(gan):
    real, latents, fakes = gan.drawn
    discriminator, generator = trained_in(gan, None)
    assert all(map(torch.equal, discriminator.batch(), (real, fakes)))
    assert all(map(torch.equal, generator.batch(), (real, latents)))
    loss = discriminator.loss(gan.discriminator, discriminator.batch())
    assert torch.equal(loss, gan.discriminator_loss(real, fakes))
    gradients = torch.autograd.grad(
        generator.loss(gan.generator, generator.batch()), list(gan.generator.parameters()), allow_unused=True
    )
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
