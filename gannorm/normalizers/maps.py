"""Memory of maps on the CPU that is used again.

The system hands out the memory of a large tensor page by page at each first touch, which takes as long as a BatchNorm
takes to fill it. torch keeps freed memory on a GPU; on a CPU, the C library gives that of large maps back at once.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIZES = 16  # of maps, those asked for last, whose memory is kept


class _Kept(threading.local):
    """Free memory by the number of values; as much of a size as was once in use together."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray[Any, Any]]] = {}


_kept = _Kept()


def map_like(x: Tensor) -> Tensor:
    """torch.empty_like, for a dense float32 map on a CPU in memory that was used before.

    The memory comes back when the last tensor on it is gone. Any other x, one that torch.func or a batched gradient
    hands over for many among them, gets torch's own.

    >>> map_like(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """
    if not is_plain(x):
        return torch.empty_like(x)
    values, kept = x.numel(), _kept.free
    free = kept[values] = kept.pop(values, [])  # the last key is the one asked for last
    if len(kept) > SIZES:
        del kept[next(iter(kept))]
    memory = free.pop() if free else torch.empty(values).numpy()
    lent = memory[:]  # torch holds it as long as a tensor is on it
    weakref.finalize(lent, free.append, memory).atexit = False
    return torch.from_numpy(lent).as_strided(x.shape, x.stride())


def is_plain(x: Tensor) -> bool:
    """Whether a tensor is a dense float32 map in the memory of the CPU, in this or the channels_last order."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    try:
        x.untyped_storage()
    except NotImplementedError:  # stands for many tensors
        return False
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
