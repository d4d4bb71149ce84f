"""Virtual batch normalization: each image with a fixed reference batch, never with its own batch."""

from __future__ import annotations

import torch
from torch import Tensor

from gannorm.normalizers.reference import ReferenceStatistics
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import moments


@normalizer("virtual", title="virtual BatchNorm", forward_coupling=False, gradient_coupling=False)
class VirtualBatchNorm(ReferenceStatistics):
    """x̂_n = (x_n − μ_n)/√(q_n − μ_n² + ε), where image n counts as one more image of the reference batch of R.

    μ_n = (mean_HW x_n + R·μ_ref)/(R + 1), q_n = (mean_HW x_n² + R·q_ref)/(R + 1); y = γ·x̂ + β. The reference batch
    itself is normalized by μ_ref and q_ref alone.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.

    Raises:
        UserError: used before `set_reference` was called on the network.

    Source: Salimans et al. 2016, section 3.5; the weights 1 and R are those of its published code.
    """

    reference_kind = "fixed"

    def combined(self, x: Tensor, ref_mean: Tensor, ref_var: Tensor) -> tuple[Tensor, Tensor]:
        own_mean, own_variance = moments(x, tuple(range(2, x.dim())))
        share = 1 / (self.ref_size + 1)
        # The variance of the image and the reference together, without the cancellation of q − μ².
        difference = own_mean - ref_mean
        variance = torch.lerp(ref_var, own_variance, share) + share * (1 - share) * difference.square()
        return ref_mean + share * difference, variance
