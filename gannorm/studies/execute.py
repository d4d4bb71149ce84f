"""Execute a study: train what is missing, retry what failed, evaluate, compare.

Every run is a plain command on a saved config, in its own process: a crash or an out-of-memory kill costs one run. What
has been done is read from the run directories alone, so the same command continues after an interruption of any kind
(Ctrl-C, kill -9, a reboot).

    runs/<study>/<run>/                  run directories
    runs/<study>/plan/<run>.yaml         the saved configs: `gannorm train --config` makes one run of the study
    runs/<study>/plan/<run>.log          everything that the run's processes printed
    runs/<study>/plan/attempts/<run>_1/  the run directory of a failed attempt
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from gannorm.comparison.numbers import aligned
from gannorm.config.dotted import flatten
from gannorm.errors import UserError
from gannorm.files import lock, writing
from gannorm.report.pages import require_replaceable
from gannorm.rundir import PLAN, RunDir
from gannorm.studies.local import terminable
from gannorm.studies.plan import Study
from gannorm.studies.runner import Engine, run_all
from gannorm.studies.tasks import ENDED, Scoring, Training, is_scored, scored_steps, state, steps_to_score


def execute(study: Study, engine: Engine, report: Path) -> int:
    """Execute a study to its end: train, score and compare all runs.

    Args:
        study: the plan.
        engine: where its processes run.
        report: folder for the comparison.

    Returns:
        0; 1 if a run or an evaluation failed twice and is missing from the comparison.

    Raises:
        UserError: a run ended with a usage error, which the other runs would repeat; another process executes this
            study; no run has finished; `report` holds a page of another program.
    """
    require_replaceable(report)
    with _alone(study), terminable():
        try:
            logs = save_configs(study)
            failed = run_all([Training(run) for run in study.runs], engine, logs, "training", "step")
            run_all(_scoring(study, engine), engine, logs, "evaluation", "checkpoint")
        except KeyboardInterrupt:
            print("stopped; run the same command again to continue.", file=sys.stderr)
            raise

    from gannorm.report.compare import compare  # seconds of imports

    begun = [run.directory for run in study.runs if run.directory.config_file.exists()]
    comparison = compare(
        begun,
        report,
        baseline=study.baseline,
        by_mode=study.by_mode,
        primary=study.primary,
        question=study.question,
        command=_comparing(study),
    )
    print(comparison.to_text())
    print(report / "index.html")
    options = study.evaluate or {}
    left = {run.path.name: steps_to_score(run, options) - scored_steps(run, options) for run in _unscored(study)}
    unscored = [f"{name} (step {', '.join(map(str, sorted(steps)))})" for name, steps in left.items()]
    for names, what in ((failed, "not compared"), (unscored, f"not scored (see {logs}/evaluation_*.log)")):
        if names:
            print(
                f"failed twice, and {what}: {', '.join(names)}; run the same command again to retry.", file=sys.stderr
            )
    return 1 if failed or unscored else 0


def _comparing(study: Study) -> str:
    """The command that repeats the study's comparison."""
    words = ["gannorm", "compare", str(study.folder)]
    if study.primary:
        words += ["--study", str(study.file)]
    if study.baseline is not None:
        words += ["--baseline", study.baseline]
    if study.by_mode:
        words += ["--by_mode", "true"]
    return shlex.join(words)


def describe(study: Study, engine: Engine, *, table: bool = True) -> str:
    """The plan: the question, a table of the runs and their states, and an estimate of the time that is left."""
    states = [state(run.directory) for run in study.runs]
    lines = [study.question, ""] if study.question else []
    if table:
        lines += [*_table(study, states), ""]
    counts = ", ".join(f"{count} {name}" for name, count in Counter(states).items())
    runs = "1 run" if len(states) == 1 else f"{len(states)} runs"
    lines.append(f"{runs}: {counts}. {_estimate(study, states, engine)}")
    return "\n".join(lines)


def save_configs(study: Study) -> Path:
    """Write the plan, runs/<study>/plan/<run>.yaml, and remove configs that are no longer planned.

    Returns:
        Its folder.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = study.folder / PLAN
    for run in study.runs:
        run.save_config()
    for file in set(folder.glob("*.yaml")) - {run.config_file for run in study.runs}:
        file.unlink()
    return folder


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """Lock the study: two processes would move each other's runs away."""
    folder = study.folder / PLAN
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            lock(file, wait=False)
        except OSError:
            raise UserError(
                f"only one process may execute a study: another executes {study.folder}; wait for it."
            ) from None
        yield


def _table(study: Study, states: Sequence[str]) -> list[str]:
    cells = [["run", "state", *study.runs[0].values]]
    cells += [[run.name, now, *map(str, run.values.values())] for run, now in zip(study.runs, states, strict=True)]
    return aligned(cells)


def _estimate(study: Study, states: Sequence[str], engine: Engine) -> str:
    """The time left, from the seconds an image in ended runs, with their probes and checkpoints."""
    ended = [run for run, now in zip(study.runs, states, strict=True) if now in ENDED]
    todo = [run for run, now in zip(study.runs, states, strict=True) if now not in ENDED]
    if not todo:
        return "All runs are trained."
    speeds = [v for run in ended[-10:] for v in _speeds(run.directory) if v > 0]
    if not speeds:
        return "The first run will show how long it takes."
    defaults = flatten(ended[0].directory.config())
    configs = [defaults | flatten(run.config) for run in todo]
    images = sum(int(c["steps"]) * int(c["data.batch_size"]) * int(c.get("model.d_steps", 1)) for c in configs)
    workers, _ = engine.shares(len(todo))
    minutes = images * fmean(1 / v for v in speeds) / workers / 60
    return f"About {max(1, round(minutes))} min of training remain, with {workers} runs at once."


def _speeds(run: RunDir) -> Sequence[float]:
    """Images per second over a run; empty for a damaged run."""
    try:
        return run.series("images_per_second")[1]
    except UserError:
        return ()


# -- evaluation -------------------------------------------------------------------------------------------------------


def _scoring(study: Study, engine: Engine) -> list[Scoring]:
    """Shares of the runs without scores, one share a process."""
    unscored = _unscored(study)
    workers, _ = engine.shares(len(unscored))
    parts = [unscored[i::workers] for i in range(workers)]
    return [Scoring(i, part, study.evaluate or {}) for i, part in enumerate(parts, start=1) if part]


def _unscored(study: Study) -> list[RunDir]:
    """The finished runs without the scores that the study asks for. A diverged generator has no score.

    A primary analysis takes a diverged run with its last finite value, so there its checkpoints are scored too.
    """
    if study.evaluate is None:
        return []
    states = ENDED if study.primary else ("finished",)
    finished = [run.directory for run in study.runs if state(run.directory) in states]
    return [run for run in finished if not is_scored(run, study.evaluate)]
