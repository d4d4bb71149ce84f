"""A study in parts: what its runs.csv already holds is left out of the next part.

    gannorm study STUDY.yaml --skip results/STUDY/runs.csv            # stop it at any time
    gannorm compare runs/STUDY --append results/STUDY/runs.csv        # keeps what has finished; compares all parts

Run directories stay where they were made, so the next part may run on another machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gannorm.comparison.runs_file import read_runs_csv
from gannorm.comparison.titles import config_hash
from gannorm.config import TrainConfig
from gannorm.studies.plan import PlannedRun, Study


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


def identity(run: PlannedRun) -> tuple[str, int]:
    """(config hash, seed) that the run's line will have: of the whole config, with all defaults filled in."""
    config = TrainConfig.from_dict(run.config)
    return config_hash(config.to_dict()), config.seed
