"""BatchNorm and what is made of torch's BatchNorm kernel: ghost batches, and noise behind it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.normalizers.maps import is_plain, map_like
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics


@normalizer("batch", forward_coupling=True, gradient_coupling=True)
def batch(channels: int, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """x̂ = (x − μ_NHW)/√(σ²_NHW + ε), y = γ·x̂ + β; running statistics in eval mode.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Returns:
        torch's BatchNorm2d.

    Source: Ioffe & Szegedy 2015, Algorithm 1.
    """
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


@normalizer("ghost", forward_coupling=True, gradient_coupling=True, note="couples within ghost batches of `size`")
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

    def __init__(self, channels: int, size: int = 16, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps, momentum)
        if size < 1:
            raise UserError(f"the ghost batch `size` must be at least 1: got {size}.")
        self.size = size

    def normalize(self, x: Tensor) -> Tensor:
        if len(x) % self.size:
            fitting = max(d for d in range(1, min(self.size, len(x)) + 1) if len(x) % d == 0)
            raise UserError(
                f"the ghost batch `size` must divide the batch: got size={self.size}, batch={len(x)}; "
                f"try size={fitting}."
            )
        ghosts = x.split(self.size)
        self.require_values(ghosts[0])
        return torch.cat([_batch_norm(self, ghost) for ghost in ghosts])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size}"


@normalizer("noisy", forward_coupling=True, gradient_coupling=True, note="draws noise in training mode, like dropout")
class NoisyBatchNorm(BatchStatistics):
    """BatchNorm with a random scale and shift behind it, which bring back the drift of moments that it removed.

    In each forward pass and for each channel j: μ_j ~ U(−n_μ, n_μ), σ_j ~ U(1, n_σ); for each value i of the channel
    (images and pixels alike): m_ij ~ U(μ_j − r_μ, μ_j + r_μ), s_ij ~ N(σ_j, r_σ); then a_ij ← s_ij·a_ij + m_ij. In eval
    mode there is no noise. The noise comes from torch's default generator of the device, as dropout's does, so that a
    seeded or resumed run and an isolated probe repeat it; for float32 maps on a CPU, where torch's two draws for each
    value take longer than BatchNorm's forward and backward pass, from a faster one that it seeds (see `_Noisy`).

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
        per_channel = (x.shape[1], *(1,) * (x.dim() - 2))
        mean = x.new_empty(per_channel).uniform_(-self.shift, self.shift)
        deviation = x.new_empty(per_channel).uniform_(1, self.scale)
        if is_plain(x) and self.weight.dtype == torch.float32:
            return _Noisy.apply(x, self.weight, self.bias, mean, deviation, self)[0]
        y = _batch_norm(self, x)
        m = torch.empty_like(y).uniform_(-self.shift_spread, self.shift_spread).add_(mean)
        s = torch.empty_like(y).normal_(0, self.scale_spread).add_(deviation)
        return y.mul_(s).add_(m)


class _Noisy(torch.autograd.Function):
    """The same law for dense float32 maps on a CPU, at less cost.

    The time of the plain composition goes into torch's Mersenne Twister, which draws one number after the other, and
    into the pages of fresh maps. Here the bits are SFC64's, seeded by torch's default generator, 32 for each value: s
    is a normal by the inverse distribution function of the whole word (to 5.3 standard deviations, where float32 next
    to 1 ends), m is uniform on the 65,536 levels of the lower half, which the s of a word says as good as nothing of.
    It goes over whole maps, not over some images at a time in the cache: on a busy machine, threads that meet after
    each small operation wait for each other.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, deviation: Tensor, layer: NoisyBatchNorm
    ) -> tuple[Tensor, ...]:
        running, momentum, eps = (layer.running_mean, layer.running_var), layer.momentum, layer.eps
        y, *saved = out = map_like(x), torch.empty_like(weight), torch.empty_like(weight)
        torch.native_batch_norm(x, weight, bias, *running, True, momentum, eps, out=out)
        bits = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
        words = _words_like(x, bits)
        s = map_like(x).copy_(words).mul_(2**-31 * (1 - 2**-24)).erfinv_()  # within ±(1 − 2⁻²⁴), whose erf⁻¹ is finite
        torch.add(deviation, s, alpha=math.sqrt(2) * layer.scale_spread, out=s)
        m = words.bitwise_left_shift_(16).view(torch.float32).copy_(words)
        torch.addcmul(mean, y, s, out=y).add_(m, alpha=layer.shift_spread * 2**-31)
        return y, s, *saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, *_, layer = inputs
        ctx.eps = layer.eps
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # a map of zeros for s
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, s, mean, inverse = ctx.saved_tensors
        backward = torch.ops.aten.native_batch_norm_backward
        if torch.is_grad_enabled():  # a second derivative is wanted: every step in the graph
            known = (x, weight, None, None, mean, inverse, True, ctx.eps, list(ctx.needs_input_grad[:3]))
            return *backward(grad * s, *known), None, None, None
        found = map_like(grad).copy_(grad).mul_(s)
        sums = (x, weight, None, None, mean, inverse, True, ctx.eps, [False, True, True])
        _, grad_weight, grad_bias = backward(found, *sums)
        # ∂L/∂x = γ/s_j·(g − Σg/n − x̂·Σg·x̂/n) with g = ∂L/∂a, n values a channel; in place, channel by channel.
        scale, n = weight * inverse, x.numel() // len(weight)
        slope = -scale * inverse * grad_weight / n
        shift = -scale * grad_bias / n - slope * mean
        scale, slope, shift = (v.view(-1, *(1,) * (x.dim() - 2)) for v in (scale, slope, shift))
        return found.mul_(scale).addcmul_(x, slope).add_(shift), grad_weight, grad_bias, None, None, None


def _words_like(x: Tensor, bits: np.random.BitGenerator) -> Tensor:
    """Random int32, one for each value of a dense x."""
    words = bits.random_raw((x.numel() + 1) // 2).view(np.int32)[: x.numel()]  # type: ignore[union-attr]
    return torch.from_numpy(words).as_strided(x.shape, x.stride())


def _batch_norm(layer: BatchStatistics, x: Tensor) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    return F.batch_norm(x, mean, variance, layer.weight, layer.bias, True, layer.momentum, layer.eps)
