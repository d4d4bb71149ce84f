"""Ghost batches are BatchNorm chunk by chunk; noise is what the paper says, and only in training mode."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS


def images(n=8, channels=3, size=4, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def test_ghost_norm_is_batch_norm_of_each_chunk_running_statistics_included():
    ghost, reference = NORMALIZERS["ghost"](3, size=2).double(), nn.BatchNorm2d(3).double()
    x = images()
    assert torch.equal(ghost(x), torch.cat([reference(chunk) for chunk in x.split(2)]))
    assert torch.equal(ghost.running_mean, reference.running_mean)
    assert torch.equal(ghost.running_var, reference.running_var)


def test_running_statistics_are_those_of_batch_norm():
    for name in ("sync", "noisy"):
        layer, reference = NORMALIZERS[name](3).double(), nn.BatchNorm2d(3).double()
        layer(images()), reference(images())
        torch.testing.assert_close(layer.running_mean, reference.running_mean, atol=1e-14, rtol=0)
        torch.testing.assert_close(layer.running_var, reference.running_var, atol=1e-14, rtol=0)
        reference.load_state_dict(layer.state_dict())
        assert torch.equal(layer.eval()(images()), reference.eval()(images()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # float32 on a CPU has a path of its own
def test_noise_has_the_distribution_of_the_paper(dtype):
    layer = NORMALIZERS["noisy"](400, shift=0.5, scale=1.25, shift_spread=0.1, scale_spread=0.1).to(dtype)
    x = images(50, 400, 4)
    torch.manual_seed(0)
    noisy, clean = layer(x.to(dtype)).double(), nn.BatchNorm2d(400).double()(x)
    # Within a channel: noisy = s·clean + m, so regression gives the channel's σ_j and μ_j.
    c, y = clean.transpose(0, 1).flatten(1), noisy.detach().transpose(0, 1).flatten(1)
    slope, offset = (c * y).mean(1), y.mean(1)  # clean has mean 0 and variance 1
    residual = y - slope[:, None] * c - offset[:, None]
    # 400 uniform draws: the ends are met to within 2 %; noise of the regression is 0.1/√800 = 0.004.
    assert -0.52 < offset.min() < -0.46 and 0.46 < offset.max() < 0.52
    assert 0.98 < slope.min() < 1.03 and 1.22 < slope.max() < 1.27
    # Residual variance r_σ²·clean² + r_μ²/3, whose mean is 0.01 + 0.0033; 320,000 values: 1 % is four standard errors.
    torch.testing.assert_close(residual.var(), torch.tensor(0.01 + 0.01 / 3, dtype=torch.float64), rtol=0.02, atol=0)


def noise(layer, x, seed):
    """(s, m) of one pass: with γ = 0 the output is s·β + m."""
    layer = copy.deepcopy(layer)
    found = []
    for bias in (0, 1):
        nn.init.zeros_(layer.weight), nn.init.constant_(layer.bias, bias)
        torch.manual_seed(seed)
        found.append(layer(x).detach())
    return found[1] - found[0], found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_value_has_uniform_and_normal_noise_of_its_own(dtype):
    layer = NORMALIZERS["noisy"](2, shift=0, scale=1, shift_spread=0.3, scale_spread=0.2).to(dtype)
    s, m = (v.flatten().double() for v in noise(layer, torch.randn(51, 2, 31, 31, dtype=dtype), seed=3))
    # 98,022 values each; Kolmogorov–Smirnov, p below 0.001 would be one seed in a thousand.
    assert stats.kstest(m, stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-3
    assert stats.kstest(s, stats.norm(1, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(s, stats.norm(1, 0.205).cdf).pvalue < 1e-3  # the negative: it would see 2.5 % of the deviation
    tails = ((s - 1).abs() > 0.6).double().mean()  # beyond three deviations: 0.0027, with a standard error of 1.7e-4
    assert tails.item() == pytest.approx(2 * stats.norm.sf(3), abs=7e-4)
    pairs = ((s, m), ((s - 1).square(), m.square()), (s, m.square()), (s[1:], s[:-1]), (m[1:], m[:-1]))
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
    assert max(abs(c.item()) for c in correlations) < 4 / len(s) ** 0.5  # four standard errors


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "odd count": lambda x: x[:3, :, :3, :3].contiguous(),
    "not dense": lambda x: x.transpose(2, 3)[:, :, ::2],
    "one line": lambda x: x[:, :, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_noisy_norm_and_its_derivatives_are_the_equation_with_the_same_noise(layout):
    layer = NORMALIZERS["noisy"](3)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x = LAYOUTS[layout](images().float())
    s, m = noise(layer, x, seed=5)

    def equation(x, weight, bias):
        axes, channel = [0, *range(2, x.dim())], (3, *(1,) * (x.dim() - 2))
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        a = (x - mean) / (variance + layer.eps).sqrt() * weight.view(channel) + bias.view(channel)
        return s * a + m

    def with_seed(x, weight, bias):
        torch.manual_seed(5)
        return layer(x)

    found = []
    for function in (with_seed, equation):
        inputs = (x.detach().requires_grad_(), layer.weight, layer.bias)
        y = function(*inputs)
        loss = y.sin().sum()
        first = torch.autograd.grad(loss, inputs, retain_graph=True)
        again = torch.autograd.grad(loss, inputs, create_graph=True)  # a penalty on gradients
        second = torch.autograd.grad(again[0].square().sum(), inputs)
        constant = torch.autograd.grad(function(*inputs).sum(), inputs)  # a gradient expanded from one number
        found.append((y, *first, *again, *second, *constant))
    # float32 against float32 with another order of sums: second derivatives reach 1e2.
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-4, atol=2e-4 * max(1, expected.abs().max().item()))
    assert found[0][0].stride() == found[1][0].stride() or layout == "not dense"


def test_noisy_norm_of_frozen_maps_and_parameters_has_the_gradients_that_are_left():
    layer = NORMALIZERS["noisy"](3)
    torch.manual_seed(5)
    layer(images().float()).square().sum().backward()
    wanted = layer.weight.grad.clone()
    layer.weight.requires_grad_(False)
    x = images().float().requires_grad_()
    torch.manual_seed(5)
    layer(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and torch.equal(layer.weight.grad, wanted)  # unchanged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_repeatable_and_absent_in_eval_mode(dtype):
    layer, x = NORMALIZERS["noisy"](3).to(dtype), images().to(dtype)
    torch.manual_seed(1)
    first = layer(x)
    assert not torch.equal(layer(x), first)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_bad_options_say_what_must_hold():
    with pytest.raises(UserError, match="`size` must divide the batch: got size=16, batch=8; try size=8"):
        NORMALIZERS["ghost"](3)(torch.zeros(8, 3, 2, 2))
    with pytest.raises(UserError, match="`size` must be at least 1: got 0"):
        NORMALIZERS["ghost"](3, size=0)
    with pytest.raises(UserError, match=r"scale ≥ 1: got .*scale=0\.5"):
        NORMALIZERS["noisy"](3, scale=0.5)
    with pytest.raises(UserError, match="more than one value a channel"):  # of a ghost batch, though not of the batch
        NORMALIZERS["ghost"](3, size=1)(torch.zeros(4, 3, 1, 1))
    for name in ("ghost", "sync", "noisy", "lp", "renorm", "local", "detached", "running"):
        with pytest.raises(UserError, match="more than one value a channel"):
            NORMALIZERS[name](3)(torch.zeros(1, 3, 1, 1))
