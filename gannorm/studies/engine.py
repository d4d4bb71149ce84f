"""Execute a study on this machine: train what is missing, retry what failed, evaluate, compare.

Every run is a plain command on a saved config, in its own process: a crash or an out-of-memory kill costs one run. What
has been done is read from the run directories and from nothing else, so the same command goes on where it stopped after
an interruption of any kind (Ctrl-C, kill -9, a reboot).

    runs/<study>/<run>/                  run directories
    runs/<study>/plan/<run>.yaml         the saved configs: `gannorm train --config` makes one run of the study
    runs/<study>/plan/<run>.log          everything that the run's processes printed
    runs/<study>/plan/attempts/<run>_1/  what an attempt that failed or was killed has left
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from gannorm.errors import UserError
from gannorm.rundir import PLAN, RunDir, write_text
from gannorm.studies.configs import flatten
from gannorm.studies.grid import EVALUATE_OPTIONS, PlannedRun, Study
from gannorm.studies.processes import run_all, shares, terminable

ENDED = ("finished", "diverged")


def execute(study: Study, command: Sequence[str], jobs: int | None, report: Path) -> int:
    """Bring a study to its end: all runs trained, scored and compared.

    Args:
        study: the plan.
        command: how to start `gannorm`.
        jobs: processes at once; None for what the cores can do.
        report: folder for the comparison.

    Returns:
        0; 1 when a run or an evaluation failed twice, and the comparison is made from the rest.

    Raises:
        UserError: a run ended with a caller's mistake, which the other runs would repeat; another process executes this
            study; no run has finished.
    """
    with _alone(study), terminable():
        try:
            logs = _save_configs(study)
            failed = run_all([Training(run, command) for run in study.runs], jobs, logs, "training", "step")
            failed += run_all(_scoring(study, jobs, command), jobs, logs, "evaluation", "checkpoint")
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here.", file=sys.stderr)
            raise

    from gannorm.studies.compare import compare  # seconds of imports

    there = [run.directory for run in study.runs if run.directory.config_file.exists()]
    print(compare(there, report, baseline=study.baseline).to_text())
    print(report / "index.html")
    if failed:
        print(f"failed twice, and not compared: {', '.join(failed)}; the same command tries again.", file=sys.stderr)
    return 1 if failed else 0


def describe(study: Study, jobs: int | None, *, table: bool = True) -> str:
    """The plan: the question, a table of the runs and their states, and an estimate of the time that is left."""
    states = [state(run.directory) for run in study.runs]
    lines = [study.question, ""] if study.question else []
    if table:
        lines += [*_table(study, states), ""]
    counts = ", ".join(f"{count} {name}" for name, count in Counter(states).items())
    lines.append(f"{len(states)} run{'s' * (len(states) > 1)}: {counts}. {_estimate(study, states, jobs)}")
    return "\n".join(lines)


def state(run: RunDir) -> str:
    """What a run's directory says of it, read anew.

    Returns:
        "to do", "running", "finished", "diverged", "failed", "interrupted" (it says running, but no process has it) or
        "damaged".
    """
    if not run.config_file.exists():
        return "to do"
    try:
        said = run.status().get("state", "damaged")
    except UserError:
        return "damaged"
    return "interrupted" if said == "running" and not _is_locked(run) else said


# -- training ---------------------------------------------------------------------------------------------------------


class Training:
    """A task: one run of the study. Its directory says that it ended, or it is made anew."""

    def __init__(self, run: PlannedRun, gannorm: Sequence[str]) -> None:
        self.run, self.gannorm = run, gannorm
        self.name, self.total = run.name, int(run.config["steps"])

    def command(self) -> list[str]:
        if self.run.directory.config_file.exists():
            self._set_aside()
        return [*self.gannorm, "train", "--config", str(self.run.config_file)]

    def progress(self) -> int:
        return self.total if self.is_done() else min(self.total - 1, _last_step(self.run.directory))

    def is_done(self) -> bool:
        return state(self.run.directory) in ENDED

    def is_busy(self) -> bool:
        return state(self.run.directory) == "running"

    def outcome(self) -> str:
        status = self.run.directory.status()
        return f"{status['state']} at step {status['step']} {status['reason']}".rstrip()

    def _set_aside(self) -> None:
        """Nothing that a run wrote is lost, and its name is free again."""
        attempts = self.run.config_file.parent / "attempts"
        attempts.mkdir(exist_ok=True)
        numbered = (attempts / f"{self.name}_{n}" for n in itertools.count(1))
        self.run.directory.path.rename(next(path for path in numbered if not path.exists()))


def _save_configs(study: Study) -> Path:
    """Write the plan; configs that are there already are not touched, so that their times say when they were made."""
    folder = study.folder / PLAN
    for run in study.runs:
        text = run.config_text()
        if not run.config_file.exists() or run.config_file.read_text() != text:
            write_text(run.config_file, text)
    return folder


def _last_step(run: RunDir) -> int:
    """Of the last complete record in metrics.jsonl, from the end of the file: it is read several times a second."""
    try:
        with (run.path / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            return int(json.loads(file.read().split(b"\n")[-2])["step"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return 0


def _is_locked(run: RunDir) -> bool:
    # Asked only of a run that has a config, which is written under the lock: no run that starts finds it taken by us.
    try:
        with run.lock():
            return False
    except UserError:
        return True


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """Hold the study: two processes would set each other's runs aside."""
    folder = study.folder / PLAN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"the output must be writable: {folder}: {error.strerror}; choose another --output.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"one process executes a study: another has {study.folder}; wait for it.") from None
        yield


