"""train a GAN, or a classifier, and write a run directory; with --resume RUN, continue a stopped one"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gannorm.commands.inputs.arguments import DEFAULT, flag_values, take_resume, take_switch, train_config, train_parser
from gannorm.files import dump_yaml
from gannorm.rundir import RunDir

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from gannorm.config import TrainConfig


def parser() -> ArgumentParser:
    return train_parser()


def run(argv: Sequence[str]) -> int:
    arguments = list(argv)
    if {"-h", "--help"} & {*arguments}:
        train_parser((flag_values(arguments, "--task") or ["gan"])[-1], names=True).print_help()
        return 0
    if stopped := take_resume(arguments):
        config = train_config(["--config", str(RunDir.open(stopped).config_file), *arguments])

        from gannorm.training import resume

        return _trained(config, lambda: resume(Path(stopped), config))
    only_print = take_switch(arguments, "--print_config")
    if not flag_values(arguments, "--config") + flag_values(arguments, "--task"):
        arguments = ["--config", DEFAULT, *arguments]
    config = train_config(arguments)
    if only_print:
        print(dump_yaml(config.to_dict()), end="")
        return 0
    own = (Path(config.output) / config.study / config.name / "config.yaml").resolve()
    repeats = bool(config.name) and any(Path(s).resolve() == own for s in flag_values(arguments, "--config"))

    from gannorm.training import train

    return _trained(config, lambda: train(config, repeats=repeats))


def _trained(config: TrainConfig, make: Callable[[], RunDir]) -> int:
    """Make the run. With `evaluate`, also score its last checkpoint, into the same W&B run."""
    if not config.evaluate:
        return _ended(make(), config)

    from gannorm.commands.evaluate import score
    from gannorm.distributed import is_first
    from gannorm.wandb_run import kept_open

    with kept_open():
        run = make()
        code = _ended(run, config)
        if is_first() and run.status()["state"] == "finished":
            code = score([run], config.wandb)
    return code


def _ended(run: RunDir, config: TrainConfig) -> int:
    from gannorm.distributed import is_first

    if not is_first():  # of several processes, the first reports
        return 0
    status = run.status()
    print(f"{run.path}: {status['state']} at step {status['step']} {status['reason']}".rstrip())
    if status["state"] == "finished" and run.checkpoints() and config.task != "classifier":
        print(f"next: gannorm probe {run.path}, gannorm evaluate {run.path}, gannorm compare {run.path.parent}")
    return 0
