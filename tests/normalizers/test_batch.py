"""Ghost batches are BatchNorm chunk by chunk; noise is what the paper says, and only in training mode."""

import pytest
import torch
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


def test_noise_has_the_distribution_of_the_paper():
    layer = NORMALIZERS["noisy"](400, shift=0.5, scale=1.25, shift_spread=0.1, scale_spread=0.1).double()
    x = images(50, 400, 4)
    torch.manual_seed(0)
    noisy, clean = layer(x), nn.BatchNorm2d(400).double()(x)
    # Within a channel: noisy = s·clean + m, so regression gives the channel's σ_j and μ_j.
    c, y = clean.transpose(0, 1).flatten(1), noisy.detach().transpose(0, 1).flatten(1)
    slope, offset = (c * y).mean(1), y.mean(1)  # clean has mean 0 and variance 1
    residual = y - slope[:, None] * c - offset[:, None]
    # 400 uniform draws: the ends are met to within 2 %; noise of the regression is 0.1/√800 = 0.004.
    assert -0.52 < offset.min() < -0.46 and 0.46 < offset.max() < 0.52
    assert 0.98 < slope.min() < 1.03 and 1.22 < slope.max() < 1.27
    # Residual variance r_σ²·clean² + r_μ²/3, whose mean is 0.01 + 0.0033; 320,000 values: 1 % is four standard errors.
    torch.testing.assert_close(residual.var(), torch.tensor(0.01 + 0.01 / 3, dtype=torch.float64), rtol=0.02, atol=0)


def test_noise_is_repeatable_and_absent_in_eval_mode():
    layer, x = NORMALIZERS["noisy"](3).double(), images()
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
    for name in ("ghost", "sync", "noisy", "lp", "renorm"):
        with pytest.raises(UserError, match="more than one value a channel"):
            NORMALIZERS[name](3)(torch.zeros(1, 3, 1, 1))
