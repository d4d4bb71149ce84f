"""The run directory: the one place that knows its files, formats, versions, lock and atomic writes.

    runs/<study>/<run>/
      config.yaml        resolved and complete: training from it repeats the run
      metrics.jsonl      {"step": …, name: value, …}, one line a record
      checkpoints/       step_00002000.ckpt, last.ckpt
      samples/  probes/  step_00002000.png; step_00002000.npz (arrays behind the figures)
      scores.json        every score with its protocol
      status.json        state, last step, reason

`step` is the number of generator updates, everywhere. Every file except metrics.jsonl (append-only, one flushed line a
record) is written to a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from gannorm.errors import UserError

VERSION = 1  # of the directory's layout and of every file in it
PLAN = "plan"  # a study's folder of saved configs, among its runs
STATES = ("running", "finished", "diverged", "failed")


class RunDir:
    """One run's directory. Opening it reads nothing; each reader below reads its file anew.

    Readers are lenient where a run may still be writing (a cut last line of metrics.jsonl) and strict elsewhere: a
    damaged file is a UserError that names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    # -- making and finding -------------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> Iterator[RunDir]:
        """Make a new run directory with its config, and hold its lock.

        Raises:
            UserError: the run exists, another process is making it, or the folder cannot be written.
        """
        run = cls(path)
        run.require_new()
        with _writing(run.path):
            for folder in ("checkpoints", "samples", "probes"):
                (run.path / folder).mkdir(parents=True, exist_ok=True)
        with run.lock():
            run.require_new()  # another process may have made and finished it meanwhile
            write_text(run.config_file, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
            run.set_status("running", 0)
            yield run

    def require_new(self) -> None:
        """Raises UserError if the run exists already: its name is taken."""
        if self.config_file.exists():
            status = self.status()
            raise UserError(
                f"a run's name must be new: {self.path} is {status['state']} at step {status['step']}; choose another "
                "with --name or --study, or remove the directory."
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """An existing run directory. Raises UserError if `path` is not one."""
        run = cls(path)
        if not run.config_file.is_file():
            raise UserError(f"a run directory must hold config.yaml: {run.path} does not; give a folder below runs/.")
        return run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing. Raises UserError when another process holds it; the system frees a dead one's."""
        with self._open_lock(".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"one process writes a run: another is writing {self.path}; wait for it or choose another --name."
                ) from None
            yield

    def _open_lock(self, name: str) -> IO[str]:
        with _writing(self.path):
            return (self.path / name).open("w")

    # -- config and status --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config = _read(self.config_file, yaml.safe_load)
        if not isinstance(config, dict):
            raise UserError(f"a config must be a mapping of keys: {self.config_file} holds {type(config).__name__}.")
        return config

    def set_status(self, state: str, step: int, reason: str = "") -> None:
        assert state in STATES, state
        write_json(self.path / "status.json", {"state": state, "step": step, "reason": reason, "time": time.time()})

    def status(self) -> dict[str, Any]:
        """{"state": one of STATES, "step": last step, "reason": why it ended}."""
        file = self.path / "status.json"
        return _read(file, json.loads) if file.exists() else {"state": "running", "step": 0, "reason": "", "time": 0.0}

    # -- metrics ------------------------------------------------------------------------------------------------------

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one record; it survives a killed process. NaN and infinities are written as null (strict JSON)."""
        record = {"step": step} | {k: v if math.isfinite(v) else None for k, v in values.items()}
        file_name = self.path / "metrics.jsonl"
        with _writing(file_name), file_name.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All records in the order written. A cut last line (a run killed while writing) is left out."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        lines = file.read_text().split("\n")
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                if line:
                    records.append(json.loads(line))
            except json.JSONDecodeError:
                if number < len(lines):
                    raise UserError(
                        f"each line of {file} must be JSON: line {number} is not; remove that line."
                    ) from None
        return records

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one metric, where it was recorded as a number."""
        pairs = [(r["step"], r[name]) for r in self.metrics() if r.get(name) is not None]
        return [p[0] for p in pairs], [p[1] for p in pairs]

    # -- files by step ------------------------------------------------------------------------------------------------

    def checkpoint_file(self, step: int | None) -> Path:
        """Where the checkpoint of `step` goes; None for last.ckpt."""
        return self.path / "checkpoints" / ("last.ckpt" if step is None else f"step_{step:08d}.ckpt")

    def sample_file(self, step: int) -> Path:
        return self.path / "samples" / f"step_{step:08d}.png"

    def probe_file(self, step: int) -> Path:
        return self.path / "probes" / f"step_{step:08d}.npz"

    def checkpoints(self) -> dict[int, Path]:
        """step → file, in order of step; last.ckpt is not among them."""
        return _by_step(self.path / "checkpoints", ".ckpt")

    def samples(self) -> dict[int, Path]:
        return _by_step(self.path / "samples", ".png")

    def probes(self) -> dict[int, Path]:
        return _by_step(self.path / "probes", ".npz")

    # -- scores -------------------------------------------------------------------------------------------------------

    def scores(self) -> list[dict[str, Any]]:
        """Score records in order of step: {"step", "fid", "inception_score", …, "protocol": {…}}."""
        file = self.path / "scores.json"
        return _read(file, json.loads)["scores"] if file.exists() else []

    def add_scores(self, record: Mapping[str, Any]) -> None:
        """Add a score record; one of the same step and protocol is replaced."""
        with self._open_lock(".scores.lock") as lock:  # several evaluations may share a run
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = [s for s in self.scores() if (s["step"], s["protocol"]) != (record["step"], record["protocol"])]
            ordered = sorted([*kept, dict(record)], key=lambda s: s["step"])
            write_json(self.path / "scores.json", {"version": VERSION, "scores": ordered})


def find_runs(paths: list[str]) -> list[RunDir]:
    """The run directories among `paths` and one level below them (a study folder), sorted by name."""
    found: dict[Path, RunDir] = {}
    for path in map(Path, paths):
        if path.name == PLAN and len(paths) > 1:
            continue  # a shell's `study/*` names it beside the runs
        inside = sorted(p.parent for p in path.glob("*/config.yaml"))
        candidates = [path] if (path / "config.yaml").is_file() else inside
        if not candidates:
            raise UserError(f"a run directory must hold config.yaml: found none in {path}; give a folder below runs/.")
        for candidate in candidates:
            found.setdefault(candidate.resolve(), RunDir(candidate))
    return list(found.values())


# -- atomic writes ----------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(file: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name complete and on disk, or not at all.

    Raises:
        UserError: the folder is missing or read-only, or the disk is full; what was there before is still there.
    """
    with _writing(file):
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
            os.replace(temporary, file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the output must be writable: {path}: {error.strerror}; make room or choose another folder."
        ) from error


def write_text(file: Path, text: str) -> None:
    with atomic_write(file) as stream:
        stream.write(text.encode())


def write_json(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _read(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read_text())
    except OSError as error:
        raise UserError(f"{file} must be readable: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        line = str(error).replace("\n", " ")
        raise UserError(f"{file} must be well-formed: {line}; restore it or leave this run out.") from None


def _by_step(folder: Path, suffix: str) -> dict[int, Path]:
    matches = ((re.fullmatch(r"step_(\d{8,})", p.stem), p) for p in folder.glob(f"step_*{suffix}"))
    return dict(sorted((int(m[1]), p) for m, p in matches if m))
