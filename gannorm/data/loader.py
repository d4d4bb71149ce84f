"""Endless batches of a uint8 tensor, in an order that is a pure function of (seed, epoch).

So a run can be repeated, and stopped and resumed at any batch, from two integers; no random state needs saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gannorm.data.images import to_float
from gannorm.errors import UserError
from gannorm.seeds import stream


class ImageLoader:
    """An endless iterator of float batches; it is its own position, so a second `iter` continues where the first was.

    Every epoch draws a new permutation of the images and leaves out the ragged end, so that all batches have one size
    and no image comes twice in an epoch. The pixels move to `device` once, as bytes, where they fit (a quarter of the
    free memory of a GPU); otherwise each batch is gathered on the CPU and moved as bytes.

    Args:
        pixels: uint8 (N, C, H, W), in memory or memory-mapped.
        batch_size: images a batch, 1…N.
        seed: of the order.
        device: where the batches are wanted.
        start: batches to skip from the beginning of the first epoch.
        rank, world_size: this process takes every world_size-th image of each permutation, from its rank-th.
        labels: int64 (N,), or None.

    Yields:
        float32 (N, C, H, W) in [−1, 1] on `device`, N = batch_size; with labels (images, int64 (N,)).

    Raises:
        UserError: fewer images than one batch needs.

    >>> loader = ImageLoader(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), batch_size=2, seed=0)
    >>> first = next(loader)
    >>> loader.state_dict()
    {'epoch': 0, 'batch': 1}
    """

    def __init__(
        self,
        pixels: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        labels: Tensor | None = None,
    ) -> None:
        self.batches_per_epoch = pixels.shape[0] // world_size // batch_size if batch_size > 0 else 0
        if self.batches_per_epoch == 0:
            most = pixels.shape[0] // world_size
            raise UserError(f"batch_size must be between 1 and the {most} images: got {batch_size}; choose another.")
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.position = start  # batches drawn since the beginning of epoch 0
        self._pixels = pixels.to(self.device) if _fits(pixels, self.device) else pixels
        self._labels = None if labels is None else labels.to(self._pixels.device)
        self._share = slice(rank, None, world_size)
        self._order = (-1, torch.empty(0, dtype=torch.int64))  # (epoch, this rank's part of its permutation)

    def __iter__(self) -> ImageLoader:
        return self

    def __next__(self) -> Any:
        chosen = self._next_batch()
        images = to_float(self._pixels[chosen].to(self.device))
        return images if self._labels is None else (images, self._labels[chosen].to(self.device))

    def _next_batch(self) -> Tensor:
        """The indices of the next batch's images."""
        epoch, batch = divmod(self.position, self.batches_per_epoch)
        if self._order[0] != epoch:
            # Drawn on the CPU, whose generator's stream does not depend on the device that trains.
            order = torch.randperm(self._pixels.shape[0], generator=stream(self.seed, "images", epoch))
            self._order = (epoch, order[self._share].to(self._pixels.device))
        self.position += 1
        return self._order[1][batch * self.batch_size : (batch + 1) * self.batch_size]

    def state_dict(self) -> dict[str, int]:
        """The place of the next batch, as plain integers."""
        epoch, batch = divmod(self.position, self.batches_per_epoch)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue at a place from `state_dict`."""
        self.position = state["epoch"] * self.batches_per_epoch + state["batch"]


def _fits(pixels: Tensor, device: torch.device) -> bool:
    if device.type == "cuda":
        return pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 4
    return device.type == "cpu"  # where nothing moves; elsewhere the free memory is not known
