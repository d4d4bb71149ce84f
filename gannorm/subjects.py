"""What `gannorm probe --module` measures: anybody's network on anybody's input, with errors for people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gannorm.arguments import import_module, raised
from gannorm.errors import UserError, out_of_memory
from gannorm.models.checkpoint import refusal
from gannorm.probes.batch import batch_size_of, map_tensors, running, take
from gannorm.seeds import stream


def load_module(name: str) -> nn.Module:
    """Make the module that "package.module:Class" or "package.module:factory" names.

    Raises:
        UserError: there is no such thing, it cannot be made without arguments, or it is no torch.nn.Module.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"`--module` must be package.module:Class: got {name!r}; give for example nets:Critic.")
    made = getattr(import_module(module), attribute, None)
    if made is None:
        raise UserError(f"`--module` must name something in its module: {module} has no {attribute!r}.")
    if not isinstance(made, nn.Module):
        try:
            made = made()
        except Exception as error:
            if out_of_memory(error):
                raise
            what = raised(error)
            by_the_call = what.startswith("TypeError")  # and not by a line of theirs
            hint = "; give a factory that needs none" if by_the_call else ""
            raise UserError(f"`--module` must be callable without arguments: {name}: {what}{hint}.") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"`--module` must make a torch.nn.Module: {name} made {type(made).__name__}.")
    return made


def load_halves(source: str, f: nn.Module, images: int, batch_size: int, seed: int) -> tuple[Any, Any]:
    """Two batches for `f`: random ones of a shape such as "3x32x32", or the halves of a file's samples.

    Args:
        source: a shape without the batch, or an .npy file (an array) or .pt file (a tensor, or a tuple, list or dict of
            them), neither of which may hold code. Floating-point numbers take the type of the module's parameters.
        f: the module, called once on a batch to see that it can be.
        images: samples in each half; of a file, at most as many as it has.
        batch_size: samples in that batch, the size that will be measured: a module may take no other.
        seed: of random inputs.

    Raises:
        UserError: an unreadable source, fewer than two samples a half, or a module that does not take it.
    """
    if re.fullmatch(r"\d+(x\d+)*", source):
        x: Any = torch.randn(2 * images, *map(int, source.split("x")), generator=stream(seed, "input"))
    else:
        x = _read(Path(source))
    parameter = next(iter(f.parameters()), None)
    if parameter is not None:
        x = map_tensors(lambda t: t.to(parameter.dtype) if t.is_floating_point() else t, x)
    if images < 2:
        raise UserError(f"`images`, of each half, must be at least 2: got {images}.")
    count = min(batch_size_of(x) // 2, images)
    if count < 2:
        raise UserError(f"`--input` must hold at least four samples: got {batch_size_of(x)} in {source}.")
    halves = take(x, torch.arange(count)), take(x, torch.arange(count, 2 * count))
    try:
        with running(f, x) as run, torch.no_grad():
            run(take(x, torch.arange(min(batch_size, count))))
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = raised(error).split("\n")[0][:240]
        shape = "x".join(map(str, x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__
        raise UserError(f"`--module` must take the input: {type(f).__name__} on {shape} gave: {reason}") from error
    return halves


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".pt":
            return torch.load(path, weights_only=True)
    except Exception as error:
        raise UserError(f"`--input` must be a readable array: {path}: {refusal(error).rstrip('.')}.") from None
    raise UserError(f"`--input` must be a shape such as 3x32x32, or an .npy or .pt file: got {str(path)!r}.")
