"""Weight normalizers against their definitions, in every kind of layer, and TPReLU against its formula."""

import copy

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS
from gannorm.normalizers.weights import TPReLU

BUILD = {
    "conv": lambda: nn.Conv2d(3, 5, 4, 2, 1),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 4, 2, 1),
    "linear": lambda: nn.Linear(3, 5),
}


def layer(kind, name, last=False, seed=0):
    torch.manual_seed(seed)
    return WEIGHT_NORMALIZERS[name](BUILD[kind]().double(), last=last)


def by_output(kind, weight):
    return (weight.transpose(0, 1) if kind == "transposed" else weight).flatten(1)


def inputs(kind):
    shape = (4, 3) if kind == "linear" else (4, 3, 6, 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", BUILD)
def test_spectral_norm_has_singular_value_one(kind):
    module = layer(kind, "spectral")
    for _ in range(100):  # power iterations
        weight = module.weight
    assert abs(torch.linalg.matrix_norm(by_output(kind, weight), 2).item() - 1) < 1e-6


@pytest.mark.parametrize("kind", BUILD)
def test_weight_norm_starts_at_the_given_weight_and_its_gain_sets_each_output(kind):
    torch.manual_seed(0)
    given = BUILD[kind]().double().weight
    module = layer(kind, "weight")
    torch.testing.assert_close(module.weight, given, atol=1e-12, rtol=0)  # float64
    gain = module.parametrizations.weight.original0
    assert gain.numel() == 5  # one for each output unit, also of a transposed convolution
    with torch.no_grad():
        gain.fill_(3)
    norms = by_output(kind, module.weight).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", BUILD)
def test_strict_weight_norm_is_a_cosine_without_gain_and_bias(kind):
    module = layer(kind, "strict_weight")
    assert [name for name, _ in module.named_parameters()] == ["parametrizations.weight.original"]
    expected = 4.0**0.5 if kind == "transposed" else 1.0  # ‖w‖² = stride_h·stride_w there
    norms = by_output(kind, module.weight).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, expected), atol=1e-12, rtol=0)
    before = module(inputs(kind))
    with torch.no_grad():
        module.parametrizations.weight.original.mul_(7)
    torch.testing.assert_close(module(inputs(kind)), before, atol=1e-12, rtol=0)  # no scale is left


@pytest.mark.parametrize("kind", BUILD)
def test_standardized_weights_have_mean_zero_and_one_over_fan_in_as_variance(kind):
    module = layer(kind, "standardization")
    norm = module.parametrizations.weight[0]
    assert norm.gain.numel() == 5  # one for each output unit
    with torch.no_grad():
        norm.gain.fill_(3)
    rows = by_output(kind, module.weight)
    fan_in = rows.shape[1] / (4 if kind == "transposed" else 1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5).double(), atol=1e-12, rtol=0)  # float64
    torch.testing.assert_close(rows.square().mean(1) * fan_in, torch.full((5,), 9.0).double(), atol=1e-12, rtol=0)
    with torch.no_grad():
        module.parametrizations.weight.original.zero_()
    assert not module.weight.any()  # and no division by zero


def test_standardization_keeps_the_variance_from_rectifier_to_rectifier():
    torch.manual_seed(0)
    x = torch.randn(256, 400)
    layers = [WEIGHT_NORMALIZERS["standardization"](nn.Linear(400, 400, bias=False)) for _ in range(8)]
    variances = []
    for linear in layers:
        x = linear(x).relu()
        variances.append(x.var(0).mean().item())
    # After the first rectifier the variance over images is 1 for ever; 400 units: a few per cent a layer.
    assert all(0.7 < variance / variances[0] < 1.4 for variance in variances[1:])
    last = WEIGHT_NORMALIZERS["standardization"](nn.Linear(3, 1), last=True)
    assert not nn.utils.parametrize.is_parametrized(last)


def test_strict_weight_norm_keeps_the_variance_of_white_maps_also_where_the_convolution_is_transposed():
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind in ("conv", "transposed"):
        torch.manual_seed(0)
        build = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
        wide = WEIGHT_NORMALIZERS["strict_weight"](build(3, 200, 4, 2, 1).double())
        y = wide(x[:8])[:, :, 2:-2, 2:-2]  # away from the padding
        # The mean over 200 random kernels of the variance; ±5 % is four of its standard errors.
        assert abs(y.square().mean().item() - 1) < 0.05


