"""Run tasks as child processes, some at once: retried once, shown in one line, and none of them outlives us.

A child leads a session, so that stopping it also stops what it started (loaders, W&B). On Linux the kernel kills it
when we die, however that happens; elsewhere a child survives a parent that was killed with -9, holds its run's lock
until it ends, and the next start waits for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from gannorm.errors import UserError

CALLERS_MISTAKE = 2  # exit status of a command that was given something that cannot work
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read by torch and NumPy when they start
TICK = 0.2  # seconds between looks at the children
GRACE = 10.0  # seconds between asking a child to stop and killing it


class Task(Protocol):
    """Something that one child process does, and whose success can be seen without asking the process."""

    name: str
    total: int  # units of work

    def command(self) -> list[str]:
        """What to run; called at each start."""

    def progress(self) -> int:
        """How much of `total` is done."""

    def is_done(self) -> bool:
        """Whether there is nothing left to do."""

    def is_busy(self) -> bool:
        """Whether a process that is not ours is doing it."""

    def outcome(self) -> str:
        """What a person wants to know once it is done."""


def run_all(tasks: Sequence[Task], jobs: int | None, logs: Path, what: str, unit: str) -> list[str]:
    """Do the tasks that are not done; one that fails is tried once more, after the others.

    Args:
        tasks: in order.
        jobs: processes at once; None: see `shares`.
        logs: folder for <name>.log, with everything that a task's process prints.
        what, unit: of the work, for the line that shows progress.

    Returns:
        The names of the tasks that failed twice.

    Raises:
        UserError: a task was a caller's mistake, which the other tasks would repeat; the other processes are stopped.
    """
    waiting = [task for task in tasks if not task.is_done()]
    if not waiting:
        return []
    workers, threads = shares(jobs, len(waiting))
    environment = dict.fromkeys(THREADS, str(threads))
    failures: Counter[str] = Counter()
    active: dict[str, tuple[Task, Child]] = {}
    view = _View(tasks, what, unit)
    try:
        while waiting or active:
            while len(active) < workers and (task := next((t for t in waiting if not t.is_busy()), None)):
                waiting.remove(task)
                if not task.is_done():  # a process that is not ours may have ended since we looked
                    active[task.name] = task, Child(task.command(), logs / f"{task.name}.log", environment)
            view.show(active)
            time.sleep(TICK)
            for task, child in [pair for pair in active.values() if pair[1].status() is not None]:
                del active[task.name]
                if task.is_done():
                    view.say(task, f"{task.outcome()} ({child.seconds():.0f} s)")
                    continue
                if child.status() == CALLERS_MISTAKE:
                    raise UserError(f"{task.name}: {re.sub(r'^gannorm [a-z]*: ', '', child.last_line())}")
                failures[task.name] += 1
                again = failures[task.name] == 1
                then = "to be tried again" if again else "twice"
                view.say(task, f"failed, {then}: {child.last_line()} (all it printed is in {child.log})")
                if again:
                    waiting.append(task)
    finally:
        view.clear()
        stop([child for _, child in active.values()])
    return [name for name, count in failures.items() if count == 2]


def shares(jobs: int | None, tasks: int) -> tuple[int, int]:
    """(processes at once, threads for each), of this machine's cores.

    By default a process a core: at a study's sizes, two runs of one thread do more than one run of two. Whoever sets
    OMP_NUM_THREADS gets as many threads a process, and as many processes as have room.

    >>> shares(jobs=3, tasks=2)[0]
    2
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else 0
    workers = max(1, min(jobs or cores // (threads or 1), tasks))
    return workers, threads or max(1, cores // workers)


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM an orderly end, as Ctrl-C is."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Child:
    """A started command whose output is appended to a log.

    Args:
        command: what to run.
        log: its output goes to the end of this file.
        environment: variables to set beside the present ones.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log, self._since = log, time.monotonic()
        with log.open("ab") as output:
            self._begin = output.tell()
            self._process = subprocess.Popen(
                [*_tied_to(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def status(self) -> int | None:
        """The exit status; None while it runs; −n when signal n ended it."""
        return self._process.poll()

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._since

    def last_line(self) -> str:
        """The last line that it printed, and the signal that killed it, if one did."""
        with self.log.open("rb") as file:
            file.seek(max(self._begin, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        status = self.status() or 0
        if status >= 0:
            return line or f"exit status {status} without a word"
        name = signal.Signals(-status).name
        return f"killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}{line and f', after: {line}'}"

    def send(self, number: int) -> None:
        """Send a signal to the process and to everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def stop(children: Sequence[Child]) -> None:
    """Ask all to stop; kill what has not after GRACE seconds, or at a second Ctrl-C."""
    try:
        for child in children:
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(child.status() is None for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        for child in children:
            child.send(signal.SIGKILL)
            child._process.wait()


def _tied_to(parent: int) -> list[str]:
    """What turns a command into one that the kernel kills when `parent` ends.

    The process ties itself and then becomes the command. (Python code between fork and exec, subprocess's preexec_fn,
    may deadlock where there are threads.)
    """
    if sys.platform != "linux":
        return []
    tie = (
        "import ctypes, os, signal, sys\n"
        "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG of <linux/prctl.h>
        "if os.getppid() == int(sys.argv[1]):\n"  # otherwise it ended before the call
        "    os.execvp(sys.argv[2], sys.argv[2:])\n"
    )
    return [sys.executable, "-I", "-S", "-c", tie, str(parent)]


class _View:
    """One line for all tasks: refreshed on a terminal, printed now and then elsewhere."""

    def __init__(self, tasks: Sequence[Task], what: str, unit: str) -> None:
        self.tasks, self.what, self.unit = {task.name: task for task in tasks}, what, unit
        self.live = sys.stderr.isatty()
        self.patience = 0.5 if self.live else 30.0
        # What a dead attempt got done is done again: it counts for nothing.
        self.done = {task.name: task.total if task.is_done() else 0 for task in tasks}
        self.initial = sum(self.done.values())
        self.begin = self.shown = time.monotonic()

    def show(self, active: Collection[str]) -> None:
        """Work done of work planned, time left at the rate since the start, and what is active."""
        if time.monotonic() - self.shown < self.patience:
            return
        self.shown = time.monotonic()
        self.done |= {name: self.tasks[name].progress() for name in active}
        complete = sum(self.done[name] >= task.total for name, task in self.tasks.items())
        line = tqdm.format_meter(
            n=sum(self.done.values()),
            total=sum(task.total for task in self.tasks.values()),
            elapsed=self.shown - self.begin,
            ncols=shutil.get_terminal_size().columns - 1 if self.live else 100,
            prefix=self.what,
            unit=self.unit,
            postfix=f"{complete}/{len(self.tasks)}: {', '.join(active) or 'waiting for another process'}",
            initial=self.initial,
        )
        sys.stderr.write(f"\r{line}\x1b[K" if self.live else f"{line}\n")
        sys.stderr.flush()

    def say(self, task: Task, line: str) -> None:
        """A line that stays, about a task that has ended."""
        self.done[task.name] = task.progress()
        self.clear()
        print(f"{task.name}: {line}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
