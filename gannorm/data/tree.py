"""The files of a tree of images: which are images, which are bad, and which are left out.

Symbolic links are followed inside the tree; one that leads out of it is a bad file unless links are followed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gannorm.data.left_out import LINK, counted, remedies
from gannorm.errors import UserError

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".bmp", ".dib"),
    *(".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)


@dataclass
class Tree:
    """The content of a folder, by name relative to it."""

    images: list[str]  # sorted
    bad: dict[str, str]  # named as images, or folders, that cannot be opened → the reason
    left_out: dict[str, str]  # not meant as images here → the reason


def files_of(root: Path, follow_links: bool) -> Tree:
    """Every file of a folder, at any depth.

    Raises:
        UserError: the folder cannot be read, or holds no image.
    """
    real_root = os.path.realpath(root)
    tree = Tree([], {}, {})
    folders: list[tuple[str, tuple[str, ...]]] = [("", (real_root,))]  # name; where it and those above it really are
    try:
        while folders:
            folder, above = folders.pop()
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = os.path.join(folder, entry.name)
                    image, link = entry.name.lower().endswith(SUFFIXES), entry.is_symlink()
                    # Of a link, os.path, unlike the entry, raises nothing where it leads to itself.
                    is_folder = os.path.isdir(entry.path) if link else entry.is_dir()
                    is_file = os.path.isfile(entry.path) if link else entry.is_file()
                    real = os.path.realpath(entry.path) if link else f"{above[-1]}{os.sep}{entry.name}"
                    if entry.name.startswith("."):
                        tree.left_out[name] = "hidden"
                    elif not image and not is_folder:
                        tree.left_out[name] = "no image suffix"
                    elif link and not follow_links and not Path(real).is_relative_to(real_root):
                        tree.bad[name] = LINK
                    elif real in above:
                        tree.left_out[name] = "a link to a folder that it lies in"
                    elif is_folder:
                        folders.append((name, (*above, real)))
                    elif is_file:
                        tree.images.append(name)
                    else:
                        tree.bad[name] = "not a regular file"
    except OSError as error:
        raise UserError(
            f"a folder of images must be readable: {error.filename} gave {error.strerror}; name yours with --data.root."
        ) from None
    if not tree.images:
        unused = tree.bad | tree.left_out
        reasons = f": {counted(unused)}" if unused else ""
        choices = [*remedies(tree.bad), "choose another with --data.root"]
        raise UserError(
            f"a folder must hold images ({' '.join(SUFFIXES)}): {root} holds none{reasons}; {', or '.join(choices)}."
        )
    return Tree(sorted(tree.images), dict(sorted(tree.bad.items())), dict(sorted(tree.left_out.items())))
