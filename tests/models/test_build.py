"""Networks by name: the built-in pairs, a user's own, and settings that would have no effect."""

import pytest
import torch
from torch import nn

from gannorm.config import TrainConfig
from gannorm.errors import UserError
from gannorm.models import DISCRIMINATORS, GENERATORS, build_networks, discriminator, generator
from gannorm.models.build import build_classifier
from gannorm.normalizers import NORMALIZERS

PLAIN = {"width": 8, "norm": "none", "weight_norm": "none", "norm_options": {}}


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """Both registries with an own pair, put back after the test."""
    for registry in (DISCRIMINATORS, GENERATORS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    @discriminator("mine")
    class Mine(nn.Sequential):
        def __init__(self, image_size, channels, width, norm="batch", norm_options=None):
            layer = NORMALIZERS[norm](width, **(norm_options or {}))
            convolution = nn.Conv2d(channels, width, image_size)
            super().__init__(convolution, layer, nn.Flatten(), nn.Linear(width, 1), nn.Flatten(0))

    @generator("mine")
    def mine(image_size, channels, latent_dim):
        shape = (channels, image_size, image_size)
        return nn.Sequential(nn.Linear(latent_dim, channels * image_size**2), nn.Tanh(), nn.Unflatten(1, shape))


def model(d=None, g=None, blocks=0):
    judge = {**PLAIN, "minibatch": "none", "norm_layers": "all", **(d or {})}
    networks = {"discriminator": judge, "generator": {**PLAIN, "latent_dim": 4, **(g or {})}}
    return TrainConfig.from_dict({"model": {"residual_blocks": blocks, **networks}}).model


@pytest.mark.parametrize(
    "blocks,architecture,kinds",
    [
        (0, {}, ("Generator", "Discriminator")),  # a config of an earlier version names none
        (0, {"architecture": "vgg"}, ("Generator", "Discriminator")),
        (0, {"architecture": "residual"}, ("ResidualGenerator", "ResidualDiscriminator")),
        (1, {"architecture": "vgg"}, ("ResidualGenerator", "ResidualDiscriminator")),
        (1, {}, ("ResidualGenerator", "ResidualDiscriminator")),
    ],
)
def test_the_built_in_pairs(blocks, architecture, kinds):
    networks = build_networks(model(architecture, architecture, blocks), 8, 1)
    assert tuple(type(network).__name__ for network in networks) == kinds
    assert networks[1](networks[0](torch.zeros(3, 4))).shape == (3,)


def test_own_networks_know_what_training_asks_for():
    own = {"architecture": "mine"}
    g, d = build_networks(model({**own, "norm": "group", "norm_options": {"groups": 2}}, {**own, "width": 32}), 8, 3)
    assert d(g(torch.zeros(5, 4))).shape == (5,)
    assert (d.image_size, d.channels, g.image_size, g.latent_dim) == (8, 3, 8, 4)
    assert d[1].num_groups == 2


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {"d": {"architecture": "mine", "minibatch": "stddev"}},
            r"'mine' does not take `minibatch`: got 'stddev'; set",
        ),
        (
            {"g": {"architecture": "mine", "norm": "batch", "width": 32}},
            r"'mine' does not take `norm`: got 'batch'; set",
        ),
        ({"g": {"architecture": "mine"}}, r"'mine' does not take `width`: got 8; set it to 32, or name it"),
        ({"d": {"architecture": "min"}}, r"unknown discriminator 'min': did you mean 'mine'"),
        ({"d": {"minibatch": "stddev"}, "blocks": 1}, r"'residual' does not take `minibatch`"),
        ({"d": {"norm_layers": "last"}, "blocks": 1}, r"'residual' does not take `norm_layers`"),
        ({"d": {"architecture": "mine"}, "blocks": 1}, r"`residual_blocks` belongs to the residual networks: got 1"),
    ],
)
def test_what_would_have_no_effect_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build_networks(model(**changes), 8, 1)


def test_what_is_no_module_or_takes_no_size_is_refused():
    discriminator("sizeless")(lambda channels, width: nn.Linear(channels, width))
    with pytest.raises(
        UserError, match="the discriminator 'sizeless' must take `image_size`: name it in the signature"
    ):
        build_networks(model({"architecture": "sizeless"}), 8, 1)
    discriminator("function")(lambda image_size, channels, width: torch.sum)
    with pytest.raises(UserError, match=r"must be a torch\.nn\.Module: 'function' made"):
        build_networks(model({"architecture": "function"}), 8, 1)


def test_a_classifier_has_a_logit_a_class():
    def of(blocks, depth):
        settings = {"residual_blocks": blocks, "classifier": {**PLAIN, "depth": depth}}
        return TrainConfig.from_dict({"task": "classifier", "model": settings}).model

    assert build_classifier(of(0, 0), 8, 1, classes=7)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    with pytest.raises(UserError, match="'residual' does not take `depth`: got 12"):
        build_classifier(of(1, 12), 8, 1, classes=7)
