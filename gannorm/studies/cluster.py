"""Tasks as processes on the nodes of a Ray cluster, whose nodes share the study's folder.

Each process is the same command as on this machine, started on a node by a Ray task that holds the node's processors
and its share of a GPU. Ray retries a task whose node dies; the retry continues the run from its last checkpoint, since
everything that a run has done is in the shared folder.

A node must have gannorm in the same version, and see the folder in which the study was started under the same path. Its
environment (W&B's key, for example) is the one in which Ray was started there.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gannorm.errors import UserError
from gannorm.studies.local import Child, last_line
from gannorm.studies.runner import GRACE, TICK, USAGE_ERROR, Process, Task

CONNECT = 30  # seconds within which a cluster must answer
VISIBLE = 60  # seconds after which a network file system's cache of a folder has expired
RETRIES = 3  # retries after the loss of a node


class RayCluster:
    """An engine: the nodes of a running Ray cluster.

    Args:
        gannorm: how to start `gannorm` with this machine's python; a node takes its own python.
        address: "auto" (the cluster of this machine), host:port of its head, or ray://host:port of its client server.
        cpus_per_run: processors reserved for a process, and its number of threads.
        gpus_per_run: share of a GPU reserved for it; None: a quarter where the cluster has GPUs. Ray counts shares but
            does not limit memory: the processes on a GPU must fit into it together.
        jobs: processes at once; None: as many as the nodes have room for when the tasks begin.

    Raises:
        UserError: Ray is not installed, no cluster answers, or no node has room for a process.
    """

    def __init__(
        self,
        gannorm: Sequence[str],
        address: str,
        *,
        cpus_per_run: float = 1.0,
        gpus_per_run: float | None = None,
        jobs: int | None = None,
    ) -> None:
        if cpus_per_run <= 0 or (gpus_per_run is not None and gpus_per_run < 0):
            raise UserError(
                f"a run takes more than 0 CPUs and at least 0 GPUs: got {cpus_per_run:g} and {gpus_per_run}."
            )
        if any(share is not None and share > 1 and share % 1 for share in (cpus_per_run, gpus_per_run)):
            raise UserError(f"a share above 1 must be a whole number: got {cpus_per_run:g} CPUs, {gpus_per_run} GPUs.")
        self.gannorm, self.jobs = gannorm, jobs
        self.ray = _connected(address)
        nodes = self._nodes()
        self.cpus = cpus_per_run
        self.gpus = 0.25 * any(node.get("GPU") for node in nodes) if gpus_per_run is None else gpus_per_run
        self.threads = max(1, int(cpus_per_run))
        if not self._room():
            wanted = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
            there = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
            raise UserError(
                f"a node must have room for a run, which takes {wanted}: the nodes of {address} have {there}; take "
                "less by --cpus_per_run and --gpus_per_run."
            )

    def shares(self, tasks: int) -> tuple[int, int]:
        return max(1, min(self.jobs or self._room(), tasks)), self.threads

    def start(self, task: Task, log: Path, threads: int) -> Process:
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES, "retry_exceptions": False}
        remote = self.ray.remote(run_on_node).options(**options)
        log.touch()  # a node that does not see this file does not share the folder
        begin = log.stat().st_size
        answer = remote.remote(task, self.gannorm[1:], log, threads, _here())
        return RemoteProcess(self.ray, answer, task, log, begin)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Processes that the nodes hold at once. One that shares a GPU is on one GPU."""
        fit = 0
        for node in self._nodes():
            by_cpu = int(node.get("CPU", 0) / self.cpus)
            gpus = int(node.get("GPU", 0))
            by_gpu = by_cpu if not self.gpus else gpus * int(1 / self.gpus) if self.gpus <= 1 else int(gpus / self.gpus)
            fit += min(by_cpu, by_gpu)
        return fit


def _here() -> tuple[str, str]:
    """The working folder and the version of gannorm, which every node must share."""
    return os.getcwd(), version("gannorm")


