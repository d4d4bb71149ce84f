"""Data sets by name. Each has a train and a held-out test split; `load_images` makes all of them square.

A loader takes the split, the folder and the options of `load_images` by keyword, and returns images of any size. A new
one needs one decorated function:

    @decorator(DATASETS, "mine")
    def mine(split, **_): return Images(pixels, labels, classes, "mine", split)
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gannorm.data.cache import decoded
from gannorm.data.decoding import Form
from gannorm.data.folder import read_folder
from gannorm.data.images import Images
from gannorm.data.left_out import report_bad
from gannorm.errors import UserError
from gannorm.files import lock
from gannorm.registry import Registry, decorator

Loader = Callable[..., Images]
DATASETS: Registry[Loader] = Registry("data set")
SPLITS = ("train", "test")
GREY = ("digits", "mnist", "fashion_mnist")  # one channel; every other data set has three
EMBEDDED = ("digits",)  # inside an installed package: they read no folder
ROOT = "data"  # the default of `root`


def load_images(
    name: str,
    split: str,
    *,
    image_size: int,
    root: str | os.PathLike[str] = ROOT,
    download: bool = False,
    skip_bad: bool = False,
    enlarge: bool = False,
    background: str = "black",
    follow_links: bool = False,
) -> Images:
    """Load one split of a data set as square images.

    Images that are not square lose their longer side's ends (centre crop); then all are resized to `image_size`,
    bilinearly, with antialiasing. Channels stay as they are: 1 for digits and the MNISTs, 3 elsewhere.

    Args:
        name: one of DATASETS.
        split: "train", or "test" for the held-out images.
        image_size: pixels a side, at least 1.
        root: the folder that holds torchvision's files; for `folder`, the tree of images itself.
        download: let torchvision fetch files that are missing.
        skip_bad: for data sets of image files (folder, celeba): leave out files that cannot be read or are smaller than
            `image_size`, with a warning that counts and names them.
        enlarge: for the same: enlarge images smaller than `image_size`. All images of other data sets are resized.
        background: the colour under transparent pixels, a name ("white") or "#rrggbb".
        follow_links: for folder: follow symbolic links that lead out of it.

    Returns:
        Images with C × image_size × image_size pixels.

    Raises:
        UserError: an unknown name, split or colour, a `root` for a data set that reads none, missing files, or bad
            ones without `skip_bad`.

    >>> load_images("digits", "train", image_size=16)
    Images(digits/train: 1438 x 1x16x16)
    """
    if split not in SPLITS:
        raise UserError(f"a split must be train or test: got {split!r}; choose one of them.")
    if image_size < 1:
        raise UserError(f"image_size must be at least 1: got {image_size}; choose a power of two such as 32.")
    check_source(name, root, background)
    images = DATASETS[name](
        split=split,
        image_size=image_size,
        root=Path(root).expanduser(),
        download=download,
        skip_bad=skip_bad,
        enlarge=enlarge,
        background=background,
        follow_links=follow_links,
    )
    return replace(images, pixels=_square(images.pixels, image_size), name=name, split=split)


def images_of_run(data: Mapping[str, Any], split: str) -> Images:
    """The images of a run.

    Args:
        data: the `data` keys of its config, perhaps written by an earlier version, which had fewer.
        split: "train" or "test".
    """
    keys = set(inspect.signature(load_images).parameters) - {"download"}
    options = {key: value for key, value in data.items() if key in keys}
    if options["name"] in EMBEDDED:  # earlier versions let a `root` pass that was not read
        options.pop("root", None)
    return load_images(split=split, **options)


def check_source(name: str, root: str | os.PathLike[str], background: str) -> None:
    """Check these options without reading an image.

    Raises:
        UserError: an unknown data set or colour; a folder for a data set that reads none.
    """
    DATASETS[name]  # names the choices
    if name in EMBEDDED and os.fspath(root) != ROOT:
        raise UserError(
            f"data set {name!r} is inside an installed package and reads no folder: got data.root={os.fspath(root)!r}; "
            "leave it out, or choose --data.name folder for images of your own."
        )
    from PIL import ImageColor

    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise UserError(
            f"`data.background` must be a colour such as black, white or #808080: got {background!r}."
        ) from None


@decorator(DATASETS, "digits")
def digits(split: str, **_: Any) -> Images:
    """1797 handwritten digits of 8 × 8 pixels in 17 greys, inside scikit-learn; a fixed fifth is held out."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.images))  # the legacy generator, whose stream is frozen
    chosen = order[np.arange(len(order)) % 5 == 4] if split == "test" else order[np.arange(len(order)) % 5 != 4]
    pixels = torch.from_numpy(bunch.images[chosen] * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target[chosen])
    return Images(pixels, labels, tuple("0123456789"), "digits", split, split_rule="a fixed fifth is held out")


