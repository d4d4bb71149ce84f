"""A residual pair that trains without any normalization: the alternative that Fixup initialization makes possible.

Each block adds a branch of two convolutions to a shortcut, y = shortcut(x) + scale·branch(x), with the scalars of
Fixup (a multiplier per branch, a bias before each activation, the linear layer and each convolution but the first of
all and the 1×1 ones of the shortcuts) as parameters. They start
at 1 and 0 and so change nothing by themselves: what keeps the moments flat is `initialize(network, "fixup")`, and the
same network under another initialization is the control. The normalizer slots are those of the plain pair, each
normalizer right behind its convolution.

N batch, Z latent, C channels, H W pixels (H = W = image_size).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import require_positive
from gannorm.models.blocks import SMALLEST, Slots, stages


class ResidualDiscriminator(nn.Module):
    """Image -> one logit, positive for "real", or a logit a class: a 3×3 convolution, residual blocks, a linear layer.

    There are `blocks` residual blocks at each map size from image_size down to 4×4; the first of a size halves the maps
    and doubles the width, so that image_size 32 with 5 blocks has 20.

    Args:
        image_size: H = W, one of 8, 16, 32, 64, 128.
        channels: C of the images.
        width: channels at image_size.
        norm: activation normalizer, a name in NORMALIZERS.
        weight_norm: weight normalizer of every layer, a name in WEIGHT_NORMALIZERS.
        blocks: residual blocks at each map size.
        norm_options: options of the activation normalizer.
        outputs: 1 for the logit, otherwise classes.
        activation: nonlinearity: leaky_relu (slope 0.2), relu, sigmoid or tanh.
        dropout: share of the features that is dropped in training before the last layer, in [0, 1).

    Raises:
        UserError: an impossible size, an unknown name, or a normalizer that cannot work at these shapes.

    Source: He et al. 2016 (1603.05027) for the order inside a block; Zhang et al. 2019 for the scalars.

    >>> ResidualDiscriminator(image_size=8, channels=1, width=4)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 32,
        norm: str = "none",
        weight_norm: str = "none",
        blocks: int = 2,
        norm_options: Mapping[str, Any] | None = None,
        outputs: int = 1,
        activation: str = "leaky_relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, width=width, blocks=blocks, outputs=outputs)
        slots = Slots(norm, weight_norm, norm_options, activation, usual="leaky_relu")
        self.image_size, self.channels = image_size, channels
        self.stem = slots.weight_norm(nn.Conv2d(channels, width, 3, 1, 1))
        self.blocks = nn.Sequential()
        size, wide = image_size, width
        for stage in range(stages(image_size) + 1):
            for block in range(blocks):
                down = stage > 0 and block == 0
                size, before, wide = (size // 2, wide, 2 * wide) if down else (size, wide, wide)
                self.blocks.append(ResidualBlock(slots, before, wide, size, "down" if down else ""))
        self.activation = nn.Sequential(Shift(), slots.nonlinearity(wide))
        self.shift = Shift()
        self.dropout = nn.Dropout(dropout)
        self.logit = slots.weight_norm(nn.Linear(wide * SMALLEST * SMALLEST, outputs), last=True)

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N,), or (N, outputs)
        features = self.activation(self.blocks(self.stem(images)))
        return self.logit(self.dropout(self.shift(features.flatten(1)))).squeeze(1)