def _connected(address: str) -> Any:
    """The `ray` module, connected: quietly, and within a time limit."""
    # Silence Ray's log: a lost node costs twenty lines there, and we report it in one.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError:
        raise UserError('`--engine ray` needs Ray: it is not installed; pip install -e ".[cluster]".') from None
    # Try first in a child process with a time limit: Ray tries for minutes and may then end its process.
    connect = "import logging, ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)"
    reason = f"no answer in {CONNECT} s"
    try:
        command = [sys.executable, "-c", connect, address]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT, stdin=subprocess.DEVNULL)
        reason = (answer.stderr.strip() or f"exit status {answer.returncode}").splitlines()[-1].rstrip(".")
        answered = answer.returncode == 0
    except subprocess.TimeoutExpired:
        answered = False
    if not answered:
        raise UserError(
            f"a Ray cluster must answer at {address}: {reason}; start one by `ray start --head`, or give its --address."
        )
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    return ray


def run_on_node(task: Task, command: Sequence[str], log: Path, threads: int, here: tuple[str, str]) -> tuple[int, str]:
    """Run a task in a process of this node and wait for it. Ray calls this on a node, and again after a node's loss.

    Args:
        task: prepared; on a retry it continues from what its folder holds.
        command: how to start `gannorm`, without the python, for which the node's own is used.
        log: file in the shared folder to which its output is appended.
        threads: number of threads that it may use.
        here: the study's working folder and the version of gannorm there.

    Returns:
        (exit status, last line that it printed).
    """
    folder, wanted = here
    node = platform.node()
    if version("gannorm") != wanted:
        return USAGE_ERROR, f"every node must have gannorm {wanted}: {node} has {version('gannorm')}."
    deadline = time.monotonic() + VISIBLE
    while not (Path(folder) / log).exists():
        if time.monotonic() > deadline or not Path(folder).is_dir():
            return USAGE_ERROR, f"every node must share the study's folder: {node} does not see {folder}/{log}."
        time.sleep(TICK)
    os.chdir(folder)
    while task.is_busy() and time.monotonic() < deadline:  # a dying node's process may still hold it
        time.sleep(TICK)
    task.prepare()
    with log.open("a") as file:
        file.write(f"on {node}, process {os.getpid()}\n")
    child = Child([sys.executable, *command, *task.arguments()], log, task.progress, threads)
    try:
        while (status := child.status()) is None:
            time.sleep(TICK)
    except KeyboardInterrupt:  # what `ray.cancel` raises here
        child.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while child.status() is None and time.monotonic() < deadline:
            time.sleep(TICK)
        raise
    finally:
        child.close()
    return status, child.last_line()


class RemoteProcess:
    """A task's process on some node, seen through the shared folder, and through Ray's report of its end."""

    def __init__(self, ray: Any, answer: Any, task: Task, log: Path, begin: int) -> None:
        self.log, self._ray, self._answer, self._task, self._begin = log, ray, answer, task, begin
        self._status: int | None = None
        self._line = ""
        self._visible_by = 0.0

    def status(self) -> int | None:
        if self._status is None and self._ray.wait([self._answer], timeout=0)[0]:
            errors = self._ray.exceptions
            try:
                self._status, self._line = self._ray.get(self._answer)
            except (errors.TaskCancelledError, KeyboardInterrupt):
                self._status, self._line = -signal.SIGTERM, "stopped"
            except errors.RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                self._status, self._line = 1, lines[-1] if lines else type(error).__name__
            except ConnectionError as error:
                raise UserError(
                    f"the connection to the cluster was lost: {error}; run the command again to continue."
                ) from None
            self._visible_by = time.monotonic() + VISIBLE
        # A finished run on a network file system may not be visible at once.
        waits = self._status == 0 and time.monotonic() < self._visible_by and not self._task.is_done()
        return None if waits else self._status

    def progress(self) -> int | None:
        started = self.log.stat().st_size > self._begin
        return self._task.progress() if started else None

    def last_line(self) -> str:
        return self._line or last_line(self.log, self._begin)

    def send(self, number: int) -> None:
        if self._status is None:
            self._ray.cancel(self._answer, force=False)

    def close(self) -> None:
        if self._status is None:
            self._ray.cancel(self._answer, force=True)  # the kernel kills the process with its worker
