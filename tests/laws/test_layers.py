"""What is no activation normalizer (weight normalizers, TPReLU, minibatch layers) against its formula written out.

Each formula is (layer, x) → y in plain differentiable operations. Tolerances: float64 comparisons allow 1e-10, some
hundred roundings of values of order ten; bfloat16 has 8 bits, so 2e-2 of the largest value.
"""

import copy
import math

import pytest
import torch
from support.toys import close, gradients
from torch import nn
from torch.nn import functional as F

from gannorm.models.minibatch import MinibatchDiscrimination, MinibatchStddev
from gannorm.normalizers import WEIGHT_NORMALIZERS
from gannorm.normalizers.weights import TPReLU

# kind: (layer, the layer with a given weight, input shape, dimension of the outputs)
KINDS = {
    "conv": (lambda: nn.Conv2d(3, 5, 4, 2, 1), lambda x, w, b: F.conv2d(x, w, b, 2, 1), (8, 3, 6, 6), 0),
    "transposed": (
        lambda: nn.ConvTranspose2d(3, 5, 4, 2, 1),
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1),
        (8, 3, 6, 6),
        1,
    ),
    "projection": (lambda: nn.ConvTranspose2d(6, 5, 4), F.conv_transpose2d, (8, 6, 1, 1), 1),
    "linear": (lambda: nn.Linear(6, 5), F.linear, (8, 6), 0),
}


def weight(layer, kind):
    """g·v/‖v‖, one g for each output channel."""
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    others = [d for d in range(v.dim()) if d != KINDS[kind][3]]
    return g * v / v.square().sum(others, keepdim=True).sqrt()


def strict_weight(layer, kind):
    """w/‖w‖ over what one output pixel sums."""
    w = layer.parametrizations.weight.original
    others = [0] if kind == "projection" else [d for d in range(w.dim()) if d != KINDS[kind][3]]
    return w / (w.square().sum(others, keepdim=True) / (4 if kind == "transposed" else 1)).sqrt()


def standardization(layer, kind):
    """g·(w − mean)/√(fan_in·var), the mean and variance over what one output pixel sums."""
    w, norm = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
    others = [0] if kind == "projection" else [d for d in range(w.dim()) if d != KINDS[kind][3]]
    fan_in = math.prod(w.shape[d] for d in others) / (4 if kind == "transposed" else 1)
    centred = w - w.mean(others, keepdim=True)
    return norm.gain * centred / (fan_in * centred.square().mean(others, keepdim=True)).sqrt()


def spectral(layer, kind):
    """w/uᵀWv, with the vectors of the power iteration as constants."""
    w, norm = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
    matrix = w.flatten(1) if kind in ("conv", "linear", "projection") else w.transpose(0, 1).flatten(1)
    return w / (norm._u @ matrix @ norm._v)


def tprelu(layer, x):
    c, a = (p.view(1, -1, 1, 1) for p in (layer.threshold, layer.slope))
    return torch.where(x > c, x, a * (x - c) + c)


def stddev(layer, x):
    groups = x.unflatten(0, (4, -1))
    deviation = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, deviation.repeat(4).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)


def discrimination(layer, x):
    m = (x @ layer.T.weight.T).unflatten(1, (3, 2))
    rows = [sum((-(own - other).abs().sum(1)).exp() for other in m) for own in m]
    return torch.cat([x, torch.stack(rows)], 1)


def weighted(kind, name, effective):
    build, apply, shape, _ = KINDS[kind]
    # In eval mode the vectors of a power iteration stay where they are.
    return (
        lambda: WEIGHT_NORMALIZERS[name](build()).eval(),
        lambda layer, x: apply(x, effective(layer, kind), layer.bias),
        shape,
    )


CASES = {
    **{
        f"{f.__name__} {kind}": weighted(kind, f.__name__, f)
        for f in (weight, strict_weight, standardization, spectral)
        for kind in KINDS
    },
    "tprelu": (lambda: TPReLU(3), tprelu, (8, 3, 6, 6)),
    "stddev": (lambda: MinibatchStddev(), stddev, (8, 3, 6, 6)),
    "discrimination": (lambda: MinibatchDiscrimination(6, kernels=3, kernel_dim=2), discrimination, (8, 6)),
}


def make(case, dtype=torch.float64):
    """(layer, formula, x) of a case, with parameters away from their start."""
    build, formula, shape = CASES[case]
    torch.manual_seed(0)
    layer = build()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.rand(parameter.shape))  # a slope stays in [0, 1]
    return layer.to(dtype), formula, torch.randn(shape, dtype=dtype)


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_formula(case):
    layer, formula, x = make(case)
    parameters = list(layer.parameters())
    close(gradients(layer, x, parameters), gradients(lambda x: formula(layer, x), x, parameters), 1e-10)


@pytest.mark.parametrize("case", [case for case in CASES if len(CASES[case][2]) == 4])
def test_channels_last_changes_nothing(case):
    layer, _, x = make(case)
    parameters = list(layer.parameters())
    swapped = gradients(lambda x: layer(x.contiguous(memory_format=torch.channels_last)), x, parameters)
    close(swapped, gradients(layer, x, parameters), 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_maps_have_float32_statistics(case):
    layer, formula, x = make(case, torch.float32)
    coarse = x.bfloat16()
    if case == "stddev":
        coarse = (x + 20).bfloat16()  # deviations in bfloat16 would be off by 20·2^-8 = 0.08
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(coarse)
    assert y.dtype == torch.bfloat16
    close([y.detach()], [formula(layer, coarse.float()).detach()], 2e-2)
    if case == "stddev":  # the largest value is 20 there: look at the appended channel by itself
        close([y[:, 3:].float()], [formula(layer, coarse.float())[:, 3:]], 2e-2)


@pytest.mark.parametrize("case", CASES)
def test_compiled_layers_agree(case):
    torch._dynamo.reset()
    layer, _, x = make(case)
    parameters = list(layer.parameters())
    program = torch.compile(layer, backend="aot_eager")  # traced forward and backward, without code generation
    close(gradients(program, x, parameters), gradients(layer, x, parameters), 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_copies_and_state_dicts_carry_everything(case):
    layer, _, x = make(case)
    loaded = CASES[case][0]().double()
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(loaded(x), layer(x))
