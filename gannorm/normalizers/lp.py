"""Lp normalization: BatchNorm with another norm in place of the standard deviation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics, affine, batch_dims, moments


@normalizer("lp", forward_coupling=True, gradient_coupling=True)
class LpNorm(BatchStatistics):
    """x̂ = (x − μ)/√(s_p² + ε), s_p = (mean|x|^p)^{1/p} of the values before centring, s_∞ = max|x|; y = γ·x̂ + β.

    Means and maximum run over the batch and the pixels. running_var holds the running mean of s_p².

    Args:
        channels: C.
        p: 1, 2 or infinity (math.inf or "inf").
        eps: ε > 0.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Raises:
        UserError: another p.

    Source: Santurkar et al. 2018, section 3.3, which gives no formula: this reading, and ε, are defined here.

    >>> LpNorm(1, p=float("inf"), eps=1e-12)(torch.tensor([-4.0, 0.0, 0.0, 0.0]).view(4, 1, 1, 1)).flatten()
    tensor([-0.7500,  0.2500,  0.2500,  0.2500], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int, p: float | str = 1, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps, momentum)
        if p not in (1, 2, math.inf, "inf"):
            raise UserError(f"the norm's `p` must be 1, 2 or inf: got {p!r}.")
        self.p = float(p)

    def normalize(self, x: Tensor) -> Tensor:
        mean, size = self.statistics(x)
        squared_norm = self.squared_norm(mean, size)
        self.track(mean, squared_norm)
        scale = self.weight * torch.rsqrt(squared_norm + self.eps)
        return affine(x, scale, self.bias - mean * scale)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, and mean|x| (p = 1), the variance (p = 2) or max|x| (p = ∞), (C,) each."""
        if self.p == 2:
            return moments(x, batch_dims(x))
        if self.p == 1:
            return _MeanAndMeanAbsolute.apply(x)
        return x.mean(batch_dims(x), dtype=torch.promote_types(x.dtype, torch.float32)), _max_absolute(x)

    def squared_norm(self, mean: Tensor, size: Tensor) -> Tensor:
        """s_p² from the statistics."""
        return size + mean.square() if self.p == 2 else size.square()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}"


class _MeanAndMeanAbsolute(torch.autograd.Function):
    """mean x and mean|x| of each channel; left to autograd, their derivatives make three maps where one will do."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean = x.mean(batch_dims(x), dtype=dtype)
        return mean, torch.linalg.vector_norm(x, 1, batch_dims(x), dtype=dtype) * (x.shape[1] / x.numel())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_norm: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        shares = torch.stack([grad_mean, grad_norm]) * (x.shape[1] / x.numel())
        mean_share, norm_share = shares.to(x.dtype).view(2, -1, 1, 1).unbind()
        # |x| is the leaky ReLU of slope −1.
        return torch.ops.aten.leaky_relu_backward(norm_share.expand_as(x), x, -1.0, False).add_(mean_share)


def _max_absolute(x: Tensor) -> Tensor:
    """max|x| of each channel; the gradient goes to the first image that attains it."""
    with torch.no_grad():
        largest = torch.maximum(x.amax((2, 3)), -x.amin((2, 3)))  # (N, C)
        image = largest.argmax(0)
    rows = x[image, torch.arange(x.shape[1], device=x.device)]  # (C, H, W)
    return rows.to(torch.promote_types(x.dtype, torch.float32)).abs().amax((1, 2))
