"""compare runs: a table and report/index.html"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gannorm.arguments import parse, parser_for
from gannorm.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from gannorm.comparison.comparison import Comparison


def parser() -> ArgumentParser:
    parser = parser_for("compare", "Compare runs: a table in the terminal, and table.csv and index.html in a folder.")
    newest = "run directories, folders of them, or one runs.csv; default: the newest study in runs/"
    parser.add_argument("runs", type=str, nargs="*", help=newest)
    parser.add_argument("--output", type=str, default="report", help="folder to write")
    parser.add_argument(
        "--baseline", type=str | None, default=None, help="condition to compare with; default: the first"
    )
    parser.add_argument("--by_mode", type=bool, default=False, help="compare the sampling modes of G within each run")
    modes = Literal["auto", "online", "offline", "off"]
    parser.add_argument("--wandb", type=modes, default="off", help="log the table and the figures to W&B too")
    return parser


def run(argv: Sequence[str]) -> int:
    options = parse(parser(), argv)

    from gannorm.report.compare import compare
    from gannorm.rundir import find_runs

    output = Path(options.output)
    runs = options.runs or [newest_study(Path("runs"))]
    table = Path(runs[0]) if len(runs) == 1 and runs[0].endswith(".csv") else None
    replaced = (output / "index.html").exists()
    comparison = compare(
        table or find_runs(runs),
        output,
        baseline=options.baseline,
        by_mode=options.by_mode,
        command=shlex.join(["gannorm", "compare", *argv]),
    )
    print(comparison.to_text())
    print(output / "index.html")
    if not options.runs:
        print(f"This is the newest study, {runs[0]}; give runs to compare others.", file=sys.stderr)
    if replaced:
        print(f"This replaced the report that was in {output}; --output chooses another folder.", file=sys.stderr)
    if options.wandb != "off":
        _log_comparison(comparison, output, options.wandb)
    return 0


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
