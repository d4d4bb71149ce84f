"""Fixup: branches start at exactly zero and moments stay flat over 20 blocks, where other initializations blow up."""

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.models.initialization import initialize
from gannorm.models.residual import ResidualBlock, ResidualDiscriminator, ResidualGenerator, Shift
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, set_reference


def pair(init, blocks=10, width=16):
    """Both networks with 2·blocks blocks, and an input for each."""
    generator = torch.Generator().manual_seed(0)
    d = ResidualDiscriminator(8, 3, width, blocks=blocks)
    g = ResidualGenerator(8, 3, width, 16, blocks=blocks)
    for network in (d, g):
        initialize(network, init, generator=generator)
    x, z = (torch.randn(32, *shape, generator=generator) for shape in ((3, 8, 8), (16,)))
    return (d, x), (g, z)


def record(network, part, x):
    """The outputs of one part of each block, "" for the whole block."""
    outputs = []
    for block in network.blocks:
        block.get_submodule(part).register_forward_hook(lambda m, i, y: outputs.append(y))
    with torch.no_grad():
        network(x)
    return outputs


def moments_over_depth(network, x):
    """The mean square behind each block."""
    return [y.square().mean().item() for y in record(network, "", x)]


def test_fixup_branches_contribute_exactly_zero():
    for network, x in pair("fixup"):
        outputs = record(network, "branch", x)
        assert len(outputs) == 20
        assert not any(y.any() for y in outputs)


def test_moments_are_flat_over_twenty_blocks_with_fixup_and_blow_up_without():
    for network, x in pair("fixup"):
        assert sum(isinstance(m, ResidualBlock) for m in network.modules()) == 20
        moments = moments_over_depth(network, x)
        assert max(moments) < 2 * min(moments)  # exactly flat but for the one shortcut that changes the width
        assert moments[0] == moments[9] and moments[10] == moments[19]
    for network, x in pair("kaiming"):
        moments = moments_over_depth(network, x)
        # Each branch adds about what it gets, less at the zero-padded borders: a factor of about 1.6 a block.
        assert moments[-1] > 1.4**19 * moments[0]


def test_inner_weights_are_scaled_by_the_number_of_blocks():
    (d, _), _ = pair("fixup", width=32)
    for block in d.blocks:
        first, last = block.convolutions
        fan_in = first.in_channels * first.kernel_size[0] ** 2
        expected = (2 / (1 + 0.2**2) / fan_in) ** 0.5 * 20**-0.5  # m = 2: L^(-1/2)
        assert first.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not last.weight.any()


def test_scalars_are_trainable_and_precede_every_convolution_linear_and_activation():
    d = ResidualDiscriminator(8, 3, 4, blocks=1)
    block = d.blocks[0]
    kinds = [type(m) for m in block.branch if not isinstance(m, nn.Identity)]
    assert kinds == [Shift, nn.LeakyReLU, Shift, nn.Conv2d] * 2
    assert [type(m) for m in d.activation] == [Shift, nn.LeakyReLU] and isinstance(d.shift, Shift)
    scalars = [p for m in d.modules() if isinstance(m, Shift) for p in m.parameters()] + [b.scale for b in d.blocks]
    assert all(p.numel() == 1 and p.requires_grad for p in scalars)
    assert not any(m.bias is not None for b in d.blocks for m in b.convolutions)  # the scalars take their place


def test_one_step_of_descent_moves_the_zero_layers_and_the_scalars():
    for network, x in pair("fixup", blocks=2):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        for _ in range(2):  # the scale before a zero layer has a gradient from the second step on
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        assert all(block.convolutions[-1].weight.any() for block in network.blocks)
        assert all(block.scale.grad != 0 for block in network.blocks)


def test_the_classifier_is_zero_only_if_asked():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    d = ResidualDiscriminator(8, 3, 4, blocks=1)
    initialize(d, "fixup", generator=torch.Generator().manual_seed(0))
    assert d(x).any()
    initialize(d, "fixup", generator=torch.Generator().manual_seed(0), zero_classifier=True)
    assert not d(x).any()


@pytest.mark.parametrize("weight_norm", WEIGHT_NORMALIZERS)
@pytest.mark.parametrize("norm", NORMALIZERS)
def test_every_cross_of_the_slots_builds_and_runs(norm, weight_norm):
    options = {"norm_options": {"size": 2}} if norm == "ghost" else {}
    for network, x in (
        (ResidualDiscriminator(8, 1, 4, norm, weight_norm, 1, **options), torch.randn(4, 1, 8, 8)),
        (ResidualGenerator(8, 1, 4, 3, norm, weight_norm, 1, **options), torch.randn(4, 3)),
    ):
        set_reference(network, x)
        y = network(x)
        assert y.isfinite().all()
        assert y.shape == ((4,) if isinstance(network, ResidualDiscriminator) else (4, 1, 8, 8))


@pytest.mark.parametrize("size", [8, 16, 32])
def test_maps_halve_and_double_between_4_and_the_image(size):
    d, g = ResidualDiscriminator(size, 3, 4, blocks=2), ResidualGenerator(size, 3, 4, 5, blocks=2)
    stages = size.bit_length() - 2
    assert len(d.blocks) == len(g.blocks) == 2 * stages
    images = g(torch.zeros(2, 5))
    assert images.shape == (2, 3, size, size)
    assert d(images).shape == (2,)
    assert d.logit.in_features == 16 * 4 * 2 ** (stages - 1)


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="`blocks` must be at least 1: got 0"):
        ResidualDiscriminator(blocks=0)
    with pytest.raises(UserError, match="`image_size` must be one of"):
        ResidualGenerator(image_size=20)
