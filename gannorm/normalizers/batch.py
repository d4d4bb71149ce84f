"""BatchNorm, its statistics over parts of a batch, and noise behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics, Running, require_values, unbiased


@normalizer("batch", title="BatchNorm", forward_coupling=True, gradient_coupling=True, channels_last=True)
def batch(channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> nn.Module:
    """x̂ = (x − μ_NHW)/√(σ²_NHW + ε), y = γ·x̂ + β; running statistics in eval mode.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].
        affine: whether there are γ and β; without, y = x̂.

    Returns:
        torch's BatchNorm2d.

    Source: Ioffe & Szegedy 2015, Algorithm 1.
    """
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum, affine=affine)


@normalizer(
    "ghost",
    title="ghost BatchNorm",
    forward_coupling=True,
    gradient_coupling=True,
    channels_last=True,
    note="couples within ghost batches of `size`",
)
class GhostBatchNorm(BatchStatistics):
    """BatchNorm of each sub-batch of `size` neighbouring images; running statistics move once for each of them.

    Args:
        channels: C.
        size: images in a ghost batch; must divide the batch. The default, 16, is a quarter of the usual batch of 64.
        eps: ε > 0, added to the variance.
        momentum: weight of the new ghost batch in the running statistics, in [0, 1].

    Raises:
        UserError: `size` is below 1 or, in training mode, does not divide the batch, or one value a channel is left.

    Source: Hoffer et al. 2017, Algorithm 1.

    >>> GhostBatchNorm(3, size=48)(torch.zeros(64, 3, 4, 4))
    Traceback (most recent call last):
        ...
    gannorm.errors.UserError: the ghost batch `size` must divide the batch: got size=48, batch=64; try size=32.
    """

    taken_apart = True
    pools = False

    def __init__(self, channels: int, size: int = 16, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps, momentum)
        if size < 1:
            raise UserError(f"the ghost batch `size` must be at least 1: got {size}.")
        self.size = size

    def normalize(self, x: Tensor) -> Tensor:  # in torch's own kernel, which takes half the time of the steps
        if len(x) % self.size:
            fitting = max(d for d in range(1, min(self.size, len(x)) + 1) if len(x) % d == 0)
            raise UserError(
                f"the ghost batch `size` must divide the batch: got size={self.size}, batch={len(x)}; "
                f"try size={fitting}."
            )
        ghosts = x.split(self.size)
        require_values(ghosts[0])
        return torch.cat([_batch_norm(self, ghost) for ghost in ghosts])

    def statistics(self, x: Tensor) -> Tensor:  # (n, C, H, W), whole ghost batches -> (G, 2, C)
        if len(x) % self.size:
            raise UserError(
                f"ghost batches must lie within a microbatch: got size={self.size} and a microbatch of {len(x)}; "
                "let `size` divide every microbatch."
            )
        if x[: self.size].numel() == x.shape[1]:
            raise UserError(
                f"batch statistics need more than one value a channel: got ghost batches of size={self.size} and a "
                f"microbatch of shape {tuple(x.shape)}; use a larger `size`."
            )
        return torch.stack([super(GhostBatchNorm, self).statistics(ghost) for ghost in x.split(self.size)])

    def output(self, x: Tensor, statistics: Tensor, running: Running) -> Tensor:
        ghosts = x.split(self.size)
        each = zip(ghosts, statistics.expand(len(ghosts), -1, -1), strict=True)
        return torch.cat([self.by_moments(ghost, *given) for ghost, given in each])

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for ghosts, count in zip(table, counts, strict=True):
            for mean, variance in ghosts:
                yield mean, variance * unbiased(count // len(ghosts))

    def together(self, images: int) -> int:
        return self.size

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size}"


@normalizer(
    "local",
    title="local BatchNorm",
    forward_coupling=True,
    gradient_coupling=True,
    eval_coupling=True,
    note="couples within virtual batches of `size`, in eval mode too",
)
class LocalBatchNorm(nn.Module):
    """BatchNorm of each virtual batch of about `size` neighbouring images, in training and eval mode alike.

    x̂ = (x − μ_gHW)/√(σ²_gHW + ε), y = γ·x̂ + β, with the N images in ⌈N/size⌉ virtual batches g as equal as they can
    be. There are no running statistics.

    Args:
        channels: C.
        size: images in a virtual batch; a smaller batch is one.
        eps: ε > 0, added to the variance.

    Raises:
        UserError: `size` is below 1, or a virtual batch has one value a channel.

    Source: Sauer et al. 2023 (StyleGAN-T), section 3.2 and its published code, after Karras et al. 2018; batches that
    `size` does not divide: defined here.
    """

    def __init__(self, channels: int, size: int = 8, eps: float = 1e-5) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"the virtual batch `size` must be at least 1: got {size}.")
        self.channels, self.size, self.eps = channels, size, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.tensor_split(math.ceil(len(x) / self.size))
        require_values(parts[-1])
        normalized = [F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps) for part in parts]
        return torch.cat(normalized)

    def together(self, images: int) -> int:
        """The largest number of images that share statistics, in a batch of this size."""
        return math.ceil(images / math.ceil(images / self.size))

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, size={self.size}"


@normalizer(
    "noisy",
    title="noisy BatchNorm",
    forward_coupling=True,
    gradient_coupling=True,
    note="draws noise in training mode, like dropout",
)
class NoisyBatchNorm(BatchStatistics):
    """BatchNorm followed by a random scale and shift, which restore the drift of moments that it removes.

    In each forward pass and for each channel j: μ_j ~ U(−n_μ, n_μ), σ_j ~ U(1, n_σ); for each value i of the channel
    (images and pixels alike): m_ij ~ U(μ_j − r_μ, μ_j + r_μ), s_ij ~ N(σ_j, r_σ); then a_ij ← s_ij·a_ij + m_ij. In eval
    mode there is no noise. The noise comes from torch's default generator of the device, as dropout's does, so that a
    seeded or resumed run and an isolated probe repeat it.

    Args:
        channels: C.
        shift: n_μ ≥ 0.
        scale: n_σ ≥ 1.
        shift_spread: r_μ ≥ 0.
        scale_spread: r_σ ≥ 0, a standard deviation.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Source: Santurkar et al. 2018, appendix A.2.1 and its Algorithm 1, whose values are the defaults.
    """

    def __init__(
        self,
        channels: int,
        shift: float = 0.5,
        scale: float = 1.25,
        shift_spread: float = 0.1,
        scale_spread: float = 0.1,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(channels, eps, momentum)
        if not all(0 <= v < math.inf for v in (shift, scale - 1, shift_spread, scale_spread)):
            raise UserError(
                "noisy needs finite shift, shift_spread, scale_spread ≥ 0 and scale ≥ 1: got "
                f"shift={shift}, shift_spread={shift_spread}, scale_spread={scale_spread}, scale={scale}."
            )
        self.shift, self.scale, self.shift_spread, self.scale_spread = shift, scale, shift_spread, scale_spread

    def normalize(self, x: Tensor) -> Tensor:
        y = _batch_norm(self, x)
        per_channel = (y.shape[1], *(1,) * (y.dim() - 2))
        mean = y.new_empty(per_channel).uniform_(-self.shift, self.shift)
        deviation = y.new_empty(per_channel).uniform_(1, self.scale)
        m = torch.empty_like(y).uniform_(-self.shift_spread, self.shift_spread).add_(mean)
        s = torch.empty_like(y).normal_(0, self.scale_spread).add_(deviation)
        return torch.addcmul(m, y, s)


def _batch_norm(layer: BatchStatistics, x: Tensor) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    return F.batch_norm(x, mean, variance, layer.weight, layer.bias, True, layer.momentum, layer.eps)
