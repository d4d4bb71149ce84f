"""A tree of image files as a data set: which files belong to it, which are held out, and what their classes are.

Files: every .png .jpg .jpeg .bmp .webp .gif .tif .tiff .ppm .pgm at any depth, except hidden ones (.name). A symbolic
link that leads out of the tree counts as a bad file; one to a folder inside it is not followed, since that folder's
images are in the tree already.

Splits: the folders `train` and `test` (or else `val`, `valid`, `validation`) where both exist, and then nothing else;
otherwise one file in five is held out, chosen by a hash of its name, so that a new file does not move the others.

Classes: the first-level folders (below the split's folder), where there are at least two and no image lies beside them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from gannorm.data.cache import decoded, report_bad
from gannorm.data.images import Images
from gannorm.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HELD_OUT = ("test", "val", "valid", "validation")


def read_folder(root: Path, split: str, *, image_size: int, skip_bad: bool = False) -> Images:
    """One split of a tree of images, decoded once into the cache.

    Args:
        root: the tree.
        split: "train" or "test".
        image_size: pixels a side.
        skip_bad: leave bad files out, with a warning, instead of stopping.

    Returns:
        Images of 3 channels; `labels` is None without class folders.

    Raises:
        UserError: no folder, no images in it or in the split, or bad ones.
    """
    names, links = _tree(root)
    splits = _splits(names)
    if not splits[split]:
        raise UserError(
            f"a folder must leave images for training and for testing: {root} has {len(names)}, none of them in the "
            f"{split} split; add images, or sort them into folders train and test."
        )
    pixels, bad = decoded(root, list(splits[split].values()), image_size, split)
    report_bad(root, links | bad, len(splits[split]) + len(links), skip_bad)
    classes = _classes([name for part in splits.values() for name in part])
    kept = [inner for inner, name in splits[split].items() if name not in bad]
    labels = torch.tensor([classes.index(_first(inner)) for inner in kept]) if classes else None
    return Images(pixels, labels, classes, "folder", split)


def _tree(root: Path) -> tuple[list[str], dict[str, str]]:
    """The image files below root, sorted, relative to it; and the links and special files that are refused."""
    names, refused, folders = [], {}, [""]
    try:
        while folders:
            folder = folders.pop()
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = os.path.join(folder, entry.name)
                    image = entry.name.lower().endswith(SUFFIXES)
                    if entry.name.startswith("."):
                        continue
                    link = entry.is_symlink()
                    # os.path, unlike the entry itself, raises nothing at a link that leads to itself.
                    folder_behind = link and os.path.isdir(entry.path)
                    if link and (image or folder_behind) and not _inside(entry.path, root):
                        refused[name] = "a link that leads out of the folder"
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif image and (os.path.isfile(entry.path) if link else entry.is_file()):
                        names.append(name)
                    elif image and not folder_behind:
                        refused[name] = "not a regular file"
    except OSError as error:
        raise UserError(
            f"a folder of images must be readable: {error.filename} gave {error.strerror}; name yours with --data.root."
        ) from None
    if not names and not refused:
        raise UserError(f"a folder must hold images ({' '.join(SUFFIXES)}): {root} holds none; choose another.")
    return sorted(names), dict(sorted(refused.items()))


def _inside(link: str, root: Path) -> bool:
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(root))


def _splits(names: list[str]) -> dict[str, dict[str, str]]:
    """split → {name inside the split's folder: name inside the tree}."""
    tops = {_first(name) for name in names if os.sep in name}
    held_out = next((top for top in HELD_OUT if top in tops), None)
    if "train" in tops and held_out:
        tops_of = {"train": "train" + os.sep, "test": held_out + os.sep}
        return {s: {n.removeprefix(top): n for n in names if n.startswith(top)} for s, top in tops_of.items()}
    parts: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    for name in names:
        hashed = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "little")
        parts["test" if hashed % 5 == 0 else "train"][name] = name
    return parts


def _classes(names: list[str]) -> tuple[str, ...]:
    """The first-level folders, or () if they are no classes. `names` are of both splits, so that labels agree."""
    firsts = sorted({_first(name) for name in names})
    return tuple(firsts) if len(firsts) > 1 and all(os.sep in name for name in names) else ()


def _first(name: str) -> str:
    return name.split(os.sep)[0]
