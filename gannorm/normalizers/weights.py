"""Weight normalizers: none, spectral, weight, standardization, and strict weight normalization with its TPReLU.

They constrain a layer's weight and never see an activation, so they cannot couple the batch.

A transposed convolution of stride 1 without padding is taken for what it is in a generator, the linear layer from a
1×1 map to its first maps: each output pixel sums one tap of the kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from gannorm.normalizers.slots import WEIGHT_NORMALIZERS, WeightNormalizer


def none(module: nn.Module, last: bool = False) -> nn.Module:
    """No weight normalizer, as a choice of its own."""
    return module


def spectral(module: nn.Module, last: bool = False) -> nn.Module:
    """w / σ(w), σ the largest singular value of w as an (outputs × rest) matrix, one power iteration a forward pass.

    In a generator's first layer the outputs are channels and pixels, and σ is the norm of the linear layer that it is.

    Source: Miyato et al. 2018, Eq. 8 and Algorithm 1; torch's parametrization.
    """
    return parametrizations.spectral_norm(module, dim=0 if is_projection(module) else _output_dim(module))


def weight(module: nn.Module, last: bool = False) -> nn.Module:
    """g·v / ‖v‖ for each output channel, with the gain g learned, starting at ‖v‖.

    The pixels of a channel share its gain, in a generator's first layer too.

    Source: Salimans & Kingma 2016, Eq. 2; torch's parametrization, along the output dimension of transposed layers too.
    """
    return parametrizations.weight_norm(module, dim=_output_dim(module))


def strict_weight(module: nn.Module, last: bool = False) -> nn.Module:
    """w / ‖w‖ for each output unit, without gain and bias; the output layer keeps both (then it is `weight`).

    The norm runs over what one output pixel sums: the input channels and the kernel. A transposed convolution of stride
    (s_h, s_w) sums only 1/(s_h·s_w) of its kernel into one output pixel, so there ‖w‖² is divided by s_h·s_w; a
    generator's first layer sums one tap, so there the norm runs over the input channels alone.

    Source: Xiang & Li 2017, section 3; the generator's first layer is defined here.

    >>> conv = WEIGHT_NORMALIZERS["strict_weight"](nn.Conv2d(3, 2, 3))
    >>> bool(torch.allclose(conv.weight.flatten(1).norm(dim=1), torch.ones(2))), conv.bias
    (True, None)
    """
    if last:
        return weight(module)
    module.register_parameter("bias", None)
    parametrize.register_parametrization(module, "weight", StrictWeightNorm(*_summed(module)))
    return module


def standardization(module: nn.Module, last: bool = False) -> nn.Module:
    """ŵ = g·(w − mean w)/√(fan_in·var w) for each output unit, with the gain g learned; the output layer stays plain.

    Mean and variance run over what one output pixel sums: the input channels and the kernel (in a generator's first
    layer the input channels alone). A transposed convolution of stride (s_h, s_w) sums 1/(s_h·s_w) of its kernel, which
    is its fan-in. g starts at √(2/(1 − 1/π)), which keeps the variance from ReLU to ReLU.

    Source: Qiao et al. 2019 (1903.10520), Eq. 3; scaled by the fan-in and with that gain: Brock et al. 2021
    (2101.08692), section 4.3, as is the learned gain of their later networks (2102.06171) [recalled]; transposed
    layers are defined here.
    """
    if last:
        return module
    summed, share = _summed(module)
    weight = module.get_parameter("weight")
    kept = [1 if d in summed else size for d, size in enumerate(weight.shape)]
    fan_in = weight.numel() / math.prod(kept) / share
    parametrize.register_parametrization(module, "weight", WeightStandardization(summed, fan_in, kept))
    return module


def is_projection(module: nn.Module) -> bool:
    """Whether a layer is, in a generator, the linear layer from a 1×1 map to its first maps."""
    return isinstance(module, nn.ConvTranspose2d) and module.stride == (1, 1) and module.padding == (0, 0)


class StrictWeightNorm(nn.Module):
    """The parametrization of `strict_weight`: w / √(‖w‖²/share), the norm over the dimensions in `summed`."""

    def __init__(self, summed: tuple[int, ...], share: int) -> None:
        super().__init__()
        self.summed, self.share = summed, share

    def forward(self, w: Tensor) -> Tensor:
        return w * (self.share**0.5 / torch.linalg.vector_norm(w, dim=self.summed, keepdim=True))

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


class WeightStandardization(nn.Module):
    """The parametrization of `standardization`: g·(w − mean)/√max(fan_in·var, 1e-4), over the dimensions in `summed`.

    The floor is that of Brock et al.'s published code; a weight that is 0 stays 0.
    """

    def __init__(self, summed: tuple[int, ...], fan_in: float, gains: list[int]) -> None:
        super().__init__()
        self.summed, self.fan_in = summed, fan_in
        self.gain = nn.Parameter(torch.full(gains, math.sqrt(2 / (1 - 1 / math.pi))))

    def forward(self, w: Tensor) -> Tensor:
        variance, mean = torch.var_mean(w, self.summed, correction=0, keepdim=True)
        return self.gain * (w - mean) * torch.rsqrt((self.fan_in * variance).clamp(min=1e-4))

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


class TPReLU(nn.Module):
    """TPReLU(x) = PReLU_a(x − c) + c for each channel: a leaky kink at a learned place.

    Args:
        channels: C. The slope a, kept in [0, 1], starts at 0.25, the threshold c at 0. The forward pass clips the
            slope and the backward pass takes the clipping for the identity, so that a slope that has left the range
            can come back.

    Source: Xiang & Li 2017, section 3.2.

    >>> TPReLU(1)(torch.tensor([[-4.0], [4.0]])).flatten().tolist()
    [-1.0, 4.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, ...) -> the same
        threshold = self.threshold.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))
        slope = self.slope + (self.slope.clamp(0, 1) - self.slope).detach()
        return F.prelu(x - threshold, slope.to(x.dtype)) + threshold


WEIGHT_NORMALIZERS.register("none", WeightNormalizer("none", none))
WEIGHT_NORMALIZERS.register("spectral", WeightNormalizer("spectral", spectral))
WEIGHT_NORMALIZERS.register("weight", WeightNormalizer("weight", weight))
WEIGHT_NORMALIZERS.register("standardization", WeightNormalizer("standardization", standardization))
WEIGHT_NORMALIZERS.register("strict_weight", WeightNormalizer("strict_weight", strict_weight, activation=TPReLU))


def _output_dim(module: nn.Module) -> int:
    return 1 if isinstance(module, nn.ConvTranspose2d) else 0


def _summed(module: nn.Module) -> tuple[tuple[int, ...], int]:
    """The dimensions of a weight over which one output pixel sums, and how many output pixels share a kernel's taps."""
    share = module.stride[0] * module.stride[1] if isinstance(module, nn.ConvTranspose2d) else 1
    if is_projection(module):
        return (0,), share
    every = range(module.get_parameter("weight").dim())
    return tuple(d for d in every if d != _output_dim(module)), share
