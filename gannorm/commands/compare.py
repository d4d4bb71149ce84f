"""compare runs: a table and report/index.html"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gannorm.commands.inputs.arguments import parse, parser_for
from gannorm.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from gannorm.comparison.comparison import Comparison
    from gannorm.studies.plan import Study


def parser() -> ArgumentParser:
    parser = parser_for("compare", "Compare runs: a table in the terminal, and table.csv and index.html in a folder.")
    newest = "run directories, folders of them, or one runs.csv; default: the newest study in runs/"
    parser.add_argument("runs", type=str, nargs="*", help=newest)
    parser.add_argument("--output", type=str, default="report", help="folder to write")
    parser.add_argument(
        "--baseline", type=str | None, default=None, help="condition to compare with; default: the first"
    )
    parser.add_argument("--by_mode", type=bool, default=False, help="compare the sampling modes of G within each run")
    kept = "a runs.csv; the runs are added to it, each once, and all that it then holds is compared"
    parser.add_argument("--append", type=str, default="", help=kept)
    study = "a study file: its primary analysis, question and baseline; it is kept in the folder, with its plan"
    parser.add_argument("--study", type=str, default="", help=study)
    modes = Literal["auto", "online", "offline", "off"]
    parser.add_argument("--wandb", type=modes, default="off", help="log the table and the figures to W&B too")
    return parser


def run(argv: Sequence[str]) -> int:
    options = parse(parser(), argv)

    from gannorm.comparison.runs_file import append_runs
    from gannorm.report.compare import analyse, compare
    from gannorm.rundir import find_runs

    output = Path(options.output)
    runs = options.runs or [newest_study(Path("runs"))]
    source = Path(runs[0]) if len(runs) == 1 and runs[0].endswith(".csv") else find_runs(runs)
    if options.append:
        if options.by_mode:
            raise UserError("`--append` and `--by_mode` exclude each other: a runs.csv holds one line a run; give one.")
        file = Path(options.append)
        added = append_runs(file, [run for c in analyse(source).conditions for run in c.all_runs])
        print(f"{added} lines added to {file}")
        source = file
    study = _study(options.study, output) if options.study else None
    replaced = (output / "index.html").exists()
    comparison = compare(
        source,
        output,
        baseline=options.baseline or (study.baseline if study else None),
        by_mode=options.by_mode,
        primary=study.primary if study else None,
        question=study.question if study else "",
        command=shlex.join(["gannorm", "compare", *argv]),
    )
    if study:
        _keep_study(study, comparison, output)
    print(comparison.to_text())
    print(output / "index.html")
    if not options.runs:
        print(f"This is the newest study, {runs[0]}; give runs to compare others.", file=sys.stderr)
    if replaced:
        print(f"This replaced the report that was in {output}; --output chooses another folder.", file=sys.stderr)
    if options.wandb != "off":
        _log_comparison(comparison, output, options.wandb)
    return 0


def _study(file: str, output: Path) -> Study:
    from gannorm.recipes import locate
    from gannorm.studies.plan import plan

    return plan(locate(file), output / "runs")  # nothing runs, so no run directory is there


def _keep_study(study: Study, comparison: Comparison, output: Path) -> None:
    """study.yaml, the study file as it is, and plan.csv, its runs with their ends."""
    from gannorm.files import write_text, writing
    from gannorm.studies.parts import plan_csv

    lines = [run for c in comparison.conditions for run in c.all_runs]
    with writing(output):
        write_text(output / "study.yaml", study.file.read_text("utf-8"))
        write_text(output / "plan.csv", plan_csv(study, lines))


def newest_study(folder: Path) -> str:
    """The study, in a folder of studies, with the newest run.

    Raises:
        UserError: it holds no runs.
    """
    files = sorted(folder.glob("*/*/status.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError(
            f"`gannorm compare` needs runs: there are none in {folder}; give run directories, or train some."
        )
    return str(files[-1].parent.parent)


def _log_comparison(comparison: Comparison, output: Path, mode: str) -> None:
    """The table and the figures into a W&B run of their own, in the project of the runs."""
    from gannorm.report.dashboard import record
    from gannorm.wandb_run import start

    config = next(c for c in comparison.conditions if c.runs).runs[0].config
    wandb_run = start(
        mode,
        project=config.get("wandb_project", "gannorm"),
        name=f"comparison of {config.get('study', 'runs')}",
        group=config.get("study", "runs"),
        job_type="comparison",
        config={"baseline": comparison.baseline, "conditions": [c.label for c in comparison.conditions]},
        dir=str(output),
    )
    if wandb_run:
        wandb_run.log(record(comparison, output))
        wandb_run.summarize({"headline": comparison.headline})
        wandb_run.finish()
