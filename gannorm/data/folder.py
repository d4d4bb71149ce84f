"""A tree of image files as a data set: which files belong to it, which are held out, and what their classes are.

Files: every file at any depth whose suffix is in `tree.SUFFIXES`, in any capitals, except hidden ones (.name).
Symbolic links are followed inside the tree; one that leads out of it counts as a bad file unless `follow_links`. Every
file that is not used is counted in a warning, by reason and suffix.

Splits, the first rule that fits:
    1. a folder of TRAIN beside one of HELD_OUT, in any capitals, at the top of the tree or one folder deeper (below a
       folder that wraps everything, or below each class). Images elsewhere are left out;
    2. otherwise one file in five is held out, chosen by a hash of its name, so that a new file does not move the
       others. Exact copies of an image go where the first of them goes, by name.

Classes: the folders directly below the deepest folder that holds all images (the split's folder not counted), where
there are at least two and no image lies beside them.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import ImageColor

from gannorm.data.cache import decoded
from gannorm.data.decoding import Form
from gannorm.data.images import Images
from gannorm.data.left_out import NAMED, counted, report_bad
from gannorm.data.tree import Tree, files_of
from gannorm.errors import UserError, require_positive

TRAIN = ("train", "training")  # of several the first is used
HELD_OUT = ("test", "testing", "val", "valid", "validation", "dev", "eval")
ALL = "all"


def read_folder(
    root: str | os.PathLike[str],
    split: str,
    *,
    image_size: int,
    skip_bad: bool = False,
    enlarge: bool = False,
    background: str = "black",
    follow_links: bool = False,
) -> Images:
    """One split of a tree of images, decoded once into the cache.

    Args:
        root: the tree.
        split: "train", "test", or "all" for every image of the tree, whatever its folder.
        image_size: pixels a side.
        skip_bad: leave bad files out, with a warning, instead of stopping.
        enlarge: images smaller than image_size are enlarged; otherwise they are bad files.
        background: the colour under transparent pixels: a name ("white") or "#rrggbb".
        follow_links: also links that lead out of the tree.

    Returns:
        Images of 3 channels; `labels` is None without class folders.

    Raises:
        UserError: no folder, no images in it or in the split, or bad ones.

    Warns:
        UserWarning: files that are left out; held-out images that are exact copies of training images, where folders
            make the split; classes with images on one side of the split alone; class folders with the names of splits.
    """
    require_positive(image_size=image_size)
    if split not in ("train", "test", ALL):
        raise UserError(f"`split` must be train, test or {ALL}: got {split!r}.")
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise UserError(
            f"`background` must be a colour: got {background!r}; give a name such as white, or #rrggbb."
        ) from None
    root = Path(root)
    tree = files_of(root, follow_links)
    plan = _everything(tree.images) if split == ALL else _by_folders(tree.images) or _by_hash(tree.images)
    left_out = tree.left_out | plan.left_out
    if left_out:
        warnings.warn(f"{root}: {counted(left_out)}.", stacklevel=2)
    for warning in filter(None, (plan.warning, plan.one_sided())):
        warnings.warn(f"{root}: {warning}", stacklevel=2)
    own = [name for name, part in plan.parts.items() if part == split]
    if not own:
        raise _no_images(root, tree, split)
    part = decoded(root, plan.parts, split, Form(image_size, enlarge, background), together=plan.by_hash)
    report_bad(root, tree.bad | part.bad, len(own) + len(tree.bad), skip_bad)
    if not part.names:
        raise _no_images(root, tree, split, ", or copies of images that are not" if plan.by_hash else "")
    if part.copies and split == "test":
        warnings.warn(
            f"{root}: {part.copies} of {len(part.names)} held-out images are exact duplicates of training images, "
            "which flatters every held-out score; remove them from one of the two folders.",
            stacklevel=2,
        )
    classes = plan.classes()
    number = {folder: k for k, folder in enumerate(classes)}
    labels = torch.tensor([number[plan.class_folder(name)] for name in part.names]) if classes else None
    note = f"{part.transparent} with transparency composed on {background}" if part.transparent else ""
    return Images(part.pixels, labels, classes, "folder", split, split_rule=plan.rule, note=note)


def _no_images(root: Path, tree: Tree, split: str, why: str = "") -> UserError:
    return UserError(
        f"a folder must leave images for training and for testing: {root} has {len(tree.images)}, none of them in the "
        f"{split} split{why}; add images, or sort them into folders train and test."
    )


# -- splits and classes -----------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """How the images of a tree are split."""

    rule: str
    parts: dict[str, str]  # image → "train" or "test"
    inner: dict[str, str]  # image → its name without the split's folder
    left_out: dict[str, str]  # images in neither → the reason
    by_hash: bool = False
    warning: str = ""

    def __post_init__(self) -> None:
        self._common = os.path.commonpath([os.path.dirname(name) for name in self.inner.values()])

    def class_folder(self, image: str) -> str:
        """The folder that would be its class, or "" for an image that lies beside such folders."""
        folder, separator, _ = self.inner[image][len(self._common) :].lstrip(os.sep).partition(os.sep)
        return folder if separator else ""

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, of both splits, so that labels agree; () if the folders are no classes."""
        folders = {self.class_folder(image) for image in self.parts}
        return tuple(sorted(folders)) if len(folders) > 1 and "" not in folders else ()

    def one_sided(self) -> str:
        """A warning about classes with images on one side of the split alone; "" if there are none."""
        if not self.classes():
            return ""
        sides = {
            split: {self.class_folder(n) for n, s in self.parts.items() if s == split} for split in ("train", "test")
        }
        lines = []
        for name, own, other in (("training", "train", "test"), ("held-out", "test", "train")):
            if sides[other] and (alone := sorted(sides[own] - sides[other])):
                more = ", …" if len(alone) > NAMED else ""
                lines.append(f"{', '.join(map(repr, alone[:NAMED]))}{more} with {name} images alone")
        return f"classes on one side of the split: {'; '.join(lines)}." if lines else ""


