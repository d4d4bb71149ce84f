"""Normalizers without statistics: a squashing function of each value separately. No coupling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gannorm.normalizers.slots import normalizer


@normalizer("dyt", title="DyT", forward_coupling=False, gradient_coupling=False, channels_last=True)
class DynamicTanh(nn.Module):
    """y = γ·tanh(α·x) + β, with one learned α for the layer and γ, β for each channel.

    Args:
        channels: C.
        alpha: α at the start.

    Source: Zhu et al. 2025 (2503.10622), Eq. 1; γ starts at 1, β at 0, α at 0.5.

    >>> DynamicTanh(1, alpha=1.0)(torch.tensor([0.0, 50.0]).view(2, 1, 1, 1)).flatten().tolist()
    [0.0, 1.0]
    """

    def __init__(self, channels: int, alpha: float = 0.5) -> None:
        super().__init__()
        self.channels = channels
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def squashed(self, x: Tensor) -> Tensor:
        """In the precision of x, or float32 if that is wider."""
        return torch.tanh(self.alpha * x)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.dim() - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (self.weight.view(shape) * self.squashed(wide) + self.bias.view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}"


@normalizer("derf", title="Derf", forward_coupling=False, gradient_coupling=False, channels_last=True)
class DynamicErf(DynamicTanh):
    """y = γ·erf(α·x + s) + β, with one learned α and s for the layer and γ, β for each channel.

    Args:
        channels: C.
        alpha: α at the start.

    Source: Chen et al. 2025, "Stronger normalization-free transformers" [recalled]; α starts at 0.5, s at 0.

    >>> DynamicErf(1)(torch.tensor([0.0, 50.0]).view(2, 1, 1, 1)).flatten().tolist()
    [0.0, 1.0]
    """

    def __init__(self, channels: int, alpha: float = 0.5) -> None:
        super().__init__(channels, alpha)
        self.shift = nn.Parameter(torch.tensor(0.0))

    def squashed(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift)
