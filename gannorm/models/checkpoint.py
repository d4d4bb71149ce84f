"""Load networks from a run's checkpoints."""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gannorm.config import GANModel, TrainConfig
from gannorm.errors import UserError
from gannorm.models.build import Discriminators, Generators, build_networks
from gannorm.registry import UnknownNameError
from gannorm.rundir import RunDir, check_version


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
    config: TrainConfig


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's content, as plain data and tensors: nothing in the file is ever executed.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of this program or of a newer one, or holds more than
            data.
    """
    try:
        file.open("rb").close()
    except OSError as error:
        raise UserError(f"a checkpoint must be readable: {file}: {error.strerror}; give another file.") from None
    problem = damage(file)
    try:
        content = None if problem else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever a damaged byte leads it to
        problem = refusal(error)
    if problem:
        raise UserError(f"a checkpoint must be whole and hold only weights: {file}: {problem}; use an earlier one.")
    if not isinstance(content, dict) or not all(_is_mapping(content.get(key)) for key in ("config", "state_dict")):
        raise UserError(
            f"a checkpoint must come from `gannorm train`: {file} holds no config; give one of a run's checkpoints."
        )
    check_version(content, file)
    return content


def _is_mapping(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(key, str) for key in content)


def refusal(error: Exception) -> str:
    """The reason why torch.load refused a file, in one line, without torch's advice to allow it."""
    text = str(error)
    if called := re.search(r"GLOBAL (\S+)", text):
        return f"it would run {called[1]}"
    error_line = re.search(r"WeightsUnpickler error: *(.+)", text)
    line = error_line[1] if error_line else text.split("\n")[0]
    return line[:160] or type(error).__name__


def damage(file: Path) -> str:
    """The damage in a checkpoint's bytes; "" for none.

    The file is a zip archive, in which torch.save keeps a CRC-32 of every record: of each tensor, and of what holds
    them together. torch.load does not look at them, so that a flipped bit would become a weight.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            # What torch.save never writes: compressed records, which could unpack to any size, and attributes, with
            # which torch.load would treat a record as a folder and leave its tensor uninitialized.
            if any(record.compress_type or record.external_attr for record in archive.infolist()):
                return "its directory of records is not one that torch.save writes"
            record = archive.testzip()
    except Exception as error:  # zipfile raises whatever a damaged byte leads it to
        return f"{type(error).__name__}: {error}"
    return f"the record {record} does not have its checksum" if record else ""


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
    config = _config(content, file)
    if not isinstance(config.model, GANModel):
        raise UserError(f"the checkpoint must be a GAN's: {file} holds a classifier; give a GAN's run.")
    try:
        networks = build_networks(config.model, content["image_size"], content["channels"])
    except UnknownNameError as error:
        raise UserError(f"{file}: {error} If it is your own, give --import with its module.") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"a checkpoint must be of this version: {file}: {error}; train it again.") from None
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
    return Networks(generator, discriminator, content["step"], config)


def _config(content: dict[str, Any], file: Path) -> TrainConfig:
    try:
        return TrainConfig.from_dict(content["config"])
    except UserError as error:
        raise UserError(f"a checkpoint's config must be of this version: {file}: {error} Train it again.") from None


def find_checkpoint(run: RunDir, step: int | None = None) -> Path:
    """The run's checkpoint of `step`, or the last undamaged one, with a warning about each later one.

    Raises:
        UserError: there is none.
    """
    saved = run.checkpoints()
    if step is not None and step not in saved:
        raise UserError(f"{run.path} has no checkpoint of step {step}: it has {', '.join(map(str, saved)) or 'none'}.")
    if not saved:
        state = run.status()["state"]
        raise UserError(f"{run.path} has no checkpoint: it is {state}; train one with --checkpoint_every above 0.")
    if step is not None:
        return saved[step]
    damaged: list[str] = []
    for file in reversed(saved.values()):
        if not (problem := damage(file)):
            for line in damaged:
                warnings.warn(f"{line}; {file.name} is used instead.", stacklevel=2)
            return file
        damaged.append(f"{file} is damaged ({problem})")
    raise UserError(
        f"a run must have an undamaged checkpoint: {damaged[0]}, and there is no other; train the run again."
    )