class ResidualGenerator(nn.Module):
    """Latent -> image in [−1, 1]: a linear layer to 4×4 maps, residual blocks, a 3×3 convolution, tanh.

    There are `blocks` residual blocks at each map size from 4×4 up to image_size; the first of a size doubles the maps
    and halves the width.

    Args:
        image_size: H = W, one of 8, 16, 32, 64, 128.
        channels: C of the images.
        width: channels at image_size; at 4×4 there are width · image_size / 4.
        latent_dim: Z, standard normal.
        norm: activation normalizer, a name in NORMALIZERS.
        weight_norm: weight normalizer of every layer, a name in WEIGHT_NORMALIZERS.
        blocks: residual blocks at each map size.
        norm_options: options of the activation normalizer.
        activation: nonlinearity: leaky_relu (slope 0.2), relu, sigmoid or tanh.

    Raises:
        UserError: an impossible size, an unknown name, or a normalizer that cannot work at these shapes.

    Source: He et al. 2016 (1603.05027) for the order inside a block; Zhang et al. 2019 for the scalars.

    >>> ResidualGenerator(image_size=8, channels=1, width=4, latent_dim=2)(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 32,
        latent_dim: int = 64,
        norm: str = "none",
        weight_norm: str = "none",
        blocks: int = 2,
        norm_options: Mapping[str, Any] | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, width=width, latent_dim=latent_dim, blocks=blocks)
        slots = Slots(norm, weight_norm, norm_options, activation, usual="relu")
        self.image_size, self.channels, self.latent_dim = image_size, channels, latent_dim
        size, wide = SMALLEST, width << stages(image_size)
        self.stem = slots.weight_norm(nn.ConvTranspose2d(latent_dim, wide, SMALLEST))
        self.blocks = nn.Sequential()
        for stage in range(stages(image_size) + 1):
            for block in range(blocks):
                up = stage > 0 and block == 0
                size, before, wide = (size * 2, wide, wide // 2) if up else (size, wide, wide)
                self.blocks.append(ResidualBlock(slots, before, wide, size, "up" if up else ""))
        self.activation = nn.Sequential(Shift(), slots.nonlinearity(wide))
        self.shift = Shift()
        self.image = slots.weight_norm(nn.Conv2d(wide, channels, 3, 1, 1), last=True)

    def forward(self, latents: Tensor) -> Tensor:  # (N, Z) -> (N, C, H, W)
        features = self.activation(self.blocks(self.stem(latents[:, :, None, None])))
        return torch.tanh(self.image(self.shift(features)))


class ResidualBlock(nn.Module):
    """y = shortcut(x) + scale·branch(x), branch: [shift, nonlinearity, shift, convolution, normalizer] twice.

    The shortcut is the identity where neither size nor width changes. Otherwise it takes every second pixel or repeats
    each, which keeps the variance of a map, and a 1×1 convolution changes the width.

    Args:
        slots: the normalizer slots of the network.
        before, after: channels of x and y.
        size: H = W of y.
        resample: "" keeps the maps, "down" halves and "up" doubles them, by a 4×4 stride-2 convolution in the branch.
    """

    def __init__(self, slots: Slots, before: int, after: int, size: int, resample: str) -> None:
        super().__init__()
        assert resample in ("", "down", "up"), resample
        self.resample = resample
        first: nn.Conv2d | nn.ConvTranspose2d
        if resample == "":
            first = nn.Conv2d(before, after, 3, 1, 1, bias=False)
        elif resample == "down":
            first = nn.Conv2d(before, after, 4, 2, 1, bias=False)
        else:
            first = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
        second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        slots.norm.check(size)
        self.branch = nn.Sequential()
        for number, convolution in enumerate((first, second), start=1):
            self.branch.append(Shift())
            # A normalizer with its own nonlinearity, behind the convolution, leaves none to put before the next one.
            if not slots.norm.activation:
                self.branch.append(slots.nonlinearity(convolution.in_channels))
                self.branch.append(Shift())
            self.branch.add_module(f"conv{number}", slots.weight_norm(convolution))
            if slots.norm.name != "none":
                norm = slots.norm(convolution.out_channels, **slots.norm_options)
                self.branch.add_module(f"norm{number}", norm)
        self.scale = nn.Parameter(torch.ones(()))
        changed = before != after
        self.shortcut = slots.weight_norm(nn.Conv2d(before, after, 1, bias=False)) if changed else nn.Identity()

    @property
    def convolutions(self) -> list[nn.Module]:
        """The weight layers of the branch, in order."""
        return [m for m in self.branch if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.resample == "down":
            shortcut = x[:, :, ::2, ::2]
        elif self.resample == "up":
            shortcut = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.shortcut(shortcut) + self.scale * self.branch(x)


class Shift(nn.Module):
    """x + b with one learned scalar b, which starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias
