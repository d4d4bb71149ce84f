"""Standard output and error, which may be closed at the start or during a command; tables for them."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Sequence


def require_streams() -> None:
    """If a command was started with output or error closed, redirect it to the null device. Python has None there.

    Opens all of the descriptors 0 to 2, so that no file that is opened later gets one to which libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:  # the lowest that is free
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)


def leave() -> None:
    """Redirect output from a terminal or pipe that is gone, where writing would fail, to the null device.

    Output into a file continues.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in columns.

    >>> aligned([["norm", "FID"], ["batch", "23.5"]])
    ['norm   FID', 'batch  23.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
