"""Tasks as processes on the nodes of a Ray cluster.

Each process is the same command as on this machine, started on a node by an actor that holds the node's processors and
its share of a GPU. Where the node sees the study's folder (a shared file system), the run is written there. Where it
does not, the run is made in a scratch folder of the node and brought back when the process ends, in any way; what a
process needs of runs that are here already is sent to it first.

A node must have gannorm in the same version, and the images: at the same `data.root`, where a relative path counts from
the folder in which the study was started, if the node has that folder. Its environment (W&B's key, for example) is the
one in which Ray was started there.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from gannorm.errors import UserError
from gannorm.files import write_text
from gannorm.studies.tasks import CALLERS_MISTAKE, GRACE, LOST, Process, Task
from gannorm.studies.transport import bring_home, packed, parts
from gannorm.studies.worker import Worker

CONNECT = 30  # seconds in which a cluster must answer
VISIBLE = 60  # seconds after which a network file system has forgotten what it remembers of a folder


class RayCluster:
    """An engine: the nodes of a running Ray cluster.

    Args:
        gannorm: how to start `gannorm` with this machine's python; a node takes its own python.
        address: "auto" (the cluster of this machine), host:port of its head, or ray://host:port of its client server.
        cpus_per_run: processors that a process holds, and threads that it is given.
        gpus_per_run: share of a GPU that it holds; None: a quarter where the cluster has GPUs. Ray counts shares, and
            fences no memory: processes that share a GPU must fit into it together.
        jobs: processes at once; None: as many as there is room for when the tasks begin.

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
            raise UserError(f"a run takes some CPUs and no less than 0 GPUs: got {cpus_per_run:g} and {gpus_per_run}.")
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
        self._token: tuple[Path, str] | None = None

    def shares(self, tasks: int) -> tuple[int, int]:
        return max(1, min(self.jobs or self._room(), tasks)), self.threads

    def start(self, task: Task, log: Path, threads: int) -> Process:
        if self._token is None:  # a node that can read it sees the study's folder
            self._token = log.parent.resolve() / ".token", str(uuid.uuid4())
            write_text(*self._token)
        worker = self.ray.remote(Worker).options(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)
        return RemoteProcess(self.ray, worker.remote(), task, self.gannorm[1:], self._token, log, threads)

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


def _connected(address: str) -> Any:
    """The `ray` module, connected: quietly, and within a time limit."""
    # Ray's own word on a lost node is twenty lines of its log; ours is one.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError:
        raise UserError('`--engine ray` needs Ray: it is not installed; pip install -e ".[cluster]".') from None
    # First in a process that can be given up: Ray tries for minutes, and may then end the process that asked.
    ask = "import logging, ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)"
    reason = f"no answer in {CONNECT} s"
    try:
        asked = [sys.executable, "-c", ask, address]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=CONNECT, stdin=subprocess.DEVNULL)
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


class RemoteProcess:
    """A task's process on some node, as seen from here. It is asked for news; no question waits for its answer."""

    def __init__(
        self,
        ray: Any,
        worker: Any,
        task: Task,
        command: Sequence[str],
        token: tuple[Path, str],
        log: Path,
        threads: int,
    ) -> None:
        self.log, self._ray, self._worker, self._task = log, ray, worker, task
        self._command, self._threads = command, threads
        self._met = False
        self._logged, self._line = 0, ""
        self._done: int | None = None
        self._status: int | None = None
        self._home: IO[bytes] | None = None  # run directories on their way back, where the node does not see ours
        self._visible_by = 0.0
        self._ask("meet", str(token[0]), token[1], os.getcwd())

    def status(self) -> int | None:
        while self._status is None and self._ray.wait([self._answer], timeout=0)[0]:
            self._hear()
        # A finished run on a network file system may not be visible at once.
        waits = self._status == 0 and time.monotonic() < self._visible_by and not self._task.is_done()
        return None if waits else self._status

    def progress(self) -> int | None:
        return self._done

    def last_line(self) -> str:
        return self._line

    def send(self, number: int) -> None:
        if self._status is not None:
            return
        if self._question[0] == "meet":  # there is no process, and there will be none
            self._end(-number, f"stopped by {signal.Signals(number).name}")
        else:  # after "start", if that is under way: an actor does one thing after the other
            self._worker.send.remote(number)

    def close(self) -> None:
        if self._met and self._status != LOST:
            self._ray.wait([self._worker.close.remote()], timeout=GRACE)
        self._ray.kill(self._worker)
        if self._home:
            self._home.close()

    def _ask(self, method: str, *arguments: Any) -> None:
        self._question = method, arguments
        self._answer = getattr(self._worker, method).remote(*arguments)

    def _end(self, status: int, line: str) -> None:
        self._status, self._line = status, line

    def _hear(self) -> None:
        """Take the answer to the last question, and ask the next."""
        errors = self._ray.exceptions
        method, arguments = self._question
        try:
            getattr(self, f"_hear_{method}")(*self._ray.get(self._answer))
        except errors.ActorUnavailableError:  # it will answer, or be found dead; no answer changes what it does
            self._ask(method, *arguments)
        except errors.RayTaskError as error:
            self._end(1, _last_line(error))
        except errors.RayError as error:
            if getattr(error, "actor_init_failed", False):
                self._end(CALLERS_MISTAKE, f"every node must have gannorm {version('gannorm')}: {_last_line(error)}")
            else:
                self._end(LOST, _last_line(error))
        except ConnectionError as error:
            raise UserError(f"the connection to the cluster must last: {error}; the same command goes on.") from None

    def _hear_meet(self, node: str, there: str, shared: bool) -> None:
        self._met = True
        if there != version("gannorm"):
            self._end(CALLERS_MISTAKE, f"every node must have gannorm {version('gannorm')}: {node} has {there}.")
            return
        with self.log.open("a") as log:
            log.write(f"on {node}, {'in this folder' if shared else 'in a folder of its own, to be brought back'}\n")
        if not shared:
            self._home = tempfile.TemporaryFile()  # noqa: SIM115 (until the process ends)
            for start, part in parts(packed(self._task.runs)):
                self._ray.get(self._worker.receive.remote(start, part))
        self._ask("start", self._task, self._command, shared, self._threads)

    def _hear_start(self) -> None:
        self._done = 0
        self._ask("news", 0, 0)

    def _hear_news(self, printed: bytes, done: int, status: int | None, line: str, part: bytes) -> None:
        logged, brought = self._question[1]  # not what was counted: a Ctrl-C may have cut us off when we last were here
        with self.log.open("ab") as log:
            log.write(printed)
        self._logged = logged + len(printed)
        self._done = done
        if self._home:
            self._home.seek(brought)
            self._home.write(part)
        if status is None:
            self._ask("news", self._logged, self._home.tell() if self._home else 0)
            return
        if self._home:
            bring_home(self._home, self._task.runs, self.log.parent)
        self._visible_by = time.monotonic() + VISIBLE
        self._end(status, line)


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
