"""The generator maps latents one by one to images in [−1, 1], by as many stages as the size asks for."""

import pytest
import torch
from torch import nn

from gannorm import probes
from gannorm.models import Generator
from gannorm.seeds import stream


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_maps_double_from_4x4_and_widths_halve(size):
    network = Generator(size, 3, width=2, latent_dim=5, norm="group", norm_options={"groups": 1})
    maps = []
    for block in network.features:
        block.register_forward_hook(lambda module, args, output: maps.append(tuple(output.shape[1:])))
    image = network(torch.randn(2, 5, generator=stream(0)))
    assert image.shape == (2, 3, size, size) and image.abs().max() <= 1
    expected = [(2 * size // side, side, side) for side in (2**k for k in range(2, size.bit_length()))]
    assert maps == expected


def test_the_image_layer_alone_is_not_normalized():
    network = Generator(16, 1, width=4, latent_dim=4, norm="batch")
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) in (0, len(network.features))
    assert all(hasattr(block, "norm") for block in network.features) and not hasattr(network.image, "norm")
    assert network.image.bias is not None and all(block.conv.bias is None for block in network.features)


def test_it_couples_its_latents_through_its_normalizer_only():
    z = torch.randn(8, 4, generator=stream(1))
    kinds = {norm: probes.swap_test(Generator(8, 1, 4, 4, norm), z).verdict for norm in ("batch", "group", "none")}
    assert [kind == "coupled" for kind in kinds.values()] == [True, False, False]
