"""What holds for every entry of the two registries, so that a new entry is covered without a new test.

Tolerances: float64 comparisons allow 1e-10, some hundred roundings of values of order ten; float32 ones 1e-4; bfloat16
has 8 bits, so 2e-2 of the largest value.
"""

import copy

import pytest
import torch
from formulas import CASES, C, make
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, normalizer
from gannorm.normalizers.slots import NORMALIZERS as REGISTRY

SMOOTH = [case for case in CASES if case not in ("lp 1", "lp inf", "frn")]  # second derivatives by finite differences


def loss(y):
    """A scalar with a different slope everywhere, so that no gradient vanishes by symmetry."""
    return (y.sin() * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view_as(y)).sum()


def gradients(function, x, parameters):
    x = x.detach().clone().requires_grad_()
    y = function(x)
    found = torch.autograd.grad(loss(y.to(torch.promote_types(y.dtype, torch.float32))), [x, *parameters])
    return [y.detach(), *found]


def close(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        scale = e.abs().max().clamp(min=1).item()
        torch.testing.assert_close(a.to(e.dtype), e, atol=tolerance * scale, rtol=0)


def test_every_entry_has_a_case():
    assert {name for name, _, _ in CASES.values()} == {name for name in NORMALIZERS if "_centred" not in name}


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_formula(case):
    layer, formula, x = make(case)
    parameters = list(layer.parameters())
    expected = gradients(lambda x: formula(layer, x), x, parameters)
    close(gradients(layer, x, parameters), expected, 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_float32_agrees_with_float64_even_far_off_centre(case):
    layer, formula, x = make(case)
    x = (x + 100).float().double()  # both see the same numbers
    expected = formula(layer, x).detach()
    single = copy.deepcopy(layer).float()
    # Centring loses log2(100) bits of 24: 100 · 2^-24 of a standard deviation, and a few roundings.
    tolerance = 1e-4 if case not in ("none", "frn", "evonorm_s0") else 1e-3
    close([single(x.float()).detach()], [expected], tolerance)


@pytest.mark.parametrize("case", CASES)
def test_channels_last_changes_nothing(case):
    layer, _, x = make(case)
    other = copy.deepcopy(layer)
    expected = gradients(layer, x, list(layer.parameters()))
    swapped = gradients(
        lambda x: other(x.contiguous(memory_format=torch.channels_last)), x, list(other.parameters())
    )
    close(swapped, expected, 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_maps_have_float32_statistics(case):
    layer, _, x = make(case, torch.float32)
    coarse = (x + 20).bfloat16()  # statistics in bfloat16 would be off by 20·2^-8 = 0.08 and more
    expected = gradients(copy.deepcopy(layer), coarse.float(), [])
    with torch.autocast("cpu", torch.bfloat16):
        actual = gradients(layer, coarse, [])
    assert actual[0].dtype == torch.bfloat16 or case == "none"
    close(actual, expected, 2e-2)


@pytest.mark.parametrize("case", CASES)
def test_one_image_is_enough_where_the_map_has_pixels(case):
    layer, formula, x = make(case)
    if case == "ghost":
        layer.size = 1
    x = x[:1]
    close([layer(x).detach()], [formula(layer, x).detach()], 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_eval_mode_treats_images_one_by_one_and_keeps_its_state(case):
    layer, _, x = make(case)
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    together, alone = layer(x), torch.cat([layer(image[None]) for image in x])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)  # sums of another batch size, in float64
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("case", CASES)
def test_copies_and_state_dicts_carry_everything(case):
    layer, _, x = make(case)
    layer(x).sum().backward()  # a copy after a backward pass, as an average of the weights makes it
    name, options, _ = CASES[case]
    loaded = NORMALIZERS[name](C, **options).double()
    loaded.load_state_dict(layer.state_dict())
    copied = copy.deepcopy(layer)
    expected = layer(x)
    assert torch.equal(copied(x), expected)
    assert torch.equal(loaded(x), expected)
    assert all(torch.equal(v, copied.state_dict()[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("case", SMOOTH)
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
    assert all(torch.equal(v, compiled.state_dict()[k]) for k, v in layer.state_dict().items())


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


def test_own_normalizer_in_five_lines(monkeypatch):
    monkeypatch.setattr(REGISTRY, "_entries", dict(REGISTRY._entries))

    @normalizer("mine", forward_coupling=False, gradient_coupling=False)
    def mine(channels, eps=1e-5):
        return nn.GroupNorm(2, channels, eps=eps)

    assert isinstance(NORMALIZERS["mine"](8, eps=0.1), nn.GroupNorm)
    assert NORMALIZERS["mine"].options == {"eps": 1e-5}
    with pytest.raises(UserError, match="normalizer names must be unique: 'batch' is registered already"):
        normalizer("batch", forward_coupling=False, gradient_coupling=False)(mine)


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'group'"):
        NORMALIZERS["grup"]
    with pytest.raises(UserError, match="normalizer 'group' has no option 'group': did you mean 'groups'"):
        NORMALIZERS["group"](64, group=8)
    with pytest.raises(UserError, match="normalizer 'none' has no option 'eps': it takes none"):
        NORMALIZERS["none"](64, eps=1e-3)


def test_check_refuses_maps_without_a_variance():
    NORMALIZERS["instance"].check(2)
    NORMALIZERS["group"].check(1)
    with pytest.raises(UserError, match="'instance' needs maps of at least 2 pixels: got 1x1"):
        NORMALIZERS["instance"].check(1)


def test_entries_are_descriptions():
    assert all(isinstance(entry, Normalizer) and name == entry.name for name, entry in NORMALIZERS.items())
    assert {n for n, e in NORMALIZERS.items() if e.activation} == {"frn", "evonorm_s0"}
    assert {n for n, e in NORMALIZERS.items() if e.needs_reference} == {"virtual"}
    assert list(WEIGHT_NORMALIZERS) == ["none", "spectral", "weight", "strict_weight"]
