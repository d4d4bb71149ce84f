"""What a study asks of `gannorm evaluate`: the task that scores runs, its options, and whether scores answer them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gannorm.errors import UserError
from gannorm.registry import choices
from gannorm.rundir import RunDir
from gannorm.studies.tasks import moved

# Options of `gannorm evaluate` that a study may give → the key of a score's protocol that records them, if one does.
EVALUATE_OPTIONS = {
    "all_checkpoints": "",
    "ema": "ema",
    "statistics": "statistics",
    "extractor": "extractor",
    "extractor_weights": "",
    "split": "split",
    "samples": "fake_images",
    "splits": "inception_splits",
    "kid_subsets": "kid_subsets",
    "kid_kernel": "kid_kernel",
    "seed": "seed",
    "batch_size": "batch_size",
    "sha256": "",
    "extractor_seed": "",
    "device": "",
    "reconstruction": "",  # it has a protocol of its own
    "wandb": "",
}
MODES = tuple(itertools.product(("running", "batch", "standing"), (True, False)))  # of `statistics: all`: (…, ema)


class Scoring:
    """A task: the scores of some runs, in one process, which pays for its start and the reference statistics once."""

    def __init__(self, number: int, runs: Sequence[RunDir], options: Mapping[str, Any]) -> None:
        self.number, self.options = number, options
        self.runs: Sequence[RunDir] = runs
        self.name, self.total = f"evaluation_{number}", sum(len(steps_to_score(run, options)) for run in runs)

    def prepare(self) -> None:
        pass

    def arguments(self) -> list[str]:
        left = [str(run.path) for run in self.runs if not is_scored(run, self.options)]
        return ["evaluate", *left, *(f"--{k}={_flag(v)}" for k, v in self.options.items())]

    def moved(self, output: Path) -> Scoring:
        return Scoring(self.number, [moved(run, output) for run in self.runs], self.options)

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
    """The steps whose scores answer the options; none of a damaged file, which `gannorm evaluate` names."""
    records: dict[int, list[Mapping[str, Any]]] = {}
    try:
        found = run.scores()
    except UserError:
        return set()
    for record in found:
        records.setdefault(record["step"], []).append(record)
    return {step for step, its in records.items() if answered(its, options)}


def evaluate_options(given: Any, file: Path) -> Mapping[str, Any] | None:
    """The options that a study file gives under `evaluate`; None for no scores.

    Raises:
        UserError: what is given is no options of `gannorm evaluate`, or two of them contradict each other.
    """
    if given is False:
        return None
    if given is None or given is True:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"`evaluate` must be options of `gannorm evaluate`, or false: got {given!r} in {file}.")
    for option in given:
        if option not in EVALUATE_OPTIONS:
            raise UserError(f"unknown option of `evaluate` in {file}: {option!r}: {choices(option, EVALUATE_OPTIONS)}")
    if given.get("statistics") == "all" and given.get("ema") is not None:
        raise UserError(f"statistics: all scores averaged and trained weights: got ema too in {file}; leave it out.")
    return {option: value for option, value in given.items() if value not in (None, "")}  # these are the defaults


def compares_modes(evaluate: Mapping[str, Any] | None) -> bool:
    """Whether every sampling mode of G is to be scored, and the runs compared with themselves under each."""
    return (evaluate or {}).get("statistics") == "all"


def answered(records: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> bool:
    """Whether one step's score records are all that the options of `gannorm evaluate` ask for."""
    wanted = {key: str(value) for option, value in options.items() if (key := EVALUATE_OPTIONS[option])}
    modes = [(wanted.pop("statistics", None), wanted.pop("ema", None))]
    if compares_modes(options):
        modes = [(statistics, str(ema)) for statistics, ema in MODES]
    fitting = [r for r in records if all(str(r["protocol"].get(k)) == v for k, v in wanted.items())]
    said = [(str(r["protocol"].get("statistics")), str(r["protocol"].get("ema"))) for r in fitting]
    if not all(any(statistics in (None, s) and ema in (None, e) for s, e in said) for statistics, ema in modes):
        return False
    images = options.get("reconstruction", 0)
    sought = [r.get("reconstruction", {}).get("protocol", {}).get("images") for r in fitting]
    return not images or images in sought or any(r.get("diverged") for r in fitting)


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
