"""The run directory: the one place that knows its files, formats, versions, lock and atomic writes.

    runs/<study>/<run>/
      config.yaml        resolved and complete: training from it repeats the run
      metrics.jsonl      {"step": …, name: value, …}, one line a record
      checkpoints/       step_00002000.ckpt, last.ckpt
      samples/  probes/  step_00002000.png; step_00002000.npz (arrays behind the figures)
      scores.json        every score with its protocol
      status.json        state, last step, reason
      wandb/             the files of Weights & Biases, and the id of the run there

`step` is the number of generator updates, everywhere. Every file except metrics.jsonl (append-only, one flushed line a
record) is written to a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gannorm.errors import UserError
from gannorm.files import atomic_write, damaged, dump_yaml, parse_yaml, read, write_json, write_text, writing
from gannorm.files import lock as lock_file
from gannorm.registry import nearest

# Of the directory's layout and of every file in it. status.json, scores.json and the checkpoints say theirs; the first
# speaks for config.yaml, metrics.jsonl, samples and probes too.
VERSION = 1
PLAN = "plan"  # a study's folder of saved configs, among its runs
STATES = ("running", "finished", "diverged", "failed")
FOLDERS = ("checkpoints", "samples", "probes")


class RunDir:
    """One run's directory. Opening it reads nothing; each reader below reads its file again.

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
        with writing(run.path):
            for folder in FOLDERS:
                (run.path / folder).mkdir(parents=True, exist_ok=True)
        with run.lock():
            run.require_new()  # another process may have made and finished it meanwhile
            write_text(run.config_file, dump_yaml(config))
            run.set_status("running", 0)
            yield run

    def require_new(self) -> None:
        """Raises UserError if the run exists already: its name is taken."""
        if self.config_file.exists():
            state, step = self.state(), max(self.status()["step"], self.last_step())
            remedy = "choose another with --name or --study, or remove the directory"
            if state in ("interrupted", "failed"):
                remedy = f"continue it by --resume {self.path}, {remedy}"
            raise UserError(f"a run's name must be new: {self.path} is {state} at step {step}; {remedy}.")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """An existing run directory. Raises UserError if `path` is not one."""
        run = cls(path)
        if not run.config_file.is_file():
            raise _no_run(run.path)
        return run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing. Raises UserError when another process holds it; the system frees a dead one's."""
        with self._open_lock(".lock") as file:
            for patience in (0.1, 0.1, 0.0):  # `state` may be asking this moment who holds the run
                try:
                    lock_file(file, wait=False)
                    break
                except OSError:
                    time.sleep(patience)
            else:
                raise UserError(
                    f"one process writes a run: another is writing {self.path}; wait for it or choose another --name."
                )
            yield

    def _open_lock(self, name: str) -> IO[str]:
        with writing(self.path):
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
        config = read(self.config_file, parse_yaml)
        if not isinstance(config, dict):
            raise UserError(f"a config must be a mapping of keys: {self.config_file} holds {type(config).__name__}.")
        return config

    def set_status(self, state: str, step: int, reason: str = "") -> None:
        assert state in STATES, state
        content = {"version": VERSION, "state": state, "step": step, "reason": reason, "time": time.time()}
        write_json(self.path / "status.json", content)

    def status(self) -> dict[str, Any]:
        """{"state": one of STATES, "step": last step, "reason": why it ended}."""
        file = self.path / "status.json"
        if not file.exists():
            return {"state": "running", "step": 0, "reason": "", "time": 0.0}
        status = _read_json(file)
        if status.get("state") not in STATES:
            raise damaged(file, f"its state must be one of {', '.join(STATES)}, not {status.get('state')!r}")
        if not isinstance(status.get("reason", ""), str):
            raise damaged(file, f"its reason must be text, not {status['reason']!r}")
        _check_step(status, file)
        return {"reason": ""} | status

    def state(self) -> str:
        """One of STATES, or "interrupted" where the status says running and no process holds the run.

        Where the lock cannot be asked for, as in a folder of another user, it is what the status says.
        """
        state: str = self.status()["state"]
        if state != "running" or self._is_held():
            return state
        state = self.status()["state"]  # it may have ended between the two looks
        return "interrupted" if state == "running" else state

    def _is_held(self) -> bool:
        # Asked of a run that has a config, which is written under the lock: no new run finds it taken by us.
        try:
            with (self.path / ".lock").open() as file:
                lock_file(file, shared=True, wait=False)
        except FileNotFoundError:
            return False
        except (OSError, UserError):
            return True
        return False

    def last_step(self) -> int:
        """Of the last complete record in metrics.jsonl, from its end: this is asked several times a second.

        0 without one. A status says no more than where a running run has begun.
        """
        try:
            with (self.path / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                return int(json.loads(file.read().split(b"\n")[-2])["step"])
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return 0

    def has_wandb_id(self) -> bool:
        """Whether a W&B run was begun for this directory."""
        return (self.path / "wandb" / "id").exists()

    def wandb_id(self, wanted: str = "") -> str:
        """The id of the run's W&B run, chosen at the first call: `wanted`, or drawn. Later calls have the same one."""
        file = self.path / "wandb" / "id"
        if not file.exists():
            with writing(file):
                file.parent.mkdir(exist_ok=True)
            write_text(file, wanted or secrets.token_hex(4))
        return file.read_text()

    # -- metrics ------------------------------------------------------------------------------------------------------

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one record; it survives a killed process. NaN and infinities are written as null (strict JSON)."""
        record = {"step": step} | {k: v if math.isfinite(v) else None for k, v in values.items()}
        file_name = self.path / "metrics.jsonl"
        with writing(file_name), file_name.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All records in the order written. A cut last line (a run killed while writing) is left out."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        lines = read(file, str).split("\n")
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line or "{}")
            except (ValueError, RecursionError):
                if number == len(lines):
                    break
                record = None
            if not isinstance(record, dict):
                raise UserError(f"each line of {file} must be a JSON object: line {number} is not; remove that line.")
            if line:
                _check_step(record, file)
                records.append(record)
        return records

    def sync_metrics(self) -> int:
        """The size of metrics.jsonl in bytes, which a power cut will not make smaller."""
        file = self.path / "metrics.jsonl"
        with writing(file), file.open("a") as stream:
            os.fsync(stream.fileno())
            return stream.tell()

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

    def set_last(self, step: int) -> None:
        """Make last.ckpt the checkpoint of `step`: the same bytes under a second name."""
        file, last = self.checkpoint_file(step), self.checkpoint_file(None)
        link = last.with_name(f".{last.name}.new")
        with writing(last):
            link.unlink(missing_ok=True)
            try:
                os.link(file, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, link)
            os.replace(link, last)

    def rewind(self, step: int, metrics: int) -> None:
        """Make the directory what it was at a checkpoint, for a run that continues from there.

        What was appended to metrics.jsonl later is cut off, and what a killed writer left behind is removed. A later
        checkpoint, which is still here because it is damaged, is renamed to *.damaged. Later samples and probes stay
        until they are written again.

        Args:
            step: of the checkpoint; −1 for before the beginning.
            metrics: size of metrics.jsonl then, in bytes.

        Raises:
            UserError: metrics.jsonl has been changed since.
        """
        file = self.path / "metrics.jsonl"
        kept = file.read_bytes()[:metrics] if metrics and file.exists() else b""
        if len(kept) != metrics or kept[-1:] not in (b"", b"\n"):
            raise UserError(
                f"a run continues with its own records: {file} has been changed since step {step}; put it back."
            )
        with atomic_write(file) as stream:
            stream.write(kept)
        with writing(self.path):
            for number, file in self.checkpoints().items():
                if number > step:
                    file.replace(file.with_suffix(".damaged"))
            for folder in FOLDERS:
                for pattern in (".step_*", ".last.ckpt.*"):  # of atomic_write and set_last; the user's own stay
                    for left in (self.path / folder).glob(pattern):
                        left.unlink()

    # -- scores -------------------------------------------------------------------------------------------------------

    def scores(self) -> list[dict[str, Any]]:
        """Score records in order of step: {"step", "fid", "inception_score", …, "protocol": {…}}."""
        file = self.path / "scores.json"
        if not file.exists():
            return []
        records = _read_json(file).get("scores")
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise damaged(file, "its scores must be a list of records")
        for record in records:
            _check_step(record, file)
            if not isinstance(record.get("protocol"), dict):
                raise damaged(file, f"a protocol must be a mapping, not {record.get('protocol')!r}")
        return records

    def add_scores(self, record: Mapping[str, Any]) -> None:
        """Add a score record; one of the same step and protocol is replaced."""
        with self._open_lock(".scores.lock") as lock:  # several evaluations may share a run
            lock_file(lock)
            kept = [s for s in self.scores() if (s["step"], s["protocol"]) != (record["step"], record["protocol"])]
            ordered = sorted([*kept, dict(record)], key=lambda s: s["step"])
            write_json(self.path / "scores.json", {"version": VERSION, "scores": ordered})


def find_runs(paths: list[str]) -> list[RunDir]:
    """The run directories among `paths` and one level below them (a study folder), there sorted by name."""
    runs: dict[Path, RunDir] = {}
    for path in map(Path, paths):
        if path.name == PLAN and len(paths) > 1:
            continue  # a shell's `study/*` names it beside the runs
        inside = sorted(p.parent for p in path.glob("*/config.yaml"))
        candidates = [path] if (path / "config.yaml").is_file() else inside
        if not candidates:
            raise _no_run(path)
        for candidate in candidates:
            runs.setdefault(candidate.resolve(), RunDir(candidate))
    return list(runs.values())


def _no_run(path: Path) -> UserError:
    """What to say of a path that is no run directory."""
    if not path.exists():
        what = f"does not exist; {_another(path)}"
    elif path.suffix == ".ckpt":
        what = f"is a checkpoint; give its run, {path.parent.parent}, and --step."
    elif inside := sorted(config.parent.name for config in path.glob("*/config.yaml")):
        what = f"holds {len(inside)} of them; give one, such as {path / inside[0]}."
    elif deeper := sorted(config.parent for config in path.glob("*/*/config.yaml")):
        what = f"does not, but runs further down do; give one, such as {deeper[0]}, or their folder."
    else:
        what = f"does not; {_another(path)}"
    return UserError(f"a run directory must hold config.yaml: {path} {what}")


def _another(path: Path) -> str:
    """The run, or study, that a path that is not there may have meant."""
    studies = Path("runs")
    if (studies / path).exists() and not path.is_absolute():
        return f"did you mean {studies / path}?"
    for pattern, folder in (("*/config.yaml", path.parent), ("*/*/config.yaml", studies)):
        there = {config.parent.name: config.parent for config in folder.glob(pattern)}
        if there:
            near = nearest(path.name, sorted(there))
            return f"did you mean {there[near[0]]}?" if near else f"give a run, such as {min(there.values())}."
    return "`gannorm train` makes a run, such as runs/digits/batch_0."


def _read_json(file: Path) -> dict[str, Any]:
    content = read(file, json.loads)
    if not isinstance(content, dict):
        raise damaged(file, f"it holds {type(content).__name__}")
    check_version(content, file)
    return content


def _check_step(record: Mapping[str, Any], file: Path) -> None:
    if not isinstance(record.get("step"), int):
        raise damaged(file, f"a step must be an integer, not {record.get('step')!r}")


def check_version(content: Mapping[str, Any], file: Path) -> None:
    """Raises UserError if a file was written by a newer program, whose format this one does not know."""
    if content.get("version", VERSION) != VERSION:
        raise UserError(
            f"a file's format must be of version {VERSION}: {file} is of version {content['version']}; read it with "
            "the gannorm that wrote it, or a newer one."
        )


def _by_step(folder: Path, suffix: str) -> dict[int, Path]:
    matches = ((re.fullmatch(r"step_(\d{8,})", p.stem), p) for p in folder.glob(f"step_*{suffix}"))
    return dict(sorted((int(m[1]), p) for m, p in matches if m))
