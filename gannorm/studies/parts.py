"""A study in parts: what its runs.csv already holds is left out of the next part.

    gannorm study STUDY.yaml --skip results/STUDY/runs.csv            # stop it at any time
    gannorm compare runs/STUDY --append results/STUDY/runs.csv --study STUDY.yaml --output results/STUDY

The second command keeps what has finished, compares all parts, and writes all that results/STUDY holds beside its
README: the lines, tables and figures, the study file and the plan. From the lines alone,
`gannorm compare results/STUDY/runs.csv --study STUDY.yaml --output results/STUDY` writes the same again.

Run directories stay where they were made, so the next part may run on another machine.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import read_runs_csv
from gannorm.comparison.titles import config_hash
from gannorm.config import TrainConfig
from gannorm.studies.plan import PlannedRun, Study

SEED = "seed"


def without(study: Study, file: Path) -> Study:
    """The study without the runs that a runs.csv holds: those of the same config hash and seed.

    A run that finished but was not scored does not stand for one, where the study asks for scores. What is left is
    only a part, so no baseline is asked of it.

    Args:
        study: the plan.
        file: the runs.csv; one that is not there yet holds nothing.

    Raises:
        UserError: the file is no runs.csv, or a planned config cannot be completed.
    """
    if not file.exists():
        return study
    lines, _ = read_runs_csv(file)
    answers = [run for run in lines if run.state == "diverged" or run.protocol or study.evaluate is None]
    held = {(run.hash, run.seed) for run in answers}
    left = [run for run in study.runs if identity(run) not in held]
    return study if len(left) == len(study.runs) else replace(study, runs=left, baseline=None)


def plan_csv(study: Study, lines: Sequence[Run]) -> str:
    """plan.csv: the planned runs in the order of execution, each with its end, or "to do" where the lines lack it."""
    ends = {(run.hash, run.seed): run.state for run in lines}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [name for name in study.runs[0].values if name != SEED]
    writer.writerow(["run", "config_hash", SEED, *names, "state"])
    for run in study.runs:
        key = identity(run)
        writer.writerow([run.name, *key, *(run.values[name] for name in names), ends.get(key, "to do")])
    return stream.getvalue()


def identity(run: PlannedRun) -> tuple[str, int]:
    """(config hash, seed) that the run's line will have: of the whole config, with all defaults filled in."""
    config = TrainConfig.from_dict(run.config)
    return config_hash(config.to_dict()), config.seed
