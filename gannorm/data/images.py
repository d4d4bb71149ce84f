"""A data set as one uint8 tensor, and the fixed map between its bytes and the floats that networks see.

The map never depends on the images (no per-batch scaling): −1 is always byte 0 and 1 is always byte 255, so what is
scored is what was generated. Legend: N images, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.seeds import stream


def to_float(pixels: Tensor) -> Tensor:
    """Bytes to floats: x = u / 127.5 − 1.

    Args:
        pixels: uint8, any shape, 0…255.

    Returns:
        float32 in [−1, 1] on the same device; 0 is mid-grey. `to_uint8` gives back every byte exactly.

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Floats to the nearest byte: u = round((x + 1) · 127.5), clipped to 0…255.

    Args:
        images: floating point of any width, any shape, meant to lie in [−1, 1].

    Returns:
        uint8 on the same device.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 3.0]))
    tensor([  0, 128, 255, 255], dtype=torch.uint8)
    """
    # In float32 also for bfloat16 images, whose 8 bits of mantissa cannot distinguish 256 levels around ±1.
    return images.detach().to(torch.float32, copy=True).add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set: square images as bytes, in memory or mapped from a file.

    Args:
        pixels: uint8 (N, C, H, W) on the CPU.
        labels: int64 (N,), indices into `classes`; None where the data set has none.
        classes: the names of the classes, in the order of their labels.
        name: the data set's name.
        split: "train" or "test".
        split_rule: how training and held-out images were separated, in a few words.
        note: what else a person should know of these images, in a few words.

    Raises:
        UserError: pixels or labels of another type or shape.

    >>> Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), None, (), "black", "train")
    Images(black/train: 4 x 1x8x8)
    """

    pixels: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    name: str
    split: str
    split_rule: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            arrived = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise UserError(f"pixels must be uint8 (N, C, H, W): got {arrived} from data set {self.name!r}.")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (len(self),)):
            arrived = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise UserError(f"labels must be int64 ({len(self)},): got {arrived} from data set {self.name!r}.")

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def __repr__(self) -> str:
        return f"Images({self.name}/{self.split}: {len(self)} x {'x'.join(map(str, self.pixels.shape[1:]))})"

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    @property
    def image_size(self) -> int:
        return self.pixels.shape[2]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape and pixels, in hexadecimal: two splits share it when their images are the same."""
        return fingerprint(self.pixels)

    def take(self, n: int, seed: int) -> Tensor:
        """Draw n different images: float32 (n, C, H, W) in [−1, 1], on the CPU; a larger n only adds to a smaller one.

        Raises:
            UserError: fewer than n images.
        """
        if n > len(self):
            raise UserError(f"{self.name}/{self.split} must hold the images asked for: {n} of {len(self)}; take fewer.")
        order = torch.randperm(len(self), generator=stream(seed, "take"))
        return to_float(self.pixels[order[:n]])


def fingerprint(pixels: Tensor) -> str:
    """SHA-256 of a uint8 tensor's shape and content, in hexadecimal."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().data)  # in place: a mapped file is read through, not loaded
    return digest.hexdigest()