@decorator(DATASETS, "folder")
def folder(split: str, root: Path, download: bool, **options: Any) -> Images:
    """Any tree of image files; see `gannorm.data.folder`."""
    return read_folder(root, split, **options)


# -- torchvision's data sets ------------------------------------------------------------------------------------------


OWN_SPLIT = "the data set's own"


def _labelled(name: str, cls: str, place: str, *, split: str, root: Path, download: bool, **_: Any) -> Images:
    """A torchvision data set that holds its images and labels in arrays."""
    chosen = {"split": split} if name in ("svhn", "stl10") else {"train": split == "train"}
    data = _torchvision(name, cls, root, place, download, **chosen)
    pixels = torch.as_tensor(data.data)
    if pixels.ndim == 3:  # the MNISTs: (N, H, W)
        pixels = pixels.unsqueeze(1)
    elif name.startswith("cifar"):  # (N, H, W, C)
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(data.targets if hasattr(data, "targets") else data.labels, dtype=torch.int64)
    return Images(pixels, labels, tuple(getattr(data, "classes", "0123456789")), name, split, split_rule=OWN_SPLIT)


for _name, _cls, _place in (
    ("cifar10", "CIFAR10", "cifar-10-batches-py"),  # 50,000 + 10,000 photographs of 32 × 32 (Krizhevsky 2009)
    ("cifar100", "CIFAR100", "cifar-100-python"),  # as many, of a hundred classes
    ("mnist", "MNIST", "MNIST/raw"),  # 60,000 + 10,000 handwritten digits of 28 × 28, one channel (LeCun 1998)
    ("fashion_mnist", "FashionMNIST", "FashionMNIST/raw"),  # as many pictures of clothes (Xiao 2017)
    ("svhn", "SVHN", ""),  # 73,257 + 26,032 house numbers of 32 × 32 (Netzer 2011)
    ("stl10", "STL10", "stl10_binary"),  # 5,000 + 8,000 photographs of 96 × 96, the labelled part (Coates 2011)
):
    DATASETS.register(_name, partial(_labelled, _name, _cls, _place))


@decorator(DATASETS, "celeba")
def celeba(split: str, root: Path, download: bool, image_size: int, skip_bad: bool, enlarge: bool, **_: Any) -> Images:
    """162,770 + 19,962 faces of 178 × 218 pixels, without labels (Liu 2015); decoded once, as a folder is."""
    data = _torchvision("celeba", "CelebA", root, "celeba", download, split=split)
    files = root / "celeba" / "img_align_celeba"
    part = decoded(files, dict.fromkeys(data.filename, split), split, Form(image_size, enlarge))
    report_bad(files, part.bad, len(data.filename), skip_bad)
    return Images(part.pixels, None, (), "celeba", split, split_rule=OWN_SPLIT)


def _torchvision(name: str, cls: str, root: Path, place: str, download: bool, **options: Any) -> Any:
    """Open a torchvision data set; its errors about missing, damaged and undownloadable files become one line."""
    import torchvision.datasets

    try:
        quiet = contextlib.redirect_stdout(io.StringIO())
        with _one_at_a_time(root) if download else contextlib.nullcontext(), quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about the old pickles in these files
            return getattr(torchvision.datasets, cls)(str(root), download=download, **options)
    except Exception as error:  # a missing file, a bad checksum, no network, no gdown, a damaged archive
        reason = " ".join(str(error).split()).split(" You can use download=True")[0] or type(error).__name__
        remedy = "check the network" if download else "download it with --data.download true"
        raise UserError(
            f"{name} must be complete in {root / place}: {reason.rstrip('.')}; {remedy}, or put torchvision's files "
            "there (--data.root names another folder; for images of your own choose --data.name folder)."
        ) from None


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Let one process of a run unpack an archive into `root`; the others then find its files."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".download.lock").open("w")
    except OSError:  # not writable: the files exist, or torchvision raises
        yield
        return
    with file:
        lock(file)
        yield


# -- resizing ---------------------------------------------------------------------------------------------------------


def _square(pixels: Tensor, size: int) -> Tensor:
    """Centre crop to a square, then bilinear with antialiasing; the same tensor where nothing is to do."""
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[:, :, top : top + side, left : left + side]
    if side == size:
        return pixels.contiguous()
    parts = []
    for part in pixels.split(1024):  # in floats a whole data set may not fit into memory
        resized = F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        parts.append(resized.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)
