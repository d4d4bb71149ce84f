"""Third-party networks and inputs, from the command line: `--module`, `--weights` and `--input`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from gannorm.commands.inputs.arguments import import_module, raised
from gannorm.commands.inputs.weights import load_weights
from gannorm.errors import UserError, out_of_memory
from gannorm.models.checkpoint import refusal
from gannorm.probes.batch import batch_size_of, map_tensors, running, take
from gannorm.rundir import parse_yaml
from gannorm.seeds import stream

SHAPE = r"[(\[]? *[1-9]\d*( *[xX×*, ] *[1-9]\d*)* *,?[)\]]?"  # 3x32x32, 3,32,32 and (3, 32, 32) are one


def shape_of(text: str) -> tuple[int, ...] | None:
    """The shape that a person writes, without the batch; None if this is none.

    >>> shape_of("3x32x32"), shape_of("(3, 32, 32)"), shape_of("d.npy"), shape_of("0x3")
    ((3, 32, 32), (3, 32, 32), None, None)
    """
    return tuple(map(int, re.findall(r"\d+", text))) if re.fullmatch(SHAPE, text) else None


def load_module(spec: str, args: str = "", weights: str = "", weights_key: str = "") -> tuple[nn.Module, str]:
    """Make the module that a person names, with the weights of a file, all of them or none.

    Args:
        spec: "package.module:Class", or "path/to/file.py:factory"; anything that makes an nn.Module, or is one.
        args: YAML of its arguments: a mapping of keywords or a list.
        weights: a file of torch.save; nothing in it is executed. "": the module keeps its own, random weights.
        weights_key: where in the file's content the weights are, if it holds more: a key, keys joined by dots, or the
            prefix of a Lightning module's attribute. "": the only place that fits.

    Returns:
        The module, and a remark for a person: which weights it has, and which prefixes were taken off their names.

    Raises:
        UserError: the module does not exist, cannot be made or is no nn.Module, or the weights do not fit it.
    """
    module = _made(spec, args)
    if not weights:
        if weights_key:
            raise UserError("`--weights_key` belongs to --weights: got no file; give one.")
        return module, "random weights: --weights FILE loads trained ones"
    return module, load_weights(module, Path(weights), weights_key)


def _made(spec: str, args: str) -> nn.Module:
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise UserError(
            f"`--module` must be package.module:Class or file.py:Class: got {spec!r}; give for example nets.py:Critic."
        )
    made = getattr(_imported(place), attribute, None)
    if made is None:
        raise UserError(f"`--module` must name something in its module: {place} has no {attribute!r}.")
    positional, keywords = _arguments(args)
    if not isinstance(made, nn.Module) or args:
        try:
            made = made(*positional, **keywords)
        except Exception as error:
            if out_of_memory(error):
                raise
            what = raised(error)
            by_the_call = what.startswith("TypeError")  # raised by the call itself, not by a line of the module
            hint = "; give what it needs, for example --args '{width: 64}'" if by_the_call else ""
            how = f"with --args '{args}'" if args else "without arguments"
            raise UserError(f"`--module` must be callable {how}: {spec}: {what}{hint}.") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"`--module` must make a torch.nn.Module: {spec} made {type(made).__name__}.")
    return made


def _imported(place: str) -> Any:
    """A module by its name, or by the path of its file, whose folder it may import from."""
    if not place.endswith(".py"):
        return import_module(place)
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"`--module` must name a file that is there: {place} is not.")
    name = file.stem if file.stem not in sys.modules else f"{file.stem} of {file.parent}"  # a test.py, a types.py
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"a module to import must run without an error: {place}: {raised(error)}") from error
    return module


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    if not text:
        return [], {}
    try:
        content = parse_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"`--args` must be YAML: {text!r}: {str(error).splitlines()[0]}.") from None
    if isinstance(content, dict) and all(isinstance(key, str) for key in content):
        return [], content
    if isinstance(content, list):
        return content, {}
    raise UserError(f"`--args` must be a mapping or a list, such as '{{width: 64}}' or '[64]': got {text!r}.")


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
    if shape := shape_of(source):
        x: Any = torch.randn(2 * images, *shape, generator=stream(seed, "input"))
    else:
        x = _read(Path(source))
    x = _in_precision_of(f, x)
    if images < 2:
        raise UserError(f"`images`, of each half, must be at least 2: got {images}.")
    count = min(batch_size_of(x) // 2, images)
    if count < 2:
        raise UserError(f"`--input` must hold at least four samples: got {batch_size_of(x)} in {source}.")
    halves = take(x, torch.arange(count)), take(x, torch.arange(count, 2 * count))
    _require_taken(f, x, min(batch_size, count))
    return halves


def load_folders(
    real: str, fake: str, source: str, f: nn.Module, images: int, batch_size: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and fake images of two folders for `f`, drawn by the seed: float (N, C, H, W) in [−1, 1].

    Args:
        real, fake: folders of image files at any depth, whatever their splits.
        source: the shape that `f` takes, such as "1x28x28"; "": colour, at the size of the fakes.
        f, images, batch_size, seed: as in `load_halves`; as many of both as the smaller folder has.

    Raises:
        UserError: an unreadable folder, one with fewer than two images, or a module that does not take them.
    """
    from gannorm.data.folder import ALL, read_folder
    from gannorm.data.images import Images
    from gannorm.evaluation.inputs import given_images, grey_if

    shape = shape_of(source) if source else tuple(given_images(Path(fake)).shape[1:])
    if shape is None or len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise UserError(
            f"`--input` beside --real and --fake must be the shape of square images: got {source!r}; give 3x32x32."
        )

    def read(folder: str) -> Images:
        there = read_folder(Path(folder).expanduser(), ALL, image_size=shape[1])
        pixels = grey_if(there.pixels, shape[0])
        if pixels.shape[1] != shape[0]:
            raise UserError(
                f"`--input` asks for grey images: those of {folder} have colours; give 3x{shape[1]}x{shape[2]}."
            )
        return Images(pixels, None, (), folder, ALL)

    both = read(real), read(fake)
    count = min(images, *map(len, both))
    if count < 2:
        raise UserError(
            f"`--real` and `--fake` must hold at least two images each: got {len(both[0])}, {len(both[1])}."
        )
    halves = (_in_precision_of(f, both[0].take(count, seed)), _in_precision_of(f, both[1].take(count, seed)))
    _require_taken(f, halves[0], min(batch_size, count))
    return halves


