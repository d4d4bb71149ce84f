"""Locks on open files, with which processes exclude each other. The system frees the locks of a dead process.

This is the only import of `fcntl`, which Windows lacks. Everything without locks works there.
"""

from __future__ import annotations

import sys
from typing import IO

from gannorm.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


def lock(file: IO[str], *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file until it is closed.

    Args:
        file: the file; locks belong to an open file, so that threads exclude each other as processes do.
        shared: several may hold a shared lock at once, and none an exclusive one meanwhile.
        wait: for others to free it.

    Raises:
        OSError: another holds it and `wait` is False, or its file system has no locks.
        UserError: the system has no such locks.
    """
    if fcntl is None:
        raise UserError(
            f"run directories, studies and folders of images need file locks (fcntl): {sys.platform} has none; use "
            "Linux, macOS or WSL for them. The probes work everywhere."
        )
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
