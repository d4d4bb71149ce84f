"""Each initialization has the moments or the algebra that it is named for, and draws from its generator alone."""

import math

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.models import Discriminator, Generator
from gannorm.models.initialization import INITIALIZERS, equalize_bias, initialize
from gannorm.models.residual import ResidualDiscriminator, ResidualGenerator
from gannorm.normalizers import WEIGHT_NORMALIZERS


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, size=8, channels=1, seed=0):
    return torch.randn(n, channels, size, size, generator=generator(seed))


def options(name):
    return {"reference": images(16)} if name == "lsuv" else {}


def build(name, **arguments):
    kind = ResidualDiscriminator if name == "fixup" else Discriminator
    return kind(8, 1, 8, **{"norm": "none", **arguments})


@pytest.mark.parametrize("norm", ["none", "noisy"])  # noisy draws from the global generators while lsuv measures
@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_generator_is_the_only_source(name, norm):
    first, second, other = (build(name, norm=norm) for _ in range(3))
    state = torch.get_rng_state()
    initialize(first, name, generator=generator(), **options(name))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    initialize(second, name, generator=generator(), **options(name))
    initialize(other, name, generator=generator(1), **options(name))
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_networks_that_differ_in_the_normalizer_start_from_the_same_weights():
    networks = [Discriminator(16, 1, 8, norm=norm) for norm in ("batch", "group", "none", "frn")]
    for network in networks:
        initialize(network, "dcgan", generator=generator())
    first, *others = [[m.weight for m in n.modules() if isinstance(m, (nn.Conv2d, nn.Linear))] for n in networks]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_dcgan_has_deviation_two_hundredths():
    conv = nn.Conv2d(64, 64, 3)
    initialize(conv, "dcgan", generator=generator())
    assert abs(conv.weight.std().item() - 0.02) < 0.0003  # 36,864 draws: four standard errors
    assert not conv.bias.any()


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_kaiming_keeps_the_mean_square_over_depth(slope):
    layers = []
    for _ in range(8):
        layers += [nn.Linear(512, 512), nn.LeakyReLU(slope)]
    network = nn.Sequential(*layers)
    initialize(network, "kaiming", generator=generator())
    y = network[:-1](torch.randn(64, 512, generator=generator(1)))
    # Before the last rectifier the mean square is gain² /2·(1+a²) = 1 times that of the layer before: 2/(1+a²) in all.
    assert y.square().mean().item() == pytest.approx(2 / (1 + slope**2), rel=0.35)


def test_fan_in_counts_what_a_transposed_convolution_sums():
    layer = nn.ConvTranspose2d(64, 128, 4, 2, 1, bias=False)
    initialize(layer, "kaiming", generator=generator())  # no rectifier in it: slope 0, gain √2
    y = layer(torch.randn(8, 64, 16, 16, generator=generator(1)))[:, :, 1:-1, 1:-1]
    assert y.square().mean().item() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(("name", "expected"), [("kaiming", 2), ("orthogonal", 1), ("delta_orthogonal", 1)])
def test_the_first_layer_of_a_generator_is_a_linear_layer(name, expected):
    layer = nn.ConvTranspose2d(64, 4, 4, bias=False)
    initialize(layer, name, generator=generator())
    z = torch.randn(500, 64, 1, 1, generator=generator(1))
    y = layer(z)
    # Orthonormal columns keep ‖z‖, spread over 4·16 = 64 outputs; He gain 2 at every output.
    assert y.square().mean().item() == pytest.approx(expected, rel=0.1)


def test_xavier_variance_is_two_over_both_fans():
    layer = nn.Linear(300, 100)
    initialize(layer, "xavier", generator=generator())
    assert layer.weight.var().item() == pytest.approx(2 / 400, rel=0.05)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3), nn.ConvTranspose2d(4, 6, 4, 2), nn.Linear(5, 9)]
)
def test_orthogonal_matrices_have_singular_values_one(layer):
    initialize(layer, "orthogonal", generator=generator())
    weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
    values = torch.linalg.svdvals(weight.flatten(1))
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)  # float32


def test_delta_orthogonal_turns_every_pixel():
    conv, transposed = nn.Conv2d(4, 8, 3, 1, 1), nn.ConvTranspose2d(4, 8, 4, 2, 1)
    x = torch.randn(2, 4, 6, 6, generator=generator(1))
    for layer in (conv, transposed):
        initialize(layer, "delta_orthogonal", generator=generator())
    lengths = x.norm(dim=1)
    torch.testing.assert_close(conv(x).norm(dim=1), lengths, atol=1e-5, rtol=0)  # float32
    repeated = lengths.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(transposed(x).norm(dim=1), repeated, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weight_norm", ["none", "weight"])
def test_lsuv_gives_every_layer_unit_variance(weight_norm):
    network, reference = build("lsuv", weight_norm=weight_norm), images(64)
    initialize(network, "lsuv", generator=generator(), reference=reference)
    outputs = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda m, i, y: outputs.append(y.std(correction=0).item()))
    network(reference)
    assert outputs == pytest.approx([1.0] * len(outputs), abs=1e-4)  # float32