def _in_precision_of(f: nn.Module, x: Any) -> Any:
    parameter = next(iter(f.parameters()), None)
    if parameter is None:
        return x
    return map_tensors(lambda t: t.to(parameter.dtype) if t.is_floating_point() else t, x)


def _require_taken(f: nn.Module, x: Any, count: int) -> None:
    try:
        with running(f, x) as run, torch.no_grad():
            run(take(x, torch.arange(count)))
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = raised(error).split("\n")[0][:240]
        shape = "x".join(map(str, x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__
        raise UserError(f"`--module` must take the input: {type(f).__name__} on {shape} gave: {reason}") from error


def load_labelled(source: str, labels_file: str, f: nn.Module) -> tuple[Any, torch.Tensor]:
    """The samples of a file, as `load_halves` reads it, and a label for each.

    Raises:
        UserError: an unreadable file, or labels that are not one integer per sample.
    """
    x = _read(Path(source))
    parameter = next(iter(f.parameters()), None)
    if parameter is not None:
        x = map_tensors(lambda t: t.to(parameter.dtype) if t.is_floating_point() else t, x)
    labels, n = _read(Path(labels_file), "--labels"), batch_size_of(x)
    if not isinstance(labels, torch.Tensor) or labels.shape != (n,) or labels.is_floating_point():
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise UserError(f"`--labels` must hold one integer for each of {n} samples: got {got} in {labels_file}.")
    return x, labels


def _read(path: Path, flag: str = "--input") -> Any:
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".pt":
            return torch.load(path, weights_only=True)
    except Exception as error:
        raise UserError(f"`{flag}` must be a readable array: {path}: {refusal(error).rstrip('.')}.") from None
    shape = "a shape such as 3x32x32, or " if flag == "--input" else ""
    raise UserError(f"`{flag}` must be {shape}an .npy or .pt file: got {str(path)!r}.")
