"""No CPU tensor meets the device's, and no step waits for a result, for every part that a config can name.

torch's FakeTensorMode computes shapes and devices without numbers: a CPU tensor among the device's is a
FakeTensorDeviceMismatchError, and reading a result a DataDependentOutputException. Its device is "meta", since backward
wants a real one for "cuda". Not seen: generators, of which a fake device has none.
"""

import json

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from gannorm.commands.inputs.arguments import train_config
from gannorm.config import taken_by
from gannorm.losses import LOSSES, PENALTIES
from gannorm.models import build_networks
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, normalizer, set_reference
from gannorm.training import GAN

TINY = ("--data.image_size=8", "--model.discriminator.width=8", "--model.generator.width=8")
D, G = "--model.discriminator", "--model.generator"
OPTIONS = {"ghost": {"size": 8}, "lp": {"p": "inf"}}


def both(norm):
    options = json.dumps(OPTIONS.get(norm, {}))
    return (f"{D}.norm={norm}", f"{G}.norm={norm}", f"{D}.norm_options={options}", f"{G}.norm_options={options}")


SETTINGS = [
    *(both(name) for name in NORMALIZERS),
    *((f"{D}.weight_norm={name}", f"{G}.weight_norm={name}") for name in WEIGHT_NORMALIZERS),
    *((f"--model.loss={name}", "--model.d_composition=joint", "--model.g_composition=joint") for name in LOSSES),
    *((f"--model.penalty={name}", f"{D}.norm=group") for name in PENALTIES),
    (f"{D}.minibatch=stddev", "--model.moment_weight=0.1"),
    (f"{D}.minibatch=discrimination", "--model.d_steps=2"),
]


def step(*flags):
    """One update of both networks, built and computed on the fake device."""
    config = train_config([*TINY, "--model.generator.latent_dim=4", *flags])
    with FakeTensorMode():
        with torch.device("meta"):
            gan = GAN(*build_networks(config.model, 8, 1), **taken_by(GAN, config.model))
            gan.ema.module, _ = build_networks(config.model, 8, 1)  # a deep copy has a copy of the fake mode too
            gan.ema.module.requires_grad_(False)
            images = torch.zeros(16 * gan.d_steps, 1, 8, 8)
            for generator in (gan.generator, gan.ema.module):
                set_reference(generator, torch.zeros(16, 4))
            set_reference(gan.discriminator, torch.zeros(16, 1, 8, 8))
        gan._latent_randomness = gan._penalty_randomness = None
        networks = (gan.discriminator, gan.generator)  # fused Adam has no fake kernel
        gan._optimizers = [torch.optim.Adam(network.parameters(), foreach=False) for network in networks]
        gan.manual_backward = lambda loss: loss.backward()
        return gan.update(images)


@pytest.mark.parametrize("flags", SETTINGS, ids=lambda flags: flags[0].split(".")[-1])
def test_every_part_trains_on_one_device_and_waits_for_nothing(flags):
    figures = step(*flags)
    assert all(value.device.type == "meta" and value.dim() == 0 for value in figures.values())


@pytest.mark.parametrize(
    "spoil,error",
    [
        (lambda x: x + torch.ones(8, device="cpu").view(1, 8, 1, 1), RuntimeError),
        (lambda x: x * x.mean().item(), DataDependentOutputException),
    ],
    ids=["a CPU tensor", "a result that is read"],
)
def test_a_part_that_does_not_is_caught(spoil, error):
    @normalizer("spoiled", forward_coupling=False, gradient_coupling=False)
    class Spoiled(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            return spoil(x[:, :8])[:, :1] + x

    with pytest.raises(error, match=r"[Dd]evice|_local_scalar_dense"):
        step(f"{D}.norm=spoiled")
