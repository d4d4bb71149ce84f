"""What `gannorm.studies.cluster` has on a node: an actor that starts one process there and tells of it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

from gannorm.locks import lock as lock_file
from gannorm.studies.processes import Child
from gannorm.studies.tasks import TICK, Task
from gannorm.studies.transport import PART, packed, unpack

SCRATCH = "gannorm-run-"  # prefix of the folders in which runs are made that are brought back


class Worker:
    """The actor on a node: it has one task's process. A question that is put twice has the same effect as once."""

    def __init__(self) -> None:
        self._scratch, self._lock = _scratch()
        self._child: Child | None = None
        self._packed: IO[bytes] | None = None

    def meet(self, token_file: str, token: str, folder: str) -> tuple[str, str, bool]:
        """Who this is, which gannorm it has, and whether it sees the study's folder."""
        import ray

        os.chdir(folder if os.path.isdir(folder) else self._scratch)
        node = f"{platform.node()} ({ray.get_runtime_context().get_node_id()[:8]})"
        with contextlib.suppress(OSError):
            return node, version("gannorm"), Path(token_file).read_text() == token
        return node, version("gannorm"), False

    def receive(self, start: int, part: bytes) -> None:
        """A part of the packed runs that the task needs."""
        with (self._scratch / "sent").open("r+b" if start else "wb") as file:
            file.seek(start)
            file.write(part)

    def start(self, task: Task, command: Sequence[str], shared: bool, threads: int) -> tuple[()]:
        """Start the process, on the study's own folder or on a copy of what it needs of it."""
        if self._child is None:
            self._task, self._shared = task, shared
            if not shared:
                self._task = task.moved(self._scratch / "runs")
                with (self._scratch / "sent").open("rb") as sent:
                    unpack(sent, self._task.runs, self._task.runs[0].path.parent)
                self._task.prepare()
            command = [sys.executable, *command, *self._task.arguments()]
            self._child = Child(command, self._scratch / "log", self._task.progress, threads)
        return ()

    def news(self, logged: int, brought: int) -> tuple[bytes, int, int | None, str, bytes]:
        """What it printed after so many bytes, progress, exit status, last line, packed runs after so many bytes.

        The status comes last, when everything else has been told.
        """
        assert self._child is not None
        deadline = time.monotonic() + 1.0  # rather than one question after the other
        while (status := self._child.status()) is None and time.monotonic() < deadline:
            time.sleep(TICK)
        part = b""
        if status is not None and not self._shared:
            if self._packed is None:
                self._child.close()  # whatever it started writes no more
                self._packed = packed(self._task.runs)
            self._packed.seek(brought)
            part = self._packed.read(PART)
        with self._child.log.open("rb") as log:
            log.seek(logged)
            printed = log.read(PART)
        told = status if not printed and not part else None
        return printed, self._task.progress(), told, self._child.last_line(), part

    def send(self, number: int) -> None:
        if self._child is not None:
            self._child.send(number)

    def close(self) -> None:
        """Kill what is left, and leave nothing behind."""
        if self._child is not None:
            self._child.close()
        os.chdir("/")
        shutil.rmtree(self._scratch, ignore_errors=True)


def _scratch() -> tuple[Path, IO[str]]:
    """A new folder, and the lock that says that it is in use; what killed workers have left is removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError), (left / ".lock").open("r+") as lock:
            lock_file(lock, wait=False)
            shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="gannorm-new-"))
    lock = (new / ".lock").open("w")
    lock_file(lock)
    return new.rename(new.with_name(new.name.replace("gannorm-new-", SCRATCH))), lock
