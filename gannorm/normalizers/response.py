"""Normalizers that bring their own nonlinearity: filter response normalization and EvoNorm-S0. Nothing couples.

Left to autograd, their elementwise steps cost five times BatchNorm on a CPU. So each layer evaluates its first
derivative by hand; a second derivative (a gradient penalty asks for one) goes through the plain formula, and so does a
compiled layer, since the compiler fuses its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.normalizers.group import group_count
from gannorm.normalizers.maps import map_like
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import affine, channel_products, moments

PIXELS = (2, 3)


@normalizer("frn", forward_coupling=False, gradient_coupling=False, activation=True)
class FilterResponseNorm(nn.Module):
    """y = γ·x/√(mean_HW x² + ε) + β, then the thresholded linear unit max(y, τ) with a learned τ per channel.

    Args:
        channels: C.
        eps: ε > 0.

    Source: Singh & Krishnan 2020, Eqs. 1–3; γ starts at 1, β and τ at 0.

    >>> FilterResponseNorm(1)(torch.tensor([[[[-30.0, 30.0]]]])).flatten()
    tensor([0., 1.], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        compute = filter_response if torch.compiler.is_compiling() else _FilterResponse.apply
        return compute(_wide(x), self.weight, self.bias, self.threshold, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


@normalizer("evonorm_s0", forward_coupling=False, gradient_coupling=False, activation=True)
class EvoNormS0(nn.Module):
    """y = γ·x·sigmoid(v·x)/√(σ²_group + ε) + β, the variance over the group's channels and the pixels of one image.

    Args:
        channels: C.
        groups: the number of groups.
        channels_per_group: instead of it, channels in a group; 8 if neither is given, as for `group`.
        eps: ε > 0.

    Raises:
        UserError: the groups do not divide the channels, or both options are given.

    Source: Liu et al. 2020, Table 2 (EvoNorm-S0); γ and v start at 1, β at 0.

    >>> EvoNormS0(1)(torch.zeros(1, 1, 2, 2)).flatten().tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self, channels: int, groups: int | None = None, channels_per_group: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.channels, self.groups, self.eps = channels, group_count(channels, groups, channels_per_group), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        compute = evonorm_s0 if torch.compiler.is_compiling() else _EvoNormS0.apply
        return compute(_wide(x), self.weight, self.bias, self.v, self.groups, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.channels}, eps={self.eps}"


def filter_response(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, eps: float) -> Tensor:
    """The formula of filter response normalization as it is printed: the source of second derivatives."""
    mean_square = x.square().mean(PIXELS, keepdim=True)
    y, threshold = _map(weight) * x * torch.rsqrt(mean_square + eps) + _map(bias), _map(threshold)
    return torch.where(y > threshold, y, threshold)  # whose gradient at a tie, as of x = 0 at the start, is τ's alone


def evonorm_s0(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, groups: int, eps: float) -> Tensor:
    """The formula of EvoNorm-S0 as it is printed: the source of second derivatives."""
    variance = torch.var(x.reshape(len(x), groups, -1), dim=2, correction=0)
    scale = torch.rsqrt(variance + eps).repeat_interleave(x.shape[1] // groups, dim=1)
    return x * torch.sigmoid(_map(v) * x) * (scale * weight)[:, :, None, None] + _map(bias)


class _FilterResponse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, eps: float) -> Tensor:
        inverse = torch.rsqrt(_pixel_sum(x, x) / (x.shape[2] * x.shape[3]) + eps)  # (N, C)
        scale = weight * inverse
        y = affine(x, scale, bias.expand_as(scale)).clamp_(min=_map(threshold))
        ctx.save_for_backward(x, weight, bias, threshold, inverse, y)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, threshold, inverse, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will be asked for
            return *_differentiate(filter_response, (x, weight, bias, threshold), (ctx.eps,), grad), None
        # Where y > τ, ∂y/∂x = a and the path through the mean square, a = γ/√(mean x² + ε).
        passed = torch.empty_like(grad).copy_(y).sub_(_map(threshold)).sign_().mul_(grad)
        products = _pixel_sum(passed, x)
        slope = products * weight * -(inverse**3) / (x.shape[2] * x.shape[3])  # 2/(H·W) · ∂L/∂(mean x²)
        grad_bias = passed.sum((0, *PIXELS))
        grad_x = passed.mul_((weight * inverse)[:, :, None, None]).addcmul_(x, slope[:, :, None, None])
        return grad_x, (inverse * products).sum(0), grad_bias, grad.sum((0, *PIXELS)) - grad_bias, None


class _EvoNormS0(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, groups: int, eps: float) -> Tensor:
        mean, variance = moments(x.reshape(len(x), groups, -1), (2,))
        ctx.save_for_backward(x, weight, bias, v, mean, variance)
        ctx.groups, ctx.eps = groups, eps
        scale = _per_channel(torch.rsqrt(variance + eps), x) * weight
        return map_like(x).copy_(x).mul_(_map(v)).sigmoid_().mul_(x).mul_(scale[:, :, None, None]).add_(_map(bias))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, v, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will be asked for
            return *_differentiate(evonorm_s0, (x, weight, bias, v), (ctx.groups, ctx.eps), grad), None, None
        # With s = sigmoid(v·x), y = a·x·s + β, a = γ/√(σ² + ε):
        # ∂y/∂x = a·(s + v·x·s·(1 − s)) and the path through σ²; ∂y/∂v = a·x²·s·(1 − s).
        inverse = torch.rsqrt(variance + ctx.eps)
        k = _per_channel(inverse, x)  # (N, C), as all sums over pixels below
        a = k * weight
        s = map_like(grad).copy_(x).mul_(_map(v)).sigmoid_()
        gs = map_like(grad).copy_(grad).mul_(s)
        gxs = _pixel_sum(gs, x)
        gxss = s.neg_().add_(1).mul_(x).mul_(gs)  # grad·x·s·(1 − s), in the place of s
        grad_v = (a * _pixel_sum(gxss, x)).sum(0)
        n = x.numel() / variance.numel()
        slope = (gxs * weight).reshape(len(x), ctx.groups, -1).sum(2) * -(inverse**3) / n  # 2/n · ∂L/∂σ²
        grad_x = gs.addcmul_(gxss, _map(v)).mul_(a[:, :, None, None])
        grad_x.addcmul_(x, _per_channel(slope, x)[:, :, None, None])
        grad_x.sub_(_per_channel(slope * mean, x)[:, :, None, None])
        return grad_x, (k * gxs).sum(0), grad.sum((0, *PIXELS)), grad_v, None, None


def _differentiate(
    formula: Callable[..., Tensor], inputs: tuple[Tensor, ...], options: tuple[float, ...], grad: Tensor
) -> list[Tensor | None]:
    """The gradient of a formula as a graph, None for inputs that need none."""
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(formula(*inputs, *options), wanted, grad, create_graph=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _pixel_sum(a: Tensor, b: Tensor) -> Tensor:
    """Σ_HW a·b, (N, C)."""
    rows = (1, a.shape[0] * a.shape[1], -1)
    return channel_products(a.reshape(rows), b.reshape(rows), a.new_zeros(rows[1])).view(a.shape[:2])


def _map(per_channel: Tensor) -> Tensor:
    return per_channel.view(-1, 1, 1)


def _per_channel(per_group: Tensor, x: Tensor) -> Tensor:
    return per_group.repeat_interleave(x.shape[1] // per_group.shape[1], dim=1)
