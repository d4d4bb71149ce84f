"""Real or generated images from tensors, arrays, folders, or data sets by name → uint8.

N images, C channels, H W pixels
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gannorm.data import DATASETS, Images, load_images, to_uint8
from gannorm.data.folder import ALL, read_folder
from gannorm.data.tree import SUFFIXES
from gannorm.errors import UserError
from gannorm.evaluation.generators import Range, on_signed_range, warn_of_no_picture
from gannorm.registry import choices

ENOUGH = 5000  # held-out images that suffice for a reference: with fewer, FID's bias is too large
RANGES = "real_range=(-1, 1) or (0, 1)"


@dataclass(frozen=True)
class Real:
    """The real images, and those that an in-domain extractor learns from: the training split where there is one."""

    images: Images
    training: Images


def real_images(
    real: Any,
    *,
    shape: tuple[int, ...],
    value_range: Range | None = None,
    labels: Any = None,
    split: str | None = None,
    root: str | os.PathLike[str] = "data",
) -> Real:
    """The real images of an evaluation.

    Args:
        real: Images; a tensor or NumPy array, uint8 or floats on `value_range`, (N, C, H, W), (N, H, W, C) or
            (N, H, W); the path of a folder of images; or the name of a data set.
        shape: (C, H, W) of the generated images: folders and data sets are read at that size.
        value_range: what black and white are in a tensor or array of floats.
        labels: (N,) classes of a tensor's or array's images, as whole numbers from 0; None without.
        split: "train" or "test" of a data set by name, or of a folder; by default of a data set the held-out one where
            it has at least `ENOUGH` images and else the training split, and all images of a folder.
        root: the folder of a data set's files.

    Raises:
        UserError: images that cannot be read as one of these.
    """
    if isinstance(real, Images):
        return Real(real, real)
    if isinstance(real, Tensor | np.ndarray):
        pixels = pixels_of(real, value_range, "real images", RANGES)
        warn_of_no_picture(pixels[:64], "real")
        images = Images(pixels, *_labelled(labels, len(pixels)), "your images", "all")
        return Real(images, images)
    if not isinstance(real, str | os.PathLike):
        raise UserError(
            "the real images must be Images, a tensor, a NumPy array, a folder or the name of a data set: got "
            f"{type(real).__name__}."
        )
    if split not in (None, "train", "test"):
        raise UserError(f"split must be train or test: got {split!r}.")
    size = min(shape[-2:])
    if isinstance(real, str) and real in DATASETS and real != "folder":
        train, test = (load_images(real, part, image_size=size, root=root) for part in ("train", "test"))
        return Real(reference_split({"train": train, "test": test}, split), train)
    folder = Path(real).expanduser()
    if not folder.is_dir():
        hint = "" if os.sep in str(real) else f"; {choices(str(real), [n for n in DATASETS if n != 'folder'])}"
        raise UserError(f"the real images must be a folder or the name of a data set: {real} is neither{hint}")
    return _folder(folder, split, shape[0], size)


def reference_split(splits: Mapping[str, Images], wanted: str | None) -> Images:
    """The split to score against: the wanted one, or the held-out one if it is large enough."""
    if wanted is None:
        wanted = "test" if len(splits["test"]) >= ENOUGH else "train"
    return splits[wanted]


def given_images(fakes: Any, value_range: Range | None = None) -> Tensor:
    """Images in place of a generator, as uint8 (N, C, H, W).

    Args:
        fakes: Images; a tensor or NumPy array as in `real_images`; or the path of a folder, of which every image file
            counts, in the order of the numbers in their names, at the size of the first.
        value_range: what black and white are in floats.
    """
    if isinstance(fakes, Images):
        return fakes.pixels
    if isinstance(fakes, Tensor | np.ndarray):
        return pixels_of(fakes, value_range, "images in place of a generator", "fake_range=(-1, 1) or (0, 1)")
    root = Path(fakes).expanduser()
    names = _files(root)
    pixels = read_folder(root, ALL, image_size=_size_of(root, names)).pixels
    if len(pixels) != len(names):  # links that lead to further folders: their names are not known here
        return pixels
    return pixels[sorted(range(len(names)), key=lambda i: _natural(names[i]))]


def is_given(fakes: Any) -> bool:
    """Whether these are images or a folder of images, and not a generator."""
    return isinstance(fakes, Images | Tensor | np.ndarray | str | os.PathLike)


def pixels_of(images: Tensor | np.ndarray, value_range: Range | None, what: str, remedy: str) -> Tensor:
    """A tensor or array as uint8 (N, C, H, W): bytes as they are, floats by the stated range, channels first."""
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    tensor = _channels_first(tensor.detach().cpu(), what)
    if tensor.dtype == torch.uint8:
        return tensor.contiguous()
    if not len(tensor):
        raise UserError(f"{what} must be some: got none, the shape {tuple(tensor.shape)}.")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise UserError(f"{what} must be bytes or floating-point numbers: got {tensor.dtype}; convert them.")
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.int64)  # torch has no least and greatest of uint16
        least, most = (int(value) for value in tensor.aminmax())
        if not 0 <= least <= most <= 255:
            raise UserError(f"whole numbers as {what} must lie in 0…255: got {least} to {most}.")
        return tensor.to(torch.uint8).contiguous()
    if value_range is None:
        raise UserError(f"{what} of floating-point numbers need their range: got none; state {remedy}.")
    low, high = (value.item() for value in tensor.aminmax())
    black, white = value_range
    if not (black < white and black <= low <= high <= white):
        raise UserError(
            f"{what} must lie in their stated range, {black:g} to {white:g}: got values from {low:.4g} to {high:.4g}; "
            f"state {remedy}."
        )
    return to_uint8(on_signed_range(tensor, (float(black), float(white)))).contiguous()


def grey_if(pixels: Tensor, channels: int) -> Tensor:
    """One channel of three equal ones where one is wanted, as in grey images from files."""
    if channels == 1 and pixels.shape[1] == 3 and all(torch.equal(pixels[:, 0], pixels[:, c]) for c in (1, 2)):
        return pixels[:, :1].contiguous()
    return pixels


def _channels_first(tensor: Tensor, what: str) -> Tensor:
    if tensor.dim() == 3:
        tensor = tensor[:, None]
    if tensor.dim() != 4:
        raise UserError(f"{what} must be (N, C, H, W), (N, H, W, C) or (N, H, W): got {tuple(tensor.shape)}.")
    if tensor.shape[1] not in (1, 3) and tensor.shape[3] in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.shape[1] not in (1, 3):
        raise UserError(f"{what} must have one channel or three: got the shape {tuple(tensor.shape)}.")
    return tensor


def _labelled(labels: Any, count: int) -> tuple[Tensor | None, tuple[str, ...]]:
    if labels is None:
        return None, ()
    try:
        labels = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # names, for example
        raise UserError(
            f"real_labels must be one whole number from 0 for each of the {count} images: {error}; number the classes."
        ) from None
    if labels.shape != (count,) or labels.is_floating_point() or int(labels.min()) < 0:
        raise UserError(
            f"real_labels must be one whole number from 0 for each of the {count} images: got {labels.dtype} "
            f"{tuple(labels.shape)}."
        )
    return labels.to(torch.int64), tuple(str(label) for label in range(int(labels.max()) + 1))


def _folder(folder: Path, split: str | None, channels: int, size: int) -> Real:
    """A folder's split, or all of its images."""

    def read(part: str) -> Images:
        images = read_folder(folder, part, image_size=size)
        return replace(images, pixels=grey_if(images.pixels, channels), name=folder.name or "folder")

    images = read(split or ALL)
    return Real(images, read("train") if split == "test" else images)


def _files(root: Path) -> list[str]:
    """Image files at any depth, in the order of `read_folder`."""
    names = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, files in os.walk(root)
        for name in files
        if name.lower().endswith(SUFFIXES)
    ]
    visible = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    if not visible:
        what = "holds none" if root.is_dir() else "is no folder"
        raise UserError(f"a folder of images must hold some ({' '.join(SUFFIXES)}): {root} {what}.")
    return sorted(visible)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _size_of(root: Path, names: list[str]) -> int:
    """The shorter side of the first readable image."""
    from PIL import Image

    for name in names:
        try:
            with Image.open(root / name) as image:
                return min(image.size)
        except OSError:
            continue
    raise UserError(f"images in place of a generator must be readable: none of the {len(names)} in {root} is.")
