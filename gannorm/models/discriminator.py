"""The VGG-style discriminator: the network whose normalizer is the study factor.

N batch, C channels, H W pixels (H = W = image_size).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gannorm.errors import UserError, require_positive
from gannorm.models.blocks import SMALLEST, Slots, stages
from gannorm.models.minibatch import MinibatchDiscrimination, MinibatchStddev
from gannorm.registry import choices

MINIBATCH = ("none", "stddev", "discrimination")
NORM_LAYERS = ("all", "all_but_first", "last")


class Discriminator(nn.Module):
    """Image -> one logit, positive for "real"; or, with more outputs, image -> a logit for each class.

    Stages of [3×3 convolution, 4×4 stride-2 convolution], the width doubling from stage to stage, until the maps are
    4×4; one 3×3 convolution there; one linear logit (the layout of Miyato et al. 2018, table 3). Every convolution is
    followed by the normalizer and LeakyReLU(0.2), the first too, which DCGAN leaves bare (Radford et al. 2016): here
    the normalizer is what is studied, and it stands in every place that it can.

    Args:
        image_size: H = W, one of 8, 16, 32, 64, 128.
        channels: C of the images.
        width: channels of the first stage.
        norm: activation normalizer, a name in NORMALIZERS.
        weight_norm: weight normalizer of every layer, a name in WEIGHT_NORMALIZERS.
        norm_options: options of the activation normalizer, for example {groups: 4}.
        minibatch: deliberate coupling: "stddev" appends a channel of deviations over the batch before the last
            convolution (Karras et al. 2018), "discrimination" features of closeness before the logit (Salimans et al.
            2016).
        norm_layers: which convolutions the activation normalizer follows: "all" of them, "all_but_first" or only the
            "last". The others have a bias instead.
        depth: layers with weights; 0 for the layout above, 2·log₂(image_size/4) + 2 of them. More are 3×3 convolutions
            before each stage's strided one and before the last, shared out evenly, the earlier stages first.
        outputs: 1 for the logit, otherwise classes.

    Raises:
        UserError: an impossible size or depth, an unknown name, or a normalizer that cannot work at these shapes.

    >>> import torch
    >>> Discriminator(image_size=16, channels=1, width=8, norm="group")(torch.zeros(5, 1, 16, 16)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 32,
        norm: str = "batch",
        weight_norm: str = "none",
        norm_options: Mapping[str, Any] | None = None,
        minibatch: str = "none",
        norm_layers: str = "all",
        depth: int = 0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, width=width, outputs=outputs)
        if norm_layers not in NORM_LAYERS:
            raise UserError(f"unknown norm_layers {norm_layers!r}: {choices(norm_layers, NORM_LAYERS)}")
        if minibatch not in MINIBATCH:
            raise UserError(f"unknown minibatch layer {minibatch!r}: {choices(minibatch, MINIBATCH)}")
        slots = Slots(norm, weight_norm, norm_options, leak=0.2)
        self.image_size, self.channels = image_size, channels
        self.features = nn.Sequential()
        more = _more_layers(depth, image_size)
        size, before = image_size, channels

        def append(convolution: nn.Conv2d, last: bool = False) -> None:
            first = not self.features
            normalize = {"all": True, "all_but_first": not first, "last": last}[norm_layers]
            self.features.append(slots.block(convolution, size, normalize))

        for stage in range(stages(image_size)):
            wide = width << stage
            for _ in range(1 + more[stage]):
                append(nn.Conv2d(before, wide, 3, 1, 1))
                before = wide
            size //= 2
            append(nn.Conv2d(wide, wide, 4, 2, 1))
        wide = 2 * before
        for _ in range(more[-1]):
            append(nn.Conv2d(before, wide, 3, 1, 1))
            before = wide
        if minibatch == "stddev":
            stddev = MinibatchStddev()
            self.features.append(stddev)
            before += stddev.extra_channels
        append(nn.Conv2d(before, wide, 3, 1, 1), last=True)
        self.features.append(nn.Flatten())
        features = wide * SMALLEST * SMALLEST
        if minibatch == "discrimination":
            discrimination = MinibatchDiscrimination(features)
            self.features.append(discrimination)
            features += discrimination.extra_features
        self.logit = slots.weight_norm(nn.Linear(features, outputs), last=True)

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N,), or (N, outputs)
        return self.logit(self.features(images)).squeeze(1)


def _more_layers(depth: int, image_size: int) -> list[int]:
    """The number of extra 3×3 convolutions in each stage and at the end, for `depth` layers in all."""
    places = stages(image_size) + 1
    least = 2 * places
    if depth and depth < least:
        raise UserError(f"`depth` must be 0 or at least {least} for images of {image_size}: got {depth}; raise it.")
    even, rest = divmod(max(depth - least, 0), places)
    return [even + (place < rest) for place in range(places)]
