"""Every normalizer against its formula written out slowly: output, gradients, precision, layout, copies, compilation.

Each formula is (layer, x) → y for x (N, C, H, W) in training mode, in plain differentiable operations. A new entry of
the registry needs a line in CASES, and is then covered by every test below.

Tolerances: float64 comparisons allow 1e-10, some hundred roundings of values of order ten; float32 ones 1e-4; bfloat16
has 8 bits, so 2e-2 of the largest value.
"""

import copy
import math

import pytest
import torch
from support.toys import close, gradients, loss

from gannorm.normalizers import NORMALIZERS

N, C, S = 8, 16, 4
REFERENCE_BATCH = 6


def standardize(x, dims, eps):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + eps).sqrt()


def per_channel(parameter):
    return parameter.view(1, -1, 1, 1)


def scaled(layer, x_hat):
    return per_channel(layer.weight) * x_hat + per_channel(layer.bias)


def batch(layer, x):
    return scaled(layer, standardize(x, (0, 2, 3), layer.eps))


def ghost(layer, x):
    return torch.cat([batch(layer, part) for part in x.split(layer.size)])


def grouped(layer, x, groups):
    parts = standardize(x.reshape(len(x), groups, -1), (2,), layer.eps)
    return scaled(layer, parts.reshape(x.shape))


def instance(layer, x):
    return scaled(layer, standardize(x, (2, 3), layer.eps))


def lp(layer, x):
    magnitude = x.abs()
    if layer.p == math.inf:
        s = magnitude.amax((0, 2, 3), keepdim=True)
    else:
        s = magnitude.pow(layer.p).mean((0, 2, 3), keepdim=True).pow(1 / layer.p)
    return scaled(layer, (x - x.mean((0, 2, 3), keepdim=True)) / (s.square() + layer.eps).sqrt())


def renorm(layer, x):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    sigma_b, sigma = (var + layer.eps).sqrt(), (per_channel(layer.running_var) + layer.eps).sqrt()
    passes = layer.num_batches_tracked.item() + 1 - layer.start
    r_max = 1 + (layer.r_max - 1) * min(max(passes / max(layer.r_end - layer.start, 1), 0), 1)
    d_max = layer.d_max * min(max(passes / max(layer.d_end - layer.start, 1), 0), 1)
    r = (sigma_b / sigma).clamp(1 / r_max, r_max).detach()
    d = ((mean - per_channel(layer.running_mean)) / sigma).clamp(-d_max, d_max).detach()
    return scaled(layer, (x - mean) / sigma_b * r + d)


def virtual(layer, x):
    r = layer.ref_size
    mean_ref, square_ref = per_channel(layer.ref_mean), per_channel(layer.ref_var + layer.ref_mean.square())
    mean = (x.mean((2, 3), keepdim=True) + r * mean_ref) / (r + 1)
    square = (x.square().mean((2, 3), keepdim=True) + r * square_ref) / (r + 1)
    return scaled(layer, (x - mean) / (square - mean.square() + layer.eps).sqrt())


def detached(layer, x):
    mean, var = x.mean((0, 2, 3), keepdim=True).detach(), x.var((0, 2, 3), correction=0, keepdim=True).detach()
    return scaled(layer, (x - mean) / (var + layer.eps).sqrt())


def running(layer, x):
    mean, var = per_channel(layer.running_mean.clone()), per_channel(layer.running_var.clone())
    return scaled(layer, (x - mean) / (var + layer.eps).sqrt())


def reference(layer, x):
    return scaled(layer, (x - per_channel(layer.ref_mean)) / (per_channel(layer.ref_var) + layer.eps).sqrt())


def local(layer, x):
    return torch.cat([batch(layer, part) for part in x.tensor_split(math.ceil(len(x) / layer.size))])


def frn(layer, x):
    y = scaled(layer, x / (x.square().mean((2, 3), keepdim=True) + layer.eps).sqrt())
    return torch.maximum(y, per_channel(layer.threshold))


def evonorm_s0(layer, x):
    var = x.reshape(len(x), layer.groups, -1).var(2, correction=0)
    deviation = (var + layer.eps).sqrt().repeat_interleave(C // layer.groups, 1)[:, :, None, None]
    return scaled(layer, x * torch.sigmoid(per_channel(layer.v) * x) / deviation)


CASES = {
    "batch": ("batch", {}, batch),
    "batch without affine": ("batch", {"affine": False}, lambda layer, x: standardize(x, (0, 2, 3), layer.eps)),
    "sync": ("sync", {}, batch),
    "detached": ("detached", {}, detached),
    "running": ("running", {}, running),
    "local": ("local", {"size": 4}, local),
    "local uneven": ("local", {"size": 3}, local),
    "ghost": ("ghost", {"size": 4}, ghost),
    "group": ("group", {"groups": 4}, lambda layer, x: grouped(layer, x, 4)),
    "instance": ("instance", {}, instance),
    "layer": ("layer", {}, lambda layer, x: grouped(layer, x, 1)),
    "none": ("none", {}, lambda layer, x: x),
    "lp 1": ("lp", {"p": 1}, lp),
    "lp 2": ("lp", {"p": 2}, lp),
    "lp inf": ("lp", {"p": "inf"}, lp),
    "renorm at its start": ("renorm", {}, batch),
    "renorm clipped": ("renorm", {"r_max": 1.1, "d_max": 0.1, "start": 0, "r_end": 0, "d_end": 0}, renorm),
    "renorm half-way": ("renorm", {"r_max": 3.0, "d_max": 5.0, "start": 0, "r_end": 8, "d_end": 4}, renorm),
    "renorm unclipped": ("renorm", {"r_max": 1e3, "d_max": 1e3, "start": 0, "r_end": 0, "d_end": 0}, renorm),
    "noisy without noise": ("noisy", {"shift": 0, "scale": 1, "shift_spread": 0, "scale_spread": 0}, batch),
    "virtual": ("virtual", {}, virtual),
    "reference": ("reference", {}, reference),
    "reference without gradient": ("reference", {"gradient": False}, reference),
    "dyt": ("dyt", {}, lambda layer, x: scaled(layer, torch.tanh(layer.alpha * x))),
    "derf": ("derf", {}, lambda layer, x: scaled(layer, torch.erf(layer.alpha * x + layer.shift))),
    "frn": ("frn", {}, frn),
    "evonorm_s0": ("evonorm_s0", {"groups": 4}, evonorm_s0),
}


def make(case, dtype=torch.float64, seed=0):
    """(layer, formula, x) of a case: random parameters, running statistics away from their start, x off centre."""
    name, options, formula = CASES[case]
    generator = torch.Generator().manual_seed(seed)
    layer = NORMALIZERS[name](C, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for buffer_name, buffer in layer.named_buffers():
            if buffer_name == "ref_size":
                buffer.fill_(REFERENCE_BATCH)
            elif buffer.is_floating_point():
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator))
    x = 0.5 + 1.5 * torch.randn(N, C, S, S, generator=generator, dtype=torch.float64)
    return layer.to(dtype), formula, x.to(dtype)


def test_every_entry_has_a_case():
    assert {name for name, _, _ in CASES.values()} == {name for name in NORMALIZERS if "_centred" not in name}


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_formula(case):
    layer, formula, x = make(case)
    parameters = list(layer.parameters())
    expected = gradients(lambda x: formula(layer, x), x, parameters)
    close(gradients(layer, x, parameters), expected, 1e-10)


@pytest.mark.parametrize("centre", [100, 10_000])
@pytest.mark.parametrize("case", CASES)
def test_float32_agrees_with_float64_even_far_off_centre(case, centre):
    layer, formula, x = make(case)
    x = (x + centre).float().double()  # both see the same numbers
    expected = formula(layer, x).detach()
    single = copy.deepcopy(layer).float()
    # Centring loses log2(centre) bits of 24: centre · 2^-24 of a standard deviation. A few roundings beside.
    close([single(x.float()).detach()], [expected], 1e-6 + centre * 2**-24)


