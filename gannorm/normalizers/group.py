"""Normalizers whose statistics come from one image: group, instance and layer; and none. No coupling of the batch."""

from __future__ import annotations

from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer


@normalizer(
    "group",
    title="GroupNorm",
    forward_coupling=False,
    gradient_coupling=False,
    # 10 % faster in float32; torch's bfloat16 kernel for this layout is slow and loses 20 %.
    channels_last="float32",
)
def group(
    channels: int, groups: int | None = None, channels_per_group: int | None = None, eps: float = 1e-5
) -> nn.Module:
    """Statistics over each group of channels and the pixels of one image.

    x̂ = (x − μ_ng)/√(σ²_ng + ε), y = γ·x̂ + β, for image n and group g of C/G neighbouring channels.

    Args:
        channels: C.
        groups: the number of groups G.
        channels_per_group: instead of it, channels in a group; 8 if neither is given. Fewer channels are one group.
        eps: ε > 0, added to the variance.

    Returns:
        torch's GroupNorm.

    Raises:
        UserError: the groups do not divide the channels, or both options are given.

    Source: Wu & He 2018, Eqs. 1–7 (both forms, a fixed number of groups and of channels in one: their Table 3).

    >>> from gannorm.normalizers import NORMALIZERS
    >>> NORMALIZERS["group"](64, groups=8).num_groups, NORMALIZERS["group"](32).num_groups
    (8, 4)
    >>> NORMALIZERS["group"](64, groups=3)
    Traceback (most recent call last):
        ...
    gannorm.errors.UserError: `groups` must divide `channels`: got groups=3, channels=64; try groups=4.
    """
    return nn.GroupNorm(group_count(channels, groups, channels_per_group), channels, eps=eps)


@normalizer("instance", title="InstanceNorm", forward_coupling=False, gradient_coupling=False, min_pixels=2)
def instance(channels: int, eps: float = 1e-5) -> nn.Module:
    """Statistics over the pixels of one channel of one image, in training and eval mode alike.

    x̂ = (x − μ_nc)/√(σ²_nc + ε), y = γ·x̂ + β. Undefined on 1×1 maps, where every output would be β.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.

    Returns:
        torch's InstanceNorm2d, affine, without running statistics.

    Source: Ulyanov et al. 2016 (1607.08022), Eq. 2.
    """
    return nn.InstanceNorm2d(channels, eps=eps, affine=True, track_running_stats=False)


@normalizer("layer", title="LayerNorm", forward_coupling=False, gradient_coupling=False, channels_last=True)
def layer(channels: int, eps: float = 1e-5) -> nn.Module:
    """Statistics over all channels and pixels of one image: GroupNorm with one group.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.

    Returns:
        torch's GroupNorm with one group: γ and β are per channel, not per channel and pixel.

    Source: Ba et al. 2016 (1607.06450) in the form of Wu & He 2018, section 3.1.
    """
    return nn.GroupNorm(1, channels, eps=eps)


@normalizer("none", title="no normalizer", forward_coupling=False, gradient_coupling=False, channels_last=True)
def none(channels: int) -> nn.Module:
    """No activation normalizer, as a choice of its own: y = x."""
    return nn.Identity()


def group_count(channels: int, groups: int | None, channels_per_group: int | None) -> int:
    """The number of groups by the rule of `group`. Raises UserError as it does."""
    if groups is not None and channels_per_group is not None:
        raise UserError(
            "`groups` and `channels_per_group` say the same thing twice: "
            f"got groups={groups}, channels_per_group={channels_per_group}; give one of them."
        )
    if groups is None:
        channels_per_group = 8 if channels_per_group is None else channels_per_group
        # A layer narrower than a group is one group: it normalizes all of its channels together.
        size = min(channels_per_group, channels)
        if size < 1 or channels % size:
            raise UserError(
                f"`channels_per_group` must divide `channels`: got channels_per_group={channels_per_group}, "
                f"channels={channels}; try channels_per_group={_nearest_divisor(channels, channels_per_group)}."
            )
        groups = channels // size
    if groups < 1 or channels % groups:
        raise UserError(
            f"`groups` must divide `channels`: got groups={groups}, channels={channels}; "
            f"try groups={_nearest_divisor(channels, groups)}."
        )
    return groups


def _nearest_divisor(channels: int, wanted: int) -> int:
    # Ties go to the larger divisor: 64 channels, 3 wanted → 4.
    return min((d for d in range(1, channels + 1) if channels % d == 0), key=lambda d: (abs(d - wanted), -d))
