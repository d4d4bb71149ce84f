"""Run tasks in parallel processes: with one retry, a progress line, and no process that outlives this one.

`run_all` is the only loop. An `Engine` starts the processes: on this machine (`gannorm.studies.local`), or on the nodes
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

USAGE_ERROR = 2  # exit status of a command after a usage error
TICK = 0.2  # seconds between looks at the processes
GRACE = 10.0  # seconds between asking a process to stop and killing it


class Task(Protocol):
    """Work for one process. Its success is visible from outside the process."""

    name: str
    total: int  # units of work
    runs: Sequence[RunDir]  # that it reads or writes

    def prepare(self) -> None:
        """Prepare the folders for a start."""

    def arguments(self) -> list[str]:
        """The arguments of `gannorm`."""

    def progress(self) -> int:
        """How much of `total` is done."""

    def is_done(self) -> bool:
        """Whether there is nothing left to do."""

    def is_busy(self) -> bool:
        """Whether another program's process does it now."""

    def outcome(self) -> str:
        """One line about the result, for people."""


class Process(Protocol):
    """A started task."""

    log: Path  # everything that it prints is appended to this file

    def status(self) -> int | None:
        """The exit status; None while it runs; −n when signal n ended it."""

    def progress(self) -> int | None:
        """How much of the task is done; None while it waits for a place."""

    def last_line(self) -> str:
        """The last line that it printed, and the signal that killed it, if any."""

    def send(self, number: int) -> None:
        """Send a signal to the process and to everything that it started."""

    def close(self) -> None:
        """Kill what is left of it."""


class Engine(Protocol):
    """Where processes run."""

    def shares(self, tasks: int) -> tuple[int, int]:
        """(processes at once, threads for each) for this number of tasks."""

    def start(self, task: Task, log: Path, threads: int) -> Process:
        """Start a prepared task."""


def run_all(tasks: Sequence[Task], engine: Engine, logs: Path, what: str, unit: str) -> list[str]:
    """Run the tasks that are not done; a task that fails is retried once, after the others.

    Args:
        tasks: in order.
        engine: where.
        logs: folder for <name>.log, with everything that a task's process prints.
        what, unit: name and unit of the work, for the progress line.

    Returns:
        The names of the tasks that failed twice.

    Raises:
        UserError: a task ended with a usage error, which the other tasks would repeat; the other processes are stopped.
    """
    waiting = [task for task in tasks if not task.is_done()]
    if not waiting:
        return []
    workers, threads = engine.shares(len(waiting))
    failures: Counter[str] = Counter()
    active: dict[str, tuple[Task, Process, float]] = {}  # with its start time
    view = _View(tasks, what, unit)
    try:
        while waiting or active:
            while len(active) < workers and (task := next((t for t in waiting if not t.is_busy()), None)):
                waiting.remove(task)
                if not task.is_done():  # another program's process may have ended meanwhile
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
                if process.status() == USAGE_ERROR:
                    raise UserError(f"{task.name}: {re.sub(r'^gannorm [a-z]*: ', '', process.last_line())}")
                failures[task.name] += 1
                again = failures[task.name] < 2
                times = "will be retried" if again else "twice"
                view.say(task, f"failed, {times}: {process.last_line()} (its output is in {process.log})")
                if again:
                    waiting.append(task)
    finally:
        view.clear()
        stop([process for _, process, _ in active.values()])
    return [name for name, count in failures.items() if count == 2]


def stop(processes: Sequence[Process]) -> None:
    """Ask all processes to stop; kill those still running after GRACE seconds, or at a second Ctrl-C."""
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
    """One progress line for all tasks: refreshed on a terminal, elsewhere printed every 30 seconds."""

    def __init__(self, tasks: Sequence[Task], what: str, unit: str) -> None:
        self.tasks, self.what, self.unit = {task.name: task for task in tasks}, what, unit
        self.live = sys.stderr.isatty()
        self.interval = 0.5 if self.live else 30.0  # seconds
        # The progress of a failed attempt does not count, since it is repeated.
        self.done = {task.name: task.total if task.is_done() else 0 for task in tasks}
        self.initial = sum(self.done.values())
        self.begin = self.refreshed = time.monotonic()

    def begun(self, task: Task) -> None:
        """Count the earlier progress of a continued task as done, without time of this study."""
        self.initial += max(0, task.progress() - self.done[task.name])
        self.done[task.name] = task.progress()

    def show(self, active: Mapping[str, Callable[[], int | None]]) -> None:
        """Write work done of work planned, time left at the rate since the start, and the active tasks."""
        if time.monotonic() - self.refreshed < self.interval:
            return
        self.refreshed = time.monotonic()
        running = {name: done for name, progress in active.items() if (done := progress()) is not None}
        self.done |= running
        queued = [f"{len(active) - len(running)} queued"] if len(active) > len(running) else []
        complete = sum(self.done[name] >= task.total for name, task in self.tasks.items())
        line = tqdm.format_meter(
            n=sum(self.done.values()),
            total=sum(task.total for task in self.tasks.values()),
            elapsed=self.refreshed - self.begin,
            ncols=shutil.get_terminal_size().columns - 1 if self.live else 100,
            prefix=self.what,
            unit=self.unit,
            postfix=f"{complete}/{len(self.tasks)}: {', '.join([*running, *queued]) or 'waiting for another process'}",
            initial=self.initial,
        )
        sys.stderr.write(f"\r{line}\x1b[K" if self.live else f"{line}\n")
        sys.stderr.flush()

    def say(self, task: Task, line: str) -> None:
        """Print a permanent line about a task that has ended."""
        self.done[task.name] = task.progress()
        self.clear()
        print(f"{task.name}: {line}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
