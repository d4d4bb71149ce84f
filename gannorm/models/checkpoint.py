"""Networks from a configuration, and from the checkpoints that a run wrote."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.models.discriminator import Discriminator
from gannorm.models.generator import Generator
from gannorm.models.residual import ResidualDiscriminator, ResidualGenerator
from gannorm.registry import UnknownNameError
from gannorm.rundir import RunDir

Generators = Generator | ResidualGenerator
Discriminators = Discriminator | ResidualDiscriminator


@dataclass(frozen=True)
class Networks:
    """The networks of one checkpoint, in eval mode on the CPU.

    Attributes:
        generator: the averaged generator if it was asked for, otherwise the trained one.
        discriminator: as trained.
        step: generator updates so far.
        config: the run's resolved config.
    """

    generator: Generators
    discriminator: Discriminators
    step: int
    config: dict[str, Any]


def build_networks(model: Mapping[str, Any], image_size: int, channels: int) -> tuple[Generators, Discriminators]:
    """(generator, discriminator) as the `model` part of a config describes them, with PyTorch's initialization.

    With `residual_blocks` above 0 it is the residual pair, otherwise the plain one.
    """
    settings: dict[str, Any] = {"image_size": image_size, "channels": channels}
    if not model["residual_blocks"]:
        return Generator(**settings, **model["generator"]), Discriminator(**settings, **model["discriminator"])
    settings["blocks"] = model["residual_blocks"]
    judge = dict(model["discriminator"])
    if judge.pop("minibatch") != "none":
        raise UserError("the residual discriminator has no minibatch layer: set `minibatch` none or residual_blocks 0.")
    return ResidualGenerator(**settings, **model["generator"]), ResidualDiscriminator(**settings, **judge)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's content, as plain data and tensors: nothing in the file is ever executed.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of this program, or holds more than data.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"a checkpoint must be readable: {file}: {error.strerror}; give another file.") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).split("\n")[0]
        raise UserError(
            f"a checkpoint must be whole and hold only weights: {file}: {first[:160]}; use an earlier one."
        ) from None
    if not isinstance(content, dict) or "config" not in content or "state_dict" not in content:
        raise UserError(
            f"a checkpoint must come from `gannorm train`: {file} holds no config; give one of a run's checkpoints."
        )
    return content


def load_networks(path: str | Path, step: int | None = None, ema: bool = True) -> Networks:
    """The networks of a run or of one checkpoint file.

    Args:
        path: a run directory or a .ckpt file.
        step: which checkpoint of the run; None for the last.
        ema: the averaged generator, or else the one that was trained.

    Raises:
        UserError: no such run or checkpoint, or it is damaged.
    """
    is_file = Path(path).suffix == ".ckpt"
    if is_file and step is not None:
        raise UserError(f"a checkpoint file has a step of its own: got {path} and step {step}; give its run instead.")
    file = Path(path) if is_file else find_checkpoint(RunDir.open(path), step)
    content = read_checkpoint(file)
    try:
        networks = build_networks(content["config"]["model"], content["image_size"], content["channels"])
    except UnknownNameError as error:
        raise UserError(f"{file}: {error} If it is your own, give --import with its module.") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"a checkpoint's config must be of this version: {file}: {error}; train it again.") from None
    generator, discriminator = networks
    prefixes: dict[nn.Module, str] = {
        generator: "ema.module." if ema else "generator.",
        discriminator: "discriminator.",
    }
    for network, prefix in prefixes.items():
        state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).split("\n")[-1].strip()
            raise UserError(f"a checkpoint must fit its config: {file}: {first[:160]}; use another one.") from None
        network.eval()
    return Networks(generator, discriminator, content["step"], content["config"])


def find_checkpoint(run: RunDir, step: int | None = None) -> Path:
    """The run's checkpoint of `step`, or its last one. Raises UserError if there is none."""
    saved = run.checkpoints()
    if step is not None and step not in saved:
        raise UserError(f"{run.path} has no checkpoint of step {step}: it has {', '.join(map(str, saved)) or 'none'}.")
    if not saved:
        state = run.status()["state"]
        raise UserError(f"{run.path} has no checkpoint: it is {state}; train one with --checkpoint_every above 0.")
    return saved[max(saved) if step is None else step]
