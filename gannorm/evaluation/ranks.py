"""One score from several processes: each makes every n-th batch, and all of them get the features of all.

Every process of the group calls the same functions in the same order, draws the same latents and keeps the batch
boundaries of one process, so the scores are those of one process. Without a process group nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

from gannorm.errors import UserError

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """In this context, the processes that torchrun started are a group; each uses the GPU of its local rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or _count() > 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    distributed.init_process_group("gloo")  # features are gathered on the CPU, where the scores are computed
    try:
        yield
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
    return _rank() == 0


def is_mine(batch: int) -> bool:
    """Whether this process makes the batch of this number."""
    return batch % _count() == _rank()


def is_shared() -> bool:
    """Whether there are other processes."""
    return _count() > 1


def from_first(value: T) -> T:
    """The first process's value, so that all take the same decision."""
    values = [value]
    if is_shared():
        distributed.broadcast_object_list(values)
    return values[0]


def agree(value: object) -> bool:
    """Whether all processes hold the same value."""
    return len(set(from_all(lambda: {_rank(): value}).values())) == 1


def from_all(make: Callable[[], dict[int, T]]) -> dict[int, T]:
    """What every process made of its batches, by batch; a caller's mistake in one of them is raised in all."""
    if not is_shared():
        return make()
    own: dict[int, T] | UserError
    try:
        own = make()
    except UserError as error:
        own = error  # the others wait for this process: they must hear of it
    parts: list[dict[int, T] | UserError] = [{} for _ in range(_count())]
    distributed.all_gather_object(parts, own)
    found: dict[int, T] = {}
    for part in parts:
        if isinstance(part, UserError):
            raise part
        found |= part
    return dict(sorted(found.items()))


def _count() -> int:
    return distributed.get_world_size() if _initialized() else 1


def _rank() -> int:
    return distributed.get_rank() if _initialized() else 0


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
