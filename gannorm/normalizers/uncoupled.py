"""BatchNorm without one part of its coupling: no gradient through the statistics, or no other images in them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import BatchStatistics, Running


@normalizer("detached", title="detached BatchNorm", forward_coupling=True, gradient_coupling=False, channels_last=True)
class DetachedBatchNorm(BatchStatistics):
    """x̂ = (x − sg(μ_NHW))/√(sg(σ²_NHW) + ε), y = γ·x̂ + β: BatchNorm whose statistics are constants to the gradient.

    The forward pass is that of `batch`: an image's companions are in the statistics. No gradient passes through them.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Source: defined here; sg is the stop-gradient of Ioffe 2017, who applies it to a part of the statistics.
    """

    taken_apart = True

    def output(self, x: Tensor, statistics: Tensor, running: Running) -> Tensor:
        mean, variance = statistics.detach()
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


@normalizer("running", title="running BatchNorm", forward_coupling=False, gradient_coupling=False, channels_last=True)
class RunningBatchNorm(BatchStatistics):
    """x̂ = (x − μ)/√(σ² + ε) by the running statistics as they were before this pass; then these are updated.

    So training and eval mode compute the same function of an image. Within a pass no image is in the statistics of
    another; from pass to pass the batches are, with weight `momentum`. Running statistics start at mean 0 and
    variance 1, as those of BatchNorm do.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].

    Source: defined here: BatchNorm's evaluation mode (Ioffe & Szegedy 2015, Algorithm 2) in training.
    """

    taken_apart = True

    def output(self, x: Tensor, statistics: Tensor, running: Running) -> Tensor:
        mean, variance, _ = running
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
