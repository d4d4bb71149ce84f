"""The networks are what their docstrings say: placement, shapes, independence, and errors at construction."""

import pytest
import torch
from torch import nn

from gannorm import probes
from gannorm.errors import UserError
from gannorm.models import Discriminator, Generator
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, set_reference
from gannorm.seeds import stream

SIZES = (8, 16, 32, 64, 128)


def layers(network, kind):
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize("size", SIZES)
def test_maps_halve_to_4x4_and_widths_double(size):
    d, g = Discriminator(size, 3, 4), Generator(size, 3, 4, 5)
    convolutions = [m for m in d.modules() if isinstance(m, nn.Conv2d)]
    halvings = size.bit_length() - 3
    assert [c.stride[0] for c in convolutions] == [1, 2] * halvings + [1]
    assert [c.kernel_size[0] for c in convolutions] == [3, 4] * halvings + [3]
    assert [c.out_channels for c in convolutions] == [4 << i // 2 for i in range(2 * halvings)] + [4 << halvings]
    with torch.no_grad():
        images = g(torch.randn(2, 5, generator=stream(0)))
        assert images.shape == (2, 3, size, size)
        assert d.eval()(images).shape == (2,)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("norm", ["group", "instance", "layer"])
def test_every_normalizer_sits_in_the_same_places(norm):
    kinds = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
    for build in (Discriminator, Generator):
        assert layers(build(16, 1, 8, norm=norm), kinds) == layers(build(16, 1, 8, norm="batch"), kinds)
        assert layers(build(16, 1, 8, norm="none"), kinds) == []
    assert layers(Discriminator(16, 1, 8), kinds) == [f"features.{i}.norm" for i in range(5)]


def test_a_convolution_keeps_its_bias_only_where_nothing_shifts_after_it():
    biased = {n for n, m in Discriminator(8, 1, 8).named_modules() if getattr(m, "bias", None) is not None}
    assert {n for n in biased if n.endswith("conv")} == set()
    assert "logit" in biased
    plain = Discriminator(8, 1, 8, norm="none")
    assert all(m.bias is not None for m in plain.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    "norm_layers,normalized", [("all", [0, 1, 2, 3, 4]), ("all_but_first", [1, 2, 3, 4]), ("last", [4])]
)
@pytest.mark.parametrize("norm", ["group", "frn"])
def test_which_layers_are_normalized(norm, norm_layers, normalized):
    network = Discriminator(16, 1, 8, norm=norm, norm_layers=norm_layers)
    blocks = network.features[:-1]
    assert [i for i, block in enumerate(blocks) if hasattr(block, "norm")] == normalized
    for i, block in enumerate(blocks):
        assert (block.conv.bias is None) == (i in normalized)  # nothing else would shift
        assert hasattr(block, "activation") == (norm == "group" or i not in normalized)  # frn brings its own
    assert network(torch.zeros(3, 1, 16, 16)).shape == (3,)


@pytest.mark.parametrize("weight_norm", WEIGHT_NORMALIZERS)
@pytest.mark.parametrize("norm", NORMALIZERS)
def test_every_cross_of_the_slots_trains_both_networks(norm, weight_norm):
    g, d = Generator(8, 1, 8, 4, norm, weight_norm), Discriminator(8, 1, 8, norm, weight_norm)
    set_reference(g, torch.randn(4, 4, generator=stream(1)))
    set_reference(d, torch.randn(4, 1, 8, 8, generator=stream(2)))
    d(g(torch.randn(16, 4, generator=stream(0)))).square().mean().backward()
    for network in (g, d):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: Discriminator(image_size=30), "`image_size` must be one of 8, 16, 32, 64, 128: got 30"),
        (lambda: Generator(image_size=256), "got 256"),
        (lambda: Discriminator(width=0), "`width` must be at least 1"),
        (lambda: Generator(latent_dim=0), "`latent_dim` must be at least 1"),
        (lambda: Discriminator(norm="grupo"), "did you mean 'group'"),
        (lambda: Discriminator(weight_norm="spectre"), "unknown weight normalizer 'spectre'"),
        (lambda: Discriminator(norm="group", norm_options={"groups": 3}), "try groups=4"),
        (lambda: Discriminator(norm="group", norm_options={"group": 2}), "no option 'group'"),
    ],
)
def test_what_cannot_work_is_refused_when_the_network_is_built(build, message):
    with pytest.raises(UserError, match=message):
        build()


# One more input channel for a 3×3 convolution to 32; T from 512 features to 50 × 5, and 50 more inputs of the logit.
@pytest.mark.parametrize("minibatch,extra", [("stddev", 32 * 9), ("discrimination", 512 * 250 + 50)])
def test_a_minibatch_layer_couples_a_discriminator_that_is_otherwise_independent(minibatch, extra):
    x = torch.randn(8, 1, 8, 8, generator=stream(0))
    plain, coupled = Discriminator(8, 1, 16, "group"), Discriminator(8, 1, 16, "group", minibatch=minibatch)
    assert probes.swap_test(plain, x).bitwise_equal
    assert probes.swap_test(coupled, x).verdict == "coupled"
    few, more = (sum(p.numel() for p in d.parameters()) for d in (plain, coupled))
    assert more - few == extra
    with pytest.raises(UserError, match="did you mean 'stddev'"):
        Discriminator(minibatch="stdev")


@pytest.mark.parametrize("depth", [6, 7, 20, 50])
def test_depth_counts_the_layers_with_weights(depth):
    f = Discriminator(16, 1, 4, depth=depth, outputs=10)
    assert len(layers(f, (nn.Conv2d, nn.Linear))) == depth
    assert f(torch.zeros(3, 1, 16, 16)).shape == (3, 10)
    plain, named = Discriminator(16, 1, 4), Discriminator(16, 1, 4, depth=6)  # the layout that it has by itself
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in named.state_dict().items()}


def test_a_depth_below_the_layout_is_refused():
    with pytest.raises(UserError, match="`depth` must be 0 or at least 8 for images of 32: got 7"):
        Discriminator(32, depth=7)
