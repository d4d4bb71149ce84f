"""Where a new run goes: <output>/<study>/<name>, with a name by what differs from the recipe."""

from __future__ import annotations

import itertools
from pathlib import Path

from gannorm.config import TrainConfig, keys
from gannorm.config.labels import run_name
from gannorm.config.schema import DISPLAY
from gannorm.errors import UserError
from gannorm.rundir import PLAN, RunDir


def place(config: TrainConfig, repeats: bool = False, follows: bool = False) -> Path:
    """The directory of a new run. A default name that another config has taken gets _2, _3 and so on.

    Args:
        config: its `name` may be empty.
        repeats: whether it repeats the run of its name, beside it.
        follows: whether another process makes the run: the directory is then the one that it makes or has made.

    Raises:
        UserError: a name that is no folder's, or this config has been trained under its default name.
    """
    names = {"study": config.study} | ({"name": config.name} if config.name else {})
    for key, text in names.items():
        if text in ("", ".", "..", PLAN) or Path(text).name != text or not text.isprintable() or len(text) > 100:
            raise UserError(f"`{key}` must be a folder's plain name: got {text[:100]!r}; use --output for the place.")
    folder = Path(config.output) / config.study
    if config.name and not repeats:
        return folder / config.name
    name = config.name or run_name(config)
    for number in itertools.count(2 if repeats else 1):
        path = folder / (name if number == 1 else f"{name}_{number}")
        if not (path / "config.yaml").exists():
            return path
        if not repeats and not follows and _is_of(config, RunDir(path)):
            state, step = RunDir(path).state(), RunDir(path).status()["step"]
            advice = f"continue it by --resume {path}, " if state in ("interrupted", "failed") else ""
            raise UserError(
                f"a run's name must be new: {path} has this very config and is {state} at step {step}; {advice}repeat "
                "it under another --name."
            )
        if follows and _is_of(config, RunDir(path)):
            return path
    raise AssertionError


def _is_of(config: TrainConfig, run: RunDir) -> bool:
    """Whether a run was made from this config, however it is shown. Of `folder`, the root says which images."""
    try:
        other = TrainConfig.from_dict(run.config())
    except UserError:  # a damaged one, or of another version
        return False
    counting = [key.name for key in keys(config.task).values() if key.role != DISPLAY or key.name == "data.root"]
    return other.task == config.task and all(config[key] == other[key] for key in counting)
