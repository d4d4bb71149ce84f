"""The two tasks of a study: train one run, and score some runs. Each is a command; its files show its success."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from gannorm.errors import UserError
from gannorm.files import writing
from gannorm.rundir import RunDir
from gannorm.studies.evaluation_options import answered
from gannorm.studies.plan import PlannedRun

ENDED = ("finished", "diverged")


class Training:
    """A task: one run of the study. Its directory shows that it ended. A stopped run continues, a failed one restarts.

    A run that cannot continue, for example because its images have changed, stops the study: the other runs were made
    with the former images.
    """

    def __init__(self, run: PlannedRun) -> None:
        self.run = run
        self.runs: Sequence[RunDir] = [run.directory]
        self.name, self.total = run.name, int(run.config["steps"])

    def prepare(self) -> None:
        if self.run.directory.config_file.exists() and not is_stopped(self.run.directory):
            self._set_aside()
        self.run.save_config()

    def arguments(self) -> list[str]:
        directory = self.run.directory
        if directory.config_file.exists():
            return ["train", "--resume", str(directory.path)]
        return ["train", "--config", str(self.run.config_file)]

    def progress(self) -> int:
        return self.total if self.is_done() else min(self.total - 1, self.run.directory.last_step())

    def is_done(self) -> bool:
        return state(self.run.directory) in ENDED

    def is_busy(self) -> bool:
        return state(self.run.directory) == "running"

    def outcome(self) -> str:
        status = self.run.directory.status()
        return f"{status['state']} at step {status['step']} {status['reason']}".rstrip()

    def _set_aside(self) -> None:
        """Move a failed run's directory to the attempts, so that its files are kept and its name is free."""
        attempts = self.run.config_file.parent / "attempts"
        numbered = (attempts / f"{self.name}_{n}" for n in itertools.count(1))
        with writing(attempts):
            attempts.mkdir(exist_ok=True)
            self.run.directory.path.rename(next(path for path in numbered if not path.exists()))


class Scoring:
    """A task: the scores of some runs in one process, which loads the reference statistics once."""

    def __init__(self, number: int, runs: Sequence[RunDir], options: Mapping[str, Any]) -> None:
        self.number, self.options = number, options
        self.runs: Sequence[RunDir] = runs
        self.name, self.total = f"evaluation_{number}", sum(len(steps_to_score(run, options)) for run in runs)

    def prepare(self) -> None:
        pass

    def arguments(self) -> list[str]:
        left = [str(run.path) for run in self.runs if not is_scored(run, self.options)]
        return ["evaluate", *left, *(f"--{k}={_flag(v)}" for k, v in self.options.items())]

    def progress(self) -> int:
        return sum(len(steps_to_score(run, self.options) & scored_steps(run, self.options)) for run in self.runs)

    def is_done(self) -> bool:
        return all(is_scored(run, self.options) for run in self.runs)

    def is_busy(self) -> bool:
        return False

    def outcome(self) -> str:
        return f"checkpoints scored: {self.total}"


def is_scored(run: RunDir, options: Mapping[str, Any]) -> bool:
    """Whether every checkpoint that the options ask for has scores of the protocol that they ask for."""
    return steps_to_score(run, options) <= scored_steps(run, options)


def steps_to_score(run: RunDir, options: Mapping[str, Any]) -> set[int]:
    """The steps of the checkpoints that the options ask for: the last, or all."""
    steps = list(run.checkpoints())
    return set(steps if options.get("all_checkpoints") else steps[-1:])


def scored_steps(run: RunDir, options: Mapping[str, Any]) -> set[int]:
    """The steps with scores that satisfy the options; none for a damaged file, which `gannorm evaluate` reports."""
    records: dict[int, list[Mapping[str, Any]]] = {}
    try:
        scores = run.scores()
    except UserError:
        return set()
    for record in scores:
        records.setdefault(record["step"], []).append(record)
    return {step for step, of_step in records.items() if answered(of_step, options)}


def state(run: RunDir) -> str:
    """The state of a run, read from its directory at each call.

    Returns:
        "to do", "damaged", or as `RunDir.state`.
    """
    if not run.config_file.exists():
        return "to do"
    try:
        return run.state()
    except UserError:
        return "damaged"


def is_stopped(run: RunDir) -> bool:
    """Whether its process was killed, or ended by a signal, Ctrl-C or `trainer.max_time`: the run can continue."""
    now = state(run)
    reason = run.status()["reason"] if now == "failed" else ""
    return now == "interrupted" or reason == "interrupted" or reason.startswith("stopped by ")


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
