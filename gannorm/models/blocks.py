"""The block of both networks: convolution → weight normalizer → activation normalizer → nonlinearity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS

SMALLEST = 4  # H = W of the deepest maps of every network
SIZES = (8, 16, 32, 64, 128)


class Slots:
    """The two normalizer slots of one network, resolved from their names once.

    Args:
        norm: activation normalizer, a name in NORMALIZERS; `norm_options` are its options.
        weight_norm: weight normalizer, a name in WEIGHT_NORMALIZERS.
        leak: slope of LeakyReLU for negative inputs; 0 makes it ReLU.
    """

    def __init__(self, norm: str, weight_norm: str, norm_options: Mapping[str, Any] | None, leak: float) -> None:
        self.norm, self.weight_norm = NORMALIZERS[norm], WEIGHT_NORMALIZERS[weight_norm]
        self.norm_options = dict(norm_options or {})
        self.leak = leak
        if norm == "none" and self.norm_options:
            raise UserError(f"normalizer 'none' takes no options: got {self.norm_options}; leave norm_options out.")

    def block(self, convolution: nn.Conv2d | nn.ConvTranspose2d, size: int, normalize: bool = True) -> nn.Sequential:
        """The convolution with its normalizers and nonlinearity; its maps are size × size.

        The convolution keeps its bias only where no activation normalizer follows; the centring of one would remove it.

        Args:
            convolution: whose bias is removed or kept.
            size: H = W of its output.
            normalize: whether the activation normalizer follows it; the weight normalizer always acts.
        """
        channels = convolution.out_channels
        normalize = normalize and self.norm.name != "none"
        if normalize:
            self.norm.check(size)
            convolution.register_parameter("bias", None)
        layers = nn.Sequential()
        layers.add_module("conv", self.weight_norm(convolution))
        if normalize:
            layers.add_module("norm", self.norm(channels, **self.norm_options))
        if not (normalize and self.norm.activation):
            layers.add_module("activation", self.nonlinearity(channels))
        return layers

    def nonlinearity(self, channels: int) -> nn.Module:
        if self.weight_norm.activation is not None:
            return self.weight_norm.activation(channels)
        return nn.LeakyReLU(self.leak) if self.leak else nn.ReLU()


def is_normalizer(name: str) -> bool:
    """Whether a module of this package's networks, by its qualified name, is the layer that a normalizer built."""
    return name.rpartition(".")[2] in ("norm", "norm1", "norm2")


def stages(image_size: int) -> int:
    """The number of halvings between image_size and 4×4. Raises UserError for an impossible size."""
    if image_size not in SIZES:
        raise UserError(
            f"`image_size` must be one of {', '.join(map(str, SIZES))}: got {image_size}; resize the images."
        )
    return (image_size // SMALLEST).bit_length() - 1
