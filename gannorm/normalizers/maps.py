"""Memory of maps on the CPU that is used again.

The system hands out the memory of a large tensor page by page at each first touch, which takes as long as a BatchNorm
takes to fill it. torch keeps freed memory on a GPU; on a CPU, the C library gives that of large maps back at once.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEAST = 2**20  # values of a map, 4 MiB: memory of less, malloc keeps by itself
LARGEST = 2**24  # 64 MiB
MOST = 16  # maps whose memory is kept, those that came back last: at most 1 GiB


class _Kept(threading.local):
    """The memory that came back. Only its own thread takes any, but it may come back in all, and amid another call."""

    def __init__(self) -> None:
        self.maps: deque[np.ndarray[Any, Any]] = deque(maxlen=MOST)


_kept = _Kept()


def map_like(x: Tensor) -> Tensor:
    """torch.empty_like, for a dense float32 map of 4 to 64 MiB on a CPU in memory that was used before.

    The memory comes back when the last tensor on it is gone. Any other x gets torch's own.

    >>> map_like(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """
    if not is_plain(x) or not LEAST <= x.numel() <= LARGEST:
        return torch.empty_like(x)
    kept, memory, others = _kept.maps, None, []
    while kept and memory is None:
        last = kept.pop()
        if last.size == x.numel():
            memory = last
        else:
            others.append(last)
    kept.extend(reversed(others))
    if memory is None:
        memory = torch.empty(x.numel(), dtype=torch.float32, device="cpu").numpy()
    lent = memory[:]  # torch holds it as long as a tensor is on it
    weakref.finalize(lent, kept.append, memory).atexit = False
    storage = torch.from_numpy(lent).untyped_storage()
    # No view, which autograd would not let be changed in place behind a function of its own.
    return torch.empty(0, dtype=torch.float32, device="cpu").set_(storage, 0, x.shape, x.stride())


def is_plain(x: Tensor) -> bool:
    """Whether a tensor is a dense float32 map in the memory of the CPU, in this or the channels_last order."""
    if type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling():
        return False
    try:
        x.untyped_storage()
    except NotImplementedError:  # one that stands for many: in torch.func, or a batch of gradients
        return False
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
