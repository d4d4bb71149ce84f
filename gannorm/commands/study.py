"""plan a grid of runs, train what is missing, evaluate, compare"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gannorm.commands.inputs.arguments import add_switch, imported, parse, parser_for
from gannorm.errors import UserError, require_positive
from gannorm.recipes import locate

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from gannorm.studies.plan import Study
    from gannorm.studies.runner import Engine


def parser() -> ArgumentParser:
    parser = parser_for(
        "study", "Plan a grid of runs, train what is missing, evaluate, compare. Run it again to continue."
    )
    parser.add_argument("file", type=str, help="study file, or the name of a built-in study: demo")
    add_switch(parser, "--dry_run", help="show the runs and their states, and run nothing")
    plan_only = "write the runs' configs, for another scheduler, and run nothing"
    add_switch(parser, "--plan_only", help=plan_only)
    parser.add_argument(
        "--jobs", type=int | None, default=None, help="runs at once; default: as many as the machine has room for"
    )
    parser.add_argument(
        "--engine", type=Literal["local", "ray"], default="local", help="run on this machine, or on a Ray cluster"
    )
    parser.add_argument("--address", type=str | None, default=None, help="address of the Ray cluster; default: auto")
    parser.add_argument(
        "--cpus_per_run", type=float | None, default=None, help="cores a run on the Ray cluster; default: 1"
    )
    gpus = "GPUs a run on the Ray cluster, such as 0.25; default: a quarter if there are GPUs"
    parser.add_argument("--gpus_per_run", type=float | None, default=None, help=gpus)
    held = "a runs.csv: leave out the runs that it holds, to run a study in parts"
    parser.add_argument("--skip", type=str, default="", help=held)
    parser.add_argument("--output", type=str, default="runs", help="folder of all studies")
    parser.add_argument("--report", type=str, default="report", help="folder for the comparison")
    return parser


def run(argv: Sequence[str]) -> int:
    options = parse(parser(), argv)
    if options.jobs is not None:
        require_positive(jobs=options.jobs)

    from gannorm.studies.execute import describe, execute, save_configs
    from gannorm.studies.plan import plan, require_possible

    command = [sys.executable, "-m", "gannorm.cli", *(text for module in imported for text in ("--import", module))]
    planned = plan(locate(options.file), Path(options.output))
    if options.skip:
        from gannorm.studies.parts import without

        total, planned = len(planned.runs), without(planned, Path(options.skip))
        print(f"{total - len(planned.runs)} of {total} runs are left out: {options.skip} holds them.")
        if not planned.runs:
            print(f"Nothing is left to run: gannorm compare {options.skip}")
            return 0
    require_possible(planned, command)
    engine = _engine(options, command, planned)
    print(describe(planned, engine, table=options.dry_run), flush=True)
    if options.plan_only:
        print(save_configs(planned))
    if options.dry_run or options.plan_only:
        return 0
    status = execute(planned, engine, Path(options.report))
    if options.skip:
        results = ["--append", options.skip, "--study", options.file, "--output", str(Path(options.skip).parent)]
        kept = shlex.join(["gannorm", "compare", str(planned.folder), *results])
        print(f"This compares the new runs alone; to keep them and compare all: {kept}")
    return status


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
