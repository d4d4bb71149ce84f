"""Normalizers that bring their own nonlinearity: filter response normalization and EvoNorm-S0. No coupling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gannorm.normalizers.group import group_count
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import affine

PIXELS = (2, 3)


@normalizer(
    "frn", title="filter response normalization", forward_coupling=False, gradient_coupling=False, activation=True
)
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
        wide = _wide(x)
        scale = self.weight * torch.rsqrt(wide.square().mean(PIXELS) + self.eps)  # (N, C)
        above = affine(wide, scale, (self.bias - self.threshold).expand_as(scale))
        # max(y, τ) as relu(y − τ) + τ: at a tie, as of x = 0 at the start, the gradient is τ's alone.
        return (torch.relu(above) + _map(self.threshold)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


@normalizer("evonorm_s0", title="EvoNorm-S0", forward_coupling=False, gradient_coupling=False, activation=True)
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
        wide = _wide(x)
        variance = torch.var(wide.reshape(len(x), self.groups, -1), dim=2, correction=0)  # (N, G)
        inverse = torch.rsqrt(variance + self.eps).repeat_interleave(self.channels // self.groups, dim=1)
        scale = (inverse * self.weight)[:, :, None, None]
        return (wide * torch.sigmoid(_map(self.v) * wide) * scale + _map(self.bias)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.channels}, eps={self.eps}"


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _map(per_channel: Tensor) -> Tensor:
    return per_channel.view(-1, 1, 1)
