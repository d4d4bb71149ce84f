"""Commands on many runs: plan and execute a study, compare runs, save a dashboard for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gannorm.arguments import add_switch, imported, parse, parser_for
from gannorm.errors import UserError, require_positive

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from gannorm.comparison.table import Comparison
    from gannorm.studies.plan import Study
    from gannorm.studies.runner import Engine


def study(argv: Sequence[str]) -> int:
    """plan a grid of runs, train what is missing, evaluate, compare"""
    parser = parser_for("study", "Plan a grid of runs, train what is missing, evaluate, compare. Repeat to go on.")
    parser.add_argument("file", type=str, help="study file, for example configs/studies/demo.yaml")
    add_switch(parser, "--dry-run", help="show the runs and their states, do nothing")
    plan_only = "write the runs' configs, for another scheduler, and do nothing else"
    add_switch(parser, "--plan-only", "--plan_only", help=plan_only)
    parser.add_argument("--jobs", type=int | None, default=None, help="runs at once; default: as many as there is room")
    parser.add_argument("--engine", type=Literal["local", "ray"], default="local", help="where the runs are processes")
    parser.add_argument("--address", type=str | None, default=None, help="of the Ray cluster; default: auto")
    parser.add_argument("--cpus_per_run", type=float | None, default=None, help="on the Ray cluster; default: 1")
    share = "on the Ray cluster, such as 0.25; default: a quarter where there are GPUs"
    parser.add_argument("--gpus_per_run", type=float | None, default=None, help=share)
    parser.add_argument("--output", type=str, default="runs", help="folder of all studies")
    parser.add_argument("--report", type=str, default="report", help="folder for the comparison")
    options = parse(parser, argv)
    if options.jobs is not None:
        require_positive(jobs=options.jobs)

    from gannorm.studies.execute import describe, execute, save_configs
    from gannorm.studies.plan import plan, require_possible

    command = [sys.executable, "-m", "gannorm.cli", *(text for module in imported for text in ("--import", module))]
    planned = plan(Path(options.file), Path(options.output))
    require_possible(planned, command)
    engine = _engine(options, command, planned)
    print(describe(planned, engine, table=options.dry_run), flush=True)
    if options.plan_only:
        print(save_configs(planned))
    return 0 if options.dry_run or options.plan_only else execute(planned, engine, Path(options.report))


def _engine(options: Namespace, command: Sequence[str], planned: Study) -> Engine:
    from gannorm.studies.local import Local, visible_gpus

    own = {name: options[name] for name in ("address", "cpus_per_run", "gpus_per_run") if options[name] is not None}
    if options.engine == "local":
        if own:
            raise UserError(
                f"`--{next(iter(own))}` belongs to --engine ray: the engine is local; give one or the other."
            )
        trainers = [run.config.get("trainer") or {} for run in planned.runs]
        shared = all(t.get("accelerator") != "cpu" and t.get("devices", 1) in (1, "1") for t in trainers)
        return Local(command, options.jobs, visible_gpus() if shared else ())

    from gannorm.studies.cluster import RayCluster

    return RayCluster(command, jobs=options.jobs, **{"address": "auto", **own})


def compare(argv: Sequence[str]) -> int:
    """compare runs: a table and report/index.html"""
    parser = parser_for("compare", "Compare runs: a table in the terminal, and table.csv and index.html in a folder.")
    parser.add_argument("runs", type=str, nargs="+", help="run directories, or folders of them")
    parser.add_argument("--output", type=str, default="report", help="folder to write")
    parser.add_argument(
        "--baseline", type=str | None, default=None, help="condition to compare with; default: the first"
    )
    parser.add_argument("--by_mode", type=bool, default=False, help="compare the sampling modes of G, run by run")
    modes = Literal["auto", "online", "offline", "off"]
    parser.add_argument("--wandb", type=modes, default="off", help="where the table and the figures go too")
    options = parse(parser, argv)

    from gannorm.report.compare import compare
    from gannorm.rundir import find_runs

    output = Path(options.output)
    comparison = compare(find_runs(options.runs), output, baseline=options.baseline, by_mode=options.by_mode)
    print(comparison.to_text())
    print(output / "index.html")
    if options.wandb != "off":
        _log_comparison(comparison, output, options.wandb)
    return 0


def _log_comparison(comparison: Comparison, output: Path, mode: str) -> None:
    """The table and the figures into a W&B run of their own, in the project of the runs."""
    from gannorm.report.dashboard import record
    from gannorm.training.loggers import start

    config = next(c for c in comparison.conditions if c.runs).runs[0].config
    logger = start(
        mode,
        project=config.get("wandb_project", "gannorm"),
        name=f"comparison of {config.get('study', 'runs')}",
        group=config.get("study", "runs"),
        job_type="comparison",
        config={"baseline": comparison.baseline, "conditions": [c.label for c in comparison.conditions]},
        dir=str(output),
    )
    if logger:
        logger.log_record(record(comparison, output), {"headline": comparison.headline})
        logger.finalize("success")


def dashboard(argv: Sequence[str]) -> int:
    """save a workspace for a project's runs on Weights & Biases"""
    parser = parser_for("dashboard", "Save a W&B workspace: composition gap, coupling, scores, samples, by normalizer.")
    parser.add_argument("--project", type=str, default="gannorm", help="W&B project: ENTITY/PROJECT or PROJECT")
    options = parse(parser, argv)

    from gannorm.report.dashboard import save
    from gannorm.training.loggers import has_key

    if not has_key():
        raise UserError("saving a dashboard needs a W&B key: found none, or WANDB_MODE forbids it; run `wandb login`.")
    print(save(options.project))
    return 0
