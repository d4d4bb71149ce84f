"""Tasks as child processes on this machine.

A child leads a session, so that stopping it also stops what it started (loaders, W&B). On Linux the kernel kills it
when the parent dies for any reason; elsewhere a child survives a parent that was killed with -9, holds its run's lock
until it ends, and the next start waits for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from gannorm.files import leave
from gannorm.studies.runner import Process, Task

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read by torch and NumPy when they start
RUNS_PER_GPU = 4  # as on a Ray cluster, where a run takes a quarter


class Local:
    """An engine: child processes on this machine.

    Args:
        gannorm: how to start `gannorm`.
        jobs: processes at once; None: see `shares`.
        gpus: the GPUs to use, see `visible_gpus`; each process sees the GPU with the fewest users.
    """

    def __init__(self, gannorm: Sequence[str], jobs: int | None = None, gpus: Sequence[str] = ()) -> None:
        self.gannorm, self.jobs, self.gpus = gannorm, jobs, gpus
        self._users: list[tuple[str, Child]] = []

    def shares(self, tasks: int) -> tuple[int, int]:
        return shares(self.jobs, tasks, len(self.gpus))

    def start(self, task: Task, log: Path, threads: int) -> Process:
        self._users = [(gpu, child) for gpu, child in self._users if child.status() is None]
        uses = Counter(gpu for gpu, _ in self._users)
        variables = {"CUDA_VISIBLE_DEVICES": min(self.gpus, key=lambda gpu: uses[gpu])} if self.gpus else {}
        child = Child([*self.gannorm, *task.arguments()], log, task.progress, threads, variables)
        self._users += [(gpu, child) for gpu in variables.values()]
        return child


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs, as CUDA_VISIBLE_DEVICES names them; from nvidia-smi, since the import of torch takes seconds."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, _ in enumerate(re.findall("^GPU ", listed.stdout, re.MULTILINE))]


def shares(jobs: int | None, tasks: int, gpus: int = 0) -> tuple[int, int]:
    """(processes at once, threads for each), of this machine's cores.

    The default is one process a core: at a study's sizes, two runs of one thread are faster than one run of two. With
    OMP_NUM_THREADS set, each process gets that number of threads, and as many processes start as the cores allow. Each
    GPU gets at most RUNS_PER_GPU processes.

    >>> shares(jobs=3, tasks=2)[0]
    2
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else 0
    room = min(cores // (threads or 1), RUNS_PER_GPU * gpus or cores)
    workers = max(1, min(jobs or room, tasks))
    return workers, threads or max(1, cores // workers)


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM, and SIGHUP unless it is ignored, as Ctrl-C."""

    def interrupt(number: int, _: object) -> None:
        if number != signal.SIGTERM:
            leave()
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: no SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """A started command whose output is appended to a log.

    Args:
        command: what to run.
        log: its output goes to the end of this file.
        progress: how much of its task is done.
        threads: number of threads that it may use.
        environment: extra environment variables.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        progress: Callable[[], int],
        threads: int,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.log, self.progress = log, progress
        with log.open("ab") as output:
            self._begin = output.tell()
            self._process = subprocess.Popen(
                [*_tied_to(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(THREADS, str(threads)), **environment},
                start_new_session=True,
            )

    def status(self) -> int | None:
        return self._process.poll()

    def last_line(self) -> str:
        line, status = last_line(self.log, self._begin), self.status() or 0
        if status >= 0:
            return line or f"exit status {status} without any output"
        name = signal.Signals(-status).name
        reason = f"{name} (out of memory?)" if name == "SIGKILL" else name
        return f"killed by {reason}, after: {line}" if line else f"killed by {reason}"

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait()


def last_line(log: Path, begin: int = 0) -> str:
    """The last line of a log that is not empty, among what was appended after `begin` bytes; "" if there is none."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _tied_to(parent: int) -> list[str]:
    """The prefix of a command that makes the kernel kill it when `parent` ends.

    The process ties itself and then becomes the command. (Python code between fork and exec, subprocess's preexec_fn,
    may deadlock where there are threads.)
    """
    if sys.platform != "linux":
        return []
    tie = (
        "import ctypes, os, signal, sys\n"
        "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG of <linux/prctl.h>
        "if os.getppid() == int(sys.argv[1]):\n"  # the parent is still alive
        "    os.execvp(sys.argv[2], sys.argv[2:])\n"
    )
    return [sys.executable, "-I", "-S", "-c", tie, str(parent)]