def test_lsuv_leaves_running_statistics_alone():
    network = build("lsuv", norm="batch")
    before = {k: v.clone() for k, v in network.named_buffers()}
    initialize(network, "lsuv", generator=generator(), reference=images(16))
    assert all(torch.equal(before[k], v) for k, v in network.named_buffers())


@pytest.mark.parametrize("name", ["dcgan", "orthogonal"])
def test_spectral_norm_knows_the_new_weights_at_once(name):
    network = build(name, weight_norm="spectral")
    initialize(network, name, generator=generator())
    network.eval()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            value = torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
            assert 0.99 < value < 1.2  # 15 power iterations; torch's own start is as near


@pytest.mark.parametrize("weight_norm", [w for w in WEIGHT_NORMALIZERS if w != "none"])
def test_fixup_refuses_weight_normalizers(weight_norm):
    reason = "zero weights, which a weight normalizer would divide by their norm"
    if weight_norm == "standardization":  # which keeps a weight of zero
        reason = "fixup works by the scale of the weights, which this network's weight normalizer removes"
    with pytest.raises(UserError, match=reason):
        initialize(build("fixup", weight_norm=weight_norm), "fixup", generator=generator())


@pytest.mark.parametrize("weight_norm", ["spectral", "strict_weight", "standardization"])
def test_lsuv_refuses_normalizers_that_remove_the_scale(weight_norm):
    with pytest.raises(UserError, match="which this network's weight normalizer removes"):
        initialize(build("lsuv", weight_norm=weight_norm), "lsuv", generator=generator(), reference=images(16))


def test_other_mistakes_say_what_to_do():
    conv = nn.Conv2d(1, 1, 3)
    with pytest.raises(UserError, match="did you mean 'orthogonal'"):
        initialize(conv, "orthogonl", generator=generator())
    with pytest.raises(UserError, match="'lsuv' needs a reference batch: got none"):
        initialize(conv, "lsuv", generator=generator())
    with pytest.raises(UserError, match="reference batch on which every layer varies"):
        initialize(conv, "lsuv", generator=generator(), reference=torch.zeros(2, 1, 4, 4))
    with pytest.raises(UserError, match="'dcgan' has no option 'std': it takes none"):
        initialize(conv, "dcgan", generator=generator(), std=1)
    with pytest.raises(UserError, match="fixup needs residual blocks"):
        initialize(conv, "fixup", generator=generator())
    with pytest.raises(UserError, match="got a generator"):
        g = ResidualGenerator(8, 1, 4, 2, blocks=1)
        initialize(g, "fixup", generator=generator(), zero_classifier=True)


def test_equalized_bias_calls_half_of_the_images_real():
    network, batch = build("kaiming"), images(64) + 0.5
    initialize(network, "kaiming", generator=generator())
    with torch.no_grad():
        network.logit.bias.fill_(9)
        assert (network(batch) > 0).float().mean() == 1
        shift = equalize_bias(network, [batch])
        assert (network(batch) > 0).float().mean() == 0.5
    assert shift == pytest.approx(network.logit.bias.item() - 9, abs=1e-5)
    assert equalize_bias(network, [batch]) == pytest.approx(0, abs=1e-5)
    with pytest.raises(UserError, match="whose last layer is a Linear with bias: it has none"):
        equalize_bias(nn.Conv2d(1, 1, 8), [batch])


def test_the_bias_is_equalized_in_the_batches_that_are_given():
    network, batches = build("kaiming", norm="batch"), [images(16) + 2, images(16, seed=1) - 2]
    initialize(network, "kaiming", generator=generator())
    equalize_bias(network, batches)
    with torch.no_grad():
        assert torch.cat([network(batch) for batch in batches]).gt(0).float().mean() == 0.5
        # Batch statistics make the same images, mixed, another matter.
        shift = equalize_bias(network, [torch.cat(batches)])
    assert abs(shift) > 1e-3


def test_lsuv_lets_virtual_layers_take_the_reference_and_forget_it():
    network, reference = build("lsuv", norm="virtual"), images(16)
    twin = build("lsuv", norm="batch")
    for each in (network, twin):
        initialize(each, "lsuv", generator=generator(), reference=reference)
    # With the reference for its batch, virtual normalization is batch normalization.
    for (name, weight), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-5, rtol=1e-4, msg=name)  # float32, two kernels
    with pytest.raises(UserError, match="needs its reference batch first"):
        network(reference)


def test_every_layer_of_the_pair_is_reached():
    for network in (Discriminator(16, 3, 8), Generator(16, 3, 8, 4)):
        initialize(network, "dcgan", generator=generator())
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                assert math.isclose(module.weight.std().item(), 0.02, rel_tol=0.3)
