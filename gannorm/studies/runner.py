"""Do tasks in processes, some at once: retried once, shown in one line, and none of the processes outlives us.

`run_all` is the one loop. An `Engine` says where the processes are: here (`gannorm.studies.local`), or on the nodes
of a Ray cluster (`gannorm.studies.cluster`).
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from gannorm.errors import UserError
from gannorm.rundir import RunDir

CALLERS_MISTAKE = 2  # exit status of a command that was given something that cannot work
TICK = 0.2  # seconds between looks at the processes
GRACE = 10.0  # seconds between asking a process to stop and killing it


class Task(Protocol):
    """Something that one process does, and whose success can be seen without asking the process."""

    name: str
    total: int  # units of work
    runs: Sequence[RunDir]  # that it reads or writes

    def prepare(self) -> None:
        """Make the folders ready for a start."""

    def arguments(self) -> list[str]:
        """What `gannorm` is to do."""

    def progress(self) -> int:
        """How much of `total` is done."""

    def is_done(self) -> bool:
        """Whether there is nothing left to do."""

    def is_busy(self) -> bool:
        """Whether a process that is not ours is doing it."""

    def outcome(self) -> str:
        """What a person wants to know once it is done."""


class Process(Protocol):
    """A started task."""

    log: Path  # everything that it prints is appended to this file

    def status(self) -> int | None:
        """The exit status; None while it runs; −n when signal n ended it."""

    def progress(self) -> int | None:
        """How much of the task is done; None while it waits for a place."""

    def last_line(self) -> str:
        """The last line that it printed, and what killed it, if something did."""

    def send(self, number: int) -> None:
        """Send a signal to the process and to everything that it started."""

    def close(self) -> None:
        """Kill what is left of it."""


class Engine(Protocol):
    """Where processes run."""

    def shares(self, tasks: int) -> tuple[int, int]:
        """(processes at once, threads for each) where so many tasks are to be done."""

    def start(self, task: Task, log: Path, threads: int) -> Process:
        """Start a task, which is prepared."""


def run_all(tasks: Sequence[Task], engine: Engine, logs: Path, what: str, unit: str) -> list[str]:
    """Do the tasks that are not done; one that fails is tried once more, after the others.

    Args:
        tasks: in order.
        engine: where.
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
    workers, threads = engine.shares(len(waiting))
    failures: Counter[str] = Counter()
    active: dict[str, tuple[Task, Process, float]] = {}  # since when
    view = _View(tasks, what, unit)
    try:
        while waiting or active:
            while len(active) < workers and (task := next((t for t in waiting if not t.is_busy()), None)):
                waiting.remove(task)
                if not task.is_done():  # a process that is not ours may have ended since we looked
                    task.prepare()
                    process = engine.start(task, logs / f"{task.name}.log", threads)
                    active[task.name] = task, process, time.monotonic()
                    view.begun(task)
            view.show({name: process.progress for name, (_, process, _) in active.items()})
            time.sleep(TICK)
            for task, process, since in [started for started in active.values() if started[1].status() is not None]:
                process.close()
                del active[task.name]
                if task.is_done():
                    view.say(task, f"{task.outcome()} ({time.monotonic() - since:.0f} s)")
                    continue
                if process.status() == CALLERS_MISTAKE:
                    raise UserError(f"{task.name}: {re.sub(r'^gannorm [a-z]*: ', '', process.last_line())}")
                failures[task.name] += 1
                again = failures[task.name] < 2
                then = "to be tried again" if again else "twice"
                view.say(task, f"failed, {then}: {process.last_line()} (all it printed is in {process.log})")
                if again:
                    waiting.append(task)
    finally:
        view.clear()
        stop([process for _, process, _ in active.values()])
    return [name for name, count in failures.items() if count == 2]


def stop(processes: Sequence[Process]) -> None:
    """Ask all to stop; kill what has not after GRACE seconds, or at a second Ctrl-C."""
    try:
        for process in processes:
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(process.status() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        for process in processes:
            process.close()


class _View:
    """One line for all tasks: refreshed on a terminal, printed now and then elsewhere."""

    def __init__(self, tasks: Sequence[Task], what: str, unit: str) -> None:
        self.tasks, self.what, self.unit = {task.name: task for task in tasks}, what, unit
        self.live = sys.stderr.isatty()
        self.patience = 0.5 if self.live else 30.0
        # What a failed attempt got done is done again: it counts for nothing.
        self.done = {task.name: task.total if task.is_done() else 0 for task in tasks}
        self.initial = sum(self.done.values())
        self.begin = self.shown = time.monotonic()

    def begun(self, task: Task) -> None:
        """What a task that goes on has done before is done, and took none of our time."""
        self.initial += max(0, task.progress() - self.done[task.name])
        self.done[task.name] = task.progress()

    def show(self, active: Mapping[str, Callable[[], int | None]]) -> None:
        """Work done of work planned, time left at the rate since the start, and what is active."""
        if time.monotonic() - self.shown < self.patience:
            return
        self.shown = time.monotonic()
        running = {name: done for name, progress in active.items() if (done := progress()) is not None}
        self.done |= running
        queued = [f"{len(active) - len(running)} queued"] if len(active) > len(running) else []
        complete = sum(self.done[name] >= task.total for name, task in self.tasks.items())
        line = tqdm.format_meter(
            n=sum(self.done.values()),
            total=sum(task.total for task in self.tasks.values()),
            elapsed=self.shown - self.begin,
            ncols=shutil.get_terminal_size().columns - 1 if self.live else 100,
            prefix=self.what,
            unit=self.unit,
            postfix=f"{complete}/{len(self.tasks)}: {', '.join([*running, *queued]) or 'waiting for another process'}",
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
