"""The DCGAN-style generator.

N batch, Z latent, C channels, H W pixels (H = W = image_size).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import require_positive
from gannorm.models.blocks import SMALLEST, Slots, stages


class Generator(nn.Module):
    """Latent -> image in [−1, 1].

    One linear layer to 4×4 maps, 4×4 stride-2 transposed convolutions up to image_size, the width halving at each, one
    3×3 convolution to the image, tanh (after Radford et al. 2016, figure 1, with the 3×3 head of Miyato et al. 2018,
    table 3). The linear layer and every transposed convolution are followed by the normalizer and ReLU.

    Args:
        image_size: H = W, one of 8, 16, 32, 64, 128.
        channels: C of the images.
        width: channels of the last stage; the first has width · image_size / 4.
        latent_dim: Z, standard normal.
        norm: activation normalizer, a name in NORMALIZERS.
        weight_norm: weight normalizer of every layer, a name in WEIGHT_NORMALIZERS.
        norm_options: options of the activation normalizer, for example {groups: 4}.
        activation: nonlinearity: leaky_relu (slope 0.2), relu, sigmoid or tanh.

    Raises:
        UserError: an impossible size, an unknown name, or a normalizer that cannot work at these shapes.

    >>> Generator(image_size=16, channels=1, width=8, latent_dim=4)(torch.zeros(5, 4)).shape
    torch.Size([5, 1, 16, 16])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 32,
        latent_dim: int = 64,
        norm: str = "batch",
        weight_norm: str = "none",
        norm_options: Mapping[str, Any] | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, width=width, latent_dim=latent_dim)
        slots = Slots(norm, weight_norm, norm_options, activation, usual="relu")
        self.image_size, self.channels, self.latent_dim = image_size, channels, latent_dim
        wide, size = width << stages(image_size), SMALLEST
        # A linear layer to 4×4 maps is the transposed convolution of a 1×1 map, and as one it takes the same slots.
        self.features = nn.Sequential(slots.block(nn.ConvTranspose2d(latent_dim, wide, SMALLEST), size))
        while size < image_size:
            size *= 2
            self.features.append(slots.block(nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1), size))
            wide //= 2
        self.image = slots.weight_norm(nn.Conv2d(wide, channels, 3, 1, 1), last=True)

    def forward(self, latents: Tensor) -> Tensor:  # (N, Z) -> (N, C, H, W)
        return torch.tanh(self.image(self.features(latents[:, :, None, None])))
