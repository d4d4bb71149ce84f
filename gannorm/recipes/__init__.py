"""Training configs and the demo study that come with the package, by name: `gannorm train --config digits`."""

from __future__ import annotations

from pathlib import Path

from gannorm.errors import UserError
from gannorm.registry import choices

FOLDER = Path(__file__).parent
STUDY = "demo"


def locate(source: str, folder: Path = Path()) -> Path:
    """The file of a recipe (a bare name), or of whatever has a slash or a suffix, relative to `folder`.

    Raises:
        UserError: no recipe has this name; or the file is missing and a recipe has its name.
    """
    if not source:
        raise UserError(f"a config must be a recipe or a file: got nothing; choose from {', '.join(names())}.")
    if Path(source).name == source and not Path(source).suffix and source not in ("", ".", ".."):
        if source not in names():
            raise UserError(
                f"unknown recipe {source!r}: {choices(source, names())} A file is given as ./{source}, "
                "a data set by --data.name."
            )
        return FOLDER / f"{source}.yaml"
    file = folder / source
    if not file.exists() and file.stem in names():
        raise UserError(
            f"a config must be readable: {source}: No such file; {file.stem} comes with gannorm as a recipe: give its "
            f"name, {file.stem}."
        )
    return file


def names(of_runs: bool = False) -> list[str]:
    """The names of the recipes, the demo study among them, or of those alone that make one run."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml") if not (of_runs and file.stem == STUDY))