def _everything(images: list[str]) -> _Plan:
    by_folders = _by_folders(images)
    inner = {name: name for name in images} | (by_folders.inner if by_folders else {})
    return _Plan("no split", dict.fromkeys(images, ALL), inner, {})


def _by_folders(images: list[str]) -> _Plan | None:
    """Rule 1, at the top or one folder deeper."""
    for depth in (0, 1):
        below: dict[str, set[str]] = {}  # a folder at this depth → the folders directly below it
        for name in images:
            path = name.split(os.sep)
            if len(path) > depth + 1:
                below.setdefault(os.sep.join(path[:depth]), set()).add(path[depth])
        splits = {folder: pair for folder, names in below.items() if (pair := _pair(names))}
        if splits:
            return _split_by(images, depth, splits)
    return None


def _pair(names: set[str]) -> dict[str, str] | None:
    """Folder → split, for the folders among `names` that make one; None without both."""
    pair = {}
    for split, usual in (("train", TRAIN), ("test", HELD_OUT)):
        for word in usual:
            same = [name for name in names if name.lower() == word]  # Train and train are one
            if same:
                pair.update(dict.fromkeys(same, split))
                break
        else:
            return None
    return pair


def _split_by(images: list[str], depth: int, splits: dict[str, dict[str, str]]) -> _Plan:
    parts, inner, left_out = {}, {}, {}
    used: dict[str, str] = {}
    for name in images:
        path = name.split(os.sep)
        pair = splits.get(os.sep.join(path[:depth]), {})
        if len(path) > depth + 1 and path[depth] in pair:
            parts[name] = used[path[depth]] = pair[path[depth]]
            inner[name] = os.path.join(*path[:depth], *path[depth + 1 :])
        else:
            left_out[name] = "outside the folders of the split"
    train, test = ("/".join(sorted(f for f, split in used.items() if split == s)) for s in ("train", "test"))
    where = ", one folder deep" if depth else ""
    return _Plan(f"by the folders {train} and {test}{where}", parts, inner, left_out)


def _by_hash(images: list[str]) -> _Plan:
    """Rule 2."""
    parts = {}
    for name in images:
        hashed = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "little")
        parts[name] = "test" if hashed % 5 == 0 else "train"
    rule = "one file in five is held out, by a hash of its name"
    plan = _Plan(rule, parts, {name: name for name in images}, {}, by_hash=True)
    alike = sorted({folder for folder in map(plan.class_folder, images) if _looks_like_a_split(folder)})
    if alike:
        plan.warning = (
            f"the folders {', '.join(map(repr, alike))} are named like splits, but {rule}, whatever its folder; call "
            "them train and test, at most one folder deep, to make them the split; ignore this if they are classes."
        )
    return plan


def _looks_like_a_split(folder: str) -> bool:
    """Whether a word of the name is one: train2017, seg_test, ValImages, testset."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", folder)
    return any(word.lower().removesuffix("set") in (*TRAIN, *HELD_OUT) for word in words)
