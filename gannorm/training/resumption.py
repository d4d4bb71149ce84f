"""Continue a stopped run, to the same end as without the stop: `gannorm train --resume RUN`.

It may have been stopped at any moment and in any way. The lock of its directory shows whether a process still has it, a
checkpoint holds its whole state, and what was written after the newest whole one is cut off and computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from gannorm.config import TrainConfig, keys
from gannorm.config.dotted import flatten
from gannorm.config.schema import DISPLAY
from gannorm.data import ImageData
from gannorm.errors import UserError
from gannorm.models.checkpoint import find_checkpoint, read_checkpoint
from gannorm.rundir import RunDir
from gannorm.training.run import build, train_to_the_end
from gannorm.training.trainer_options import RunTrainer, trainer_of


def resume(path: Path, config: TrainConfig | None = None) -> RunDir:
    """Continue a stopped run from its newest whole checkpoint, or from the beginning if it has none.

    With `precision: exact` on a CPU, on the same machine and under the same versions, the run ends bit for bit as if it
    had not been stopped.

    Args:
        path: the run's directory.
        config: its config where something about how it is shown has changed; default: that of config.yaml.

    Returns:
        The run; its status is "finished" or "diverged".

    Raises:
        UserError: no run to continue: it is finished, its loss exploded, or a process is writing it; or its config, its
            images or its networks are no longer those of the checkpoint. Nothing in the directory has changed then.
    """
    config = config or TrainConfig.from_dict(RunDir.open(path).config())
    with trainer_of(config) as trainer:
        run = RunDir.open(path)
        with run.lock() if trainer.is_global_zero else nullcontext():
            _continue(run, config, trainer)
    return run


def _continue(run: RunDir, config: TrainConfig, trainer: RunTrainer) -> None:
    _require_stopped(run)
    saved = find_checkpoint(run) if run.checkpoints() else None
    content = read_checkpoint(saved) if saved else {}
    if content:
        _require_same_config(run, config, content)
    module, data = build(config)
    if content:
        _require_same_state(run, content, module, data)
    step, metrics = content.get("step", -1), content.get("metrics", 0)
    del content  # Lightning reads it again
    if trainer.is_global_zero:
        run.rewind(step, metrics)
        if saved:
            run.set_last(step)
        run.set_status("running", max(step, 0))
    begin = f"step {step}" if saved else "the beginning: it has no checkpoint"
    print(f"{run.path}: continues from {begin}", flush=True)
    train_to_the_end(module, data, config, run, trainer, saved)


def _require_stopped(run: RunDir) -> None:
    status = run.status()
    if status["state"] == "finished":
        raise UserError(
            f"a run to continue must have been stopped: {run.path} is finished at step {status['step']}; to train "
            "longer, train a new one with more --steps."
        )
    if status["state"] == "diverged":
        raise UserError(
            f"a run to continue must have been stopped: {run.path} ended by itself ({status['reason']}) and would "
            "do so again; train a new one with another config."
        )


def _require_same_config(run: RunDir, config: TrainConfig, content: Mapping[str, Any]) -> None:
    now, then = (flatten(c.to_dict()) for c in (config, TrainConfig.from_dict(content["config"])))
    roles = {key.name: key.role for key in keys(config.task).values()}
    for key in {**then, **now}:
        if roles.get(key) != DISPLAY and now.get(key) != then.get(key):
            raise UserError(
                f"a run continues with the config that it began with: `{key}` is {now.get(key)!r} in {run.config_file} "
                f"and {then.get(key)!r} in the checkpoint of step {content['step']}; put it back, or train a new run."
            )


def _require_same_state(run: RunDir, content: Mapping[str, Any], module: nn.Module, data: ImageData) -> None:
    """The networks and the images that the config gives today are those that the checkpoint was made with."""
    then, now = (
        {k: tuple(v.shape) for k, v in state.items()} for state in (content["state_dict"], module.state_dict())
    )
    for name in {**then, **now}:
        if now.get(name) != then.get(name):
            raise UserError(
                f"a checkpoint must fit the networks of its config: {name} has the shape {then.get(name)} in the "
                f"checkpoint of step {content['step']} of {run.path} and {now.get(name)} in the network; continue with "
                "the program, and the modules of --import, that it began with."
            )
    if data.train.fingerprint != content["data"]:
        raise UserError(
            f"a run continues with the images that it began with: those of {data.name} ({data.root}) have changed "
            f"since the checkpoint of step {content['step']} of {run.path}; put them back, or train a new run."
        )