@pytest.mark.parametrize("case", CASES)
def test_channels_last_changes_nothing(case):
    layer, _, x = make(case)
    other = copy.deepcopy(layer)
    expected = gradients(layer, x, list(layer.parameters()))
    swapped = gradients(lambda x: other(x.contiguous(memory_format=torch.channels_last)), x, list(other.parameters()))
    close(swapped, expected, 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_maps_have_float32_statistics(case):
    layer, _, x = make(case, torch.float32)
    coarse = (x + 20).bfloat16()  # statistics in bfloat16 would be off by 20·2^-8 = 0.08 and more
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()

    def evaluate(layer, x):
        x = x.requires_grad_()
        y = layer(x)
        return y, *torch.autograd.grad(y, x, direction.to(y.dtype))

    expected = evaluate(copy.deepcopy(layer), coarse.float())
    with torch.autocast("cpu", torch.bfloat16):
        actual = evaluate(layer, coarse)
    assert actual[0].dtype == torch.bfloat16
    close(actual, expected, 2e-2)


@pytest.mark.parametrize("case", CASES)
def test_one_image_is_enough_where_the_map_has_pixels(case):
    layer, formula, x = make(case)
    if case == "ghost":
        layer.size = 1
    x = x[:1]
    expected = formula(layer, x).detach()  # first: it reads the running statistics that the layer moves
    close([layer(x).detach()], [expected], 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_eval_mode_treats_images_one_by_one_and_keeps_its_state(case):
    layer, _, x = make(case)
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    together, alone = layer(x), torch.cat([layer(image[None]) for image in x])
    if NORMALIZERS[CASES[case][0]].eval_coupling:
        assert not torch.allclose(together, alone, atol=0.01)
    else:
        torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)  # sums of another batch size, in float64
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("case", CASES)
def test_copies_and_state_dicts_carry_everything(case):
    layer, _, x = make(case)
    layer(
        x.clone().requires_grad_()
    ).sum().backward()  # a copy after a backward pass, as an average of the weights makes it
    name, options, _ = CASES[case]
    loaded = NORMALIZERS[name](C, **options).double()
    loaded.load_state_dict(layer.state_dict())
    copied = copy.deepcopy(layer)
    expected = layer(x)
    assert torch.equal(copied(x), expected)
    assert torch.equal(loaded(x), expected)
    assert all(torch.equal(v, copied.state_dict()[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_are_those_of_the_formula(case):
    layer, formula, x = make(case)

    def penalty(function):
        inner = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(function(inner)), inner, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [inner, *layer.parameters()], allow_unused=True)

    # The formula first: it reads the running statistics that the layer moves.
    expected = penalty(lambda x: formula(layer, x))
    for a, e in zip(penalty(layer), expected, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            torch.testing.assert_close(a, e, atol=1e-8 * e.abs().max().clamp(min=1).item(), rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_several_losses_at_once(case):
    layer, _, x = make(case)
    x = x.requires_grad_()
    y = layer(x)
    directions = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (batched,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(y, x, d, retain_graph=True)[0] for d in directions]
    torch.testing.assert_close(batched, torch.stack(single), atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_compiled_layers_agree(case):
    torch._dynamo.reset()
    layer, _, x = make(case)
    compiled = copy.deepcopy(layer)
    expected = gradients(layer, x, list(layer.parameters()))
    program = torch.compile(compiled, backend="aot_eager")  # traced forward and backward, without code generation
    close(gradients(program, x, list(compiled.parameters())), expected, 1e-10)
    state = compiled.state_dict()  # float64; compiled moments sum in another order
    close([state[k].double() for k in layer.state_dict()], [v.double() for v in layer.state_dict().values()], 1e-14)


@pytest.mark.parametrize("case", CASES)
def test_declared_coupling_is_the_measured_one(case):
    layer, _, x = make(case)
    entry = NORMALIZERS[CASES[case][0]]
    with torch.no_grad():
        first = copy.deepcopy(layer)(x)[0]
        second = copy.deepcopy(layer)(torch.cat([x[:1], 3 * x[1:].flip(0) + 1]))[0]
    inner = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(layer(inner)[:1]), inner)
    forward, gradient = not torch.equal(first, second), bool(slope[1:].any())
    if case in ("renorm at its start", "renorm clipped", "renorm half-way"):
        assert forward  # its note says so
    else:
        assert forward == entry.forward_coupling
    assert gradient == entry.gradient_coupling