def test_the_output_layer_keeps_gain_and_bias_under_strict_weight_norm():
    module = layer("linear", "strict_weight", last=True)
    names = {name for name, _ in module.named_parameters()}
    assert names == {"bias", "parametrizations.weight.original0", "parametrizations.weight.original1"}


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("name", WEIGHT_NORMALIZERS)
def test_state_dicts_and_copies_carry_everything(name, kind):
    module = layer(kind, name).eval()
    loaded = layer(kind, name, seed=1).eval()
    loaded.load_state_dict(module.state_dict())
    expected = module(inputs(kind))
    assert torch.equal(loaded(inputs(kind)), expected)
    assert torch.equal(copy.deepcopy(module)(inputs(kind)), expected)


@pytest.mark.parametrize("weight_norm", WEIGHT_NORMALIZERS)
@pytest.mark.parametrize("norm", [name for name, entry in NORMALIZERS.items() if not entry.reference])
def test_every_cross_gives_finite_outputs_and_gradients(norm, weight_norm):
    options = {"size": 4} if norm == "ghost" else {}
    torch.manual_seed(0)
    conv = WEIGHT_NORMALIZERS[weight_norm](nn.Conv2d(3, 8, 3))
    network = nn.Sequential(conv, NORMALIZERS[norm](8, **options))
    network(inputs("conv").float()).pow(3).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_other_modules_are_refused():
    with pytest.raises(UserError, match="acts on Conv2d, ConvTranspose2d or Linear: got BatchNorm2d"):
        WEIGHT_NORMALIZERS["spectral"](nn.BatchNorm2d(3))


def projection(name, seed=0):
    """A generator's first layer: 16 × 1 × 1 → 5 × 4 × 4."""
    torch.manual_seed(seed)
    return WEIGHT_NORMALIZERS[name](nn.ConvTranspose2d(16, 5, 4, bias=False).double())


def test_a_generators_first_layer_is_normalized_as_the_linear_layer_that_it_is():
    z = torch.randn(20_000, 16, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variance = projection("strict_weight")(z).var(0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.05, rtol=0)  # 0.01 is a standard error
    module = projection("spectral")
    for _ in range(300):  # power iterations
        weight = module.weight
    assert abs(torch.linalg.matrix_norm(weight.flatten(1), 2).item() - 1) < 1e-6  # (16, 5·4·4), the map's matrix


def test_a_slope_that_has_left_its_range_comes_back():
    activation = TPReLU(1)
    with torch.no_grad():
        activation.slope.fill_(1.2)
    optimizer = torch.optim.SGD(activation.parameters(), lr=0.1)
    for _ in range(20):  # toward the slope 0.5: y(−1) = −0.5
        optimizer.zero_grad()
        (activation(-torch.ones(1, 1)) + 0.5).square().sum().backward()
        activation.threshold.grad = None
        optimizer.step()
    assert activation.slope.item() == pytest.approx(0.5, abs=0.05)


def test_tprelu_is_a_prelu_with_a_moved_kink():
    x = torch.linspace(-2, 2, 24, dtype=torch.float64).view(2, 3, 2, 2)
    activation = TPReLU(3).double()
    assert torch.equal(activation(x), nn.functional.leaky_relu(x, 0.25))
    with torch.no_grad():
        activation.threshold.copy_(torch.tensor([-1.0, 0.0, 1.0]))
        activation.slope.copy_(torch.tensor([-0.5, 0.5, 1.5]))  # kept in [0, 1]: acts as 0, 0.5, 1
    c, a = activation.threshold.view(3, 1, 1), torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)
    expected = torch.where(x > c, x, a * (x - c) + c)
    torch.testing.assert_close(activation(x), expected, atol=1e-15, rtol=0)
    assert activation(torch.ones(4, 3, dtype=torch.float64)).shape == (4, 3)
    assert WEIGHT_NORMALIZERS["strict_weight"].activation is TPReLU