def _table(study: Study, states: Sequence[str]) -> list[str]:
    cells = [["run", "state", *study.runs[0].values]]
    cells += [[run.name, now, *map(str, run.values.values())] for run, now in zip(study.runs, states, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _estimate(study: Study, states: Sequence[str], jobs: int | None) -> str:
    """From the seconds for an image in runs that ended, probes and checkpoints included."""
    ended = [run for run, now in zip(study.runs, states, strict=True) if now in ENDED]
    todo = [run for run, now in zip(study.runs, states, strict=True) if now not in ENDED]
    if not todo:
        return "Nothing is left to train."
    speeds = [v for run in ended[-10:] for v in run.directory.series("images_per_second")[1] if v > 0]
    if not speeds:
        return "The time that it takes will be known after the first run."
    defaults = flatten(ended[0].directory.config())
    configs = [defaults | flatten(run.config) for run in todo]
    images = sum(c["steps"] * c["data.batch_size"] * c["model.d_steps"] for c in configs)
    workers, _ = shares(jobs, len(todo))
    minutes = images * fmean(1 / v for v in speeds) / workers / 60
    return f"About {max(1, round(minutes))} min of training are left with {workers} at once."


# -- evaluation -------------------------------------------------------------------------------------------------------


class Scoring:
    """A task: the scores of some runs, in one process, which pays for its start and the reference statistics once."""

    def __init__(self, number: int, runs: Sequence[RunDir], options: Mapping[str, Any], gannorm: Sequence[str]) -> None:
        self.name, self.runs, self.options, self.gannorm = f"evaluation_{number}", runs, options, gannorm
        self.total = sum(len(steps_to_score(run, options)) for run in runs)

    def command(self) -> list[str]:
        left = [str(run.path) for run in self.runs if not is_scored(run, self.options)]
        return [*self.gannorm, "evaluate", *left, *(f"--{k}={_flag(v)}" for k, v in self.options.items())]

    def progress(self) -> int:
        return sum(len(steps_to_score(run, self.options) & _scored(run, self.options)) for run in self.runs)

    def is_done(self) -> bool:
        return all(is_scored(run, self.options) for run in self.runs)

    def is_busy(self) -> bool:
        return False

    def outcome(self) -> str:
        return f"checkpoints scored: {self.total}"


def is_scored(run: RunDir, options: Mapping[str, Any]) -> bool:
    """Whether every checkpoint that the options ask for has scores of the protocol that they ask for."""
    return steps_to_score(run, options) <= _scored(run, options)


def steps_to_score(run: RunDir, options: Mapping[str, Any]) -> set[int]:
    """The steps of the checkpoints that the options ask for: the last, or all."""
    steps = list(run.checkpoints())
    return set(steps if options.get("all_checkpoints") else steps[-1:])


def _scored(run: RunDir, options: Mapping[str, Any]) -> set[int]:
    wanted = {EVALUATE_OPTIONS[option]: value for option, value in options.items() if EVALUATE_OPTIONS[option]}
    return {s["step"] for s in run.scores() if all(str(s["protocol"].get(k)) == str(v) for k, v in wanted.items())}


def _scoring(study: Study, jobs: int | None, command: Sequence[str]) -> list[Scoring]:
    """Shares of the finished runs without scores, one share a process. A diverged generator has no score."""
    if study.evaluate is None:
        return []
    finished = [run.directory for run in study.runs if state(run.directory) == "finished"]
    unscored = [run for run in finished if not is_scored(run, study.evaluate)]
    workers, _ = shares(jobs, len(unscored))
    parts = [unscored[i::workers] for i in range(workers)]
    return [Scoring(i, part, study.evaluate, command) for i, part in enumerate(parts, start=1) if part]


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
