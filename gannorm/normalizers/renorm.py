"""Batch renormalization: within limits, BatchNorm that depends on the batch in the gradient only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics, Running, affine, batch_dims, moments


@normalizer(
    "renorm",
    title="batch renormalization",
    channels_last=True,
    forward_coupling=False,
    gradient_coupling=True,
    note="forward coupling no inside its clip range; it starts as BatchNorm (r_max = 1, d_max = 0), with coupling",
)
class BatchRenorm(BatchStatistics):
    """x̂ = (x − μ_B)/σ_B·r + d, where r and d turn the statistics of the batch into running ones.

    r = clip(σ_B/σ, 1/r_max, r_max), d = clip((μ_B − μ)/σ, −d_max, d_max), y = γ·x̂ + β; σ_B = √(var_B + ε) and the
    running σ = √(running_var + ε). Unclipped, x̂ is (x − μ)/σ, to the last bit; the gradient takes r and d as
    constants and so goes through the batch. The limits are r_max = 1, d_max = 0 (BatchNorm) until `start` and grow
    linearly to their values at `r_end` and `d_end`, counted in training-mode forward passes of the layer. A GAN's
    discriminator makes two or three of them a step, so with the published schedule it is plain BatchNorm for the first
    1,700 to 2,500 steps: a shorter run must scale it, for example norm_options {start: 300, r_end: 2400, d_end: 1500}
    for 1,200 steps. With {start: 100, r_end: 300, d_end: 300, r_max: 100, d_max: 100} it opens early: from then on
    it has gradient coupling without forward coupling.

    Args:
        channels: C.
        r_max: final r_max ≥ 1.
        d_max: final d_max ≥ 0.
        start: forward passes as plain BatchNorm.
        r_end, d_end: forward passes after which r_max and d_max are reached; at least `start`.
        eps: ε > 0, added to the variances.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Raises:
        UserError: limits or steps outside these ranges.

    Source: Ioffe 2017, Algorithm 1 and section 3; the schedule and averaging rate of its section 4 are the defaults.
    That the running statistics average the unbiased variance is defined here.
    """

    taken_apart = True

    def __init__(
        self,
        channels: int,
        r_max: float = 3.0,
        d_max: float = 5.0,
        start: int = 5_000,
        r_end: int = 40_000,
        d_end: int = 25_000,
        eps: float = 1e-5,
        momentum: float = 0.01,
    ) -> None:
        super().__init__(channels, eps, momentum)
        if not (1 <= r_max < math.inf and 0 <= d_max < math.inf):
            raise UserError(f"renorm needs finite r_max ≥ 1 and d_max ≥ 0: got r_max={r_max}, d_max={d_max}.")
        if not 0 <= start <= min(r_end, d_end):
            raise UserError(f"renorm needs 0 ≤ start ≤ r_end, d_end: got start={start}, r_end={r_end}, d_end={d_end}.")
        self.r_max, self.d_max, self.start, self.r_end, self.d_end = r_max, d_max, start, r_end, d_end

    def normalize(self, x: Tensor) -> Tensor:
        population_mean, population_variance, _ = self.running()
        mean, variance = moments(x, batch_dims(x))
        inverse = torch.rsqrt(variance + self.eps)  # 1/σ_B
        with torch.no_grad():
            running_inverse = torch.rsqrt(population_variance + self.eps)
            r, d, unclipped = self.correction(mean, inverse, population_mean, running_inverse, self.num_batches_tracked)
            # Where nothing is clipped, take the values from the running statistics alone: then no bit of x̂ depends on
            # the other images, and a swap test can distinguish rounding from coupling.
            value = torch.where(unclipped, running_inverse, r * inverse)
            origin = torch.where(unclipped, population_mean * value, mean * value - d)
        # Exact values, BatchNorm's gradient: t/t is 1 and t − t is 0 to the last bit.
        scale = value * (inverse / inverse.detach())
        centre = mean * scale
        shift = -origin - (centre - centre.detach())
        n = x.numel() / x.shape[1]
        # The paper averages σ_B; here the unbiased variance is averaged, as in torch's BatchNorm, so that both
        # have the same eval mode.
        self.track(mean, variance * (n / (n - 1)))
        return affine(x, self.weight * scale, self.weight * shift + self.bias)

    def output(self, x: Tensor, statistics: Tensor, running: Running) -> Tensor:
        (mean, variance), (running_mean, running_variance, passes) = statistics, running
        inverse = torch.rsqrt(variance + self.eps)
        with torch.no_grad():
            running_inverse = torch.rsqrt(running_variance + self.eps)
            r, d, _ = self.correction(mean, inverse, running_mean, running_inverse, passes + 1)
        scale = self.weight * inverse * r
        return affine(x, scale, self.weight * d + self.bias - mean * scale)

    def correction(
        self, mean: Tensor, inverse: Tensor, running_mean: Tensor, running_inverse: Tensor, passes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """r, d, and whether neither is clipped, (C,) each, in that forward pass; `inverse` is 1/σ_B, the other 1/σ."""
        r_max = 1 + (self.r_max - 1) * self._progress(passes, self.r_end)
        d_max = self.d_max * self._progress(passes, self.d_end)
        ratio, offset = running_inverse / inverse, (mean - running_mean) * running_inverse
        r = torch.minimum(torch.maximum(ratio, 1 / r_max), r_max)
        d = torch.minimum(torch.maximum(offset, -d_max), d_max)
        return r, d, (r == ratio) & (d == offset)

    def _progress(self, passes: Tensor, end: int) -> Tensor:
        """0 until `start`, then linearly to 1 at `end`."""
        return ((passes.to(self.running_var.dtype) - self.start) / max(end - self.start, 1)).clamp(0, 1)

    def extra_repr(self) -> str:
        schedule = f"start={self.start}, r_end={self.r_end}, d_end={self.d_end}"
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, {schedule}"
