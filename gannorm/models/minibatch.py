"""Deliberate coupling: layers that give the discriminator statistics of its batch, so that it can detect low variety.

They are options of the discriminator beside its normalizer, and the control group of the study: their dependence on the
batch is intended. Both act on the batch that they are given: with separate
real and fake batches, as published, each is described by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gannorm.errors import UserError


class MinibatchStddev(nn.Module):
    """Append a channel with the mean standard deviation over a group of images.

    s_m = mean_{CHW} √(mean_{i∈group m} (x_i − μ_m)² + 1e-8), the same number for every image and pixel of group m.
    With M = N / `group` groups, group m holds the images m, m + M, m + 2M, …

    Args:
        group: images in a group; a smaller batch is one group. Otherwise it must divide the batch.

    Raises:
        UserError: `group` is below 2, or does not divide the batch.

    Source: Karras et al. 2018, section 3 and its published code.

    >>> MinibatchStddev(group=2)(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))[:, 1].flatten()
    tensor([1., 1.])
    """

    forward_coupling = gradient_coupling = True
    extra_channels = 1

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        if group < 2:
            raise UserError(f"minibatch stddev needs a `group` of at least 2 images: got {group}; try group=4.")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C + 1, H, W)
        size = min(self.group, len(x))
        if len(x) % size:
            raise UserError(
                f"the minibatch-stddev `group` must divide the batch: got group={size}, batch={len(x)}; "
                "drop the last images or choose another group."
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # deviations of bfloat16 would have two digits
        grouped = wide.reshape(size, len(x) // size, *x.shape[1:])
        deviation = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().flatten(1).mean(1)  # (M,)
        channel = deviation.repeat(size).to(x.dtype).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, channel], dim=1)

    def together(self, images: int) -> int:
        """The number of images that share a deviation, in a batch of this size."""
        return min(self.group, images)

    def extra_repr(self) -> str:
        return f"group={self.group}"


class MinibatchDiscrimination(nn.Module):
    """Append to each feature vector its closeness to those of the other images, in B learned measures.

    M_i = f_i·T ∈ (B, D), o(x_i)_b = Σ_j exp(−‖M_ib − M_jb‖₁) over all images j, itself included.

    Args:
        features: A, the length of f_i.
        kernels: B.
        kernel_dim: D.

    Source: Salimans et al. 2016, section 3.2; B = 50 and D = 5 as in its CIFAR-10 code [recalled].

    >>> MinibatchDiscrimination(features=7, kernels=3)(torch.zeros(4, 7))[:, 7:]
    tensor([[4., 4., 4.],
            [4., 4., 4.],
            [4., 4., 4.],
            [4., 4., 4.]], grad_fn=<SliceBackward0>)
    """

    forward_coupling = gradient_coupling = True

    def __init__(self, features: int, kernels: int = 50, kernel_dim: int = 5) -> None:
        super().__init__()
        self.shape = (kernels, kernel_dim)
        self.extra_features = kernels
        # A linear layer, so that an initialization finds T like every other weight.
        self.T = nn.Linear(features, kernels * kernel_dim, bias=False)

    def forward(self, f: Tensor) -> Tensor:  # (N, A) -> (N, A + B)
        m = self.T(f).view(-1, *self.shape)
        m = m.to(torch.promote_types(m.dtype, torch.float32))
        distance = (m[:, None] - m[None]).abs().sum(3)  # (N, N, B)
        return torch.cat([f, torch.exp(-distance).sum(1).to(f.dtype)], dim=1)
