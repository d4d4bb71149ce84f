"""Run directories as bytes, between machines that share no file system."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from gannorm.config import changed
from gannorm.errors import UserError
from gannorm.files import dump_yaml, write_text, writing
from gannorm.rundir import RunDir

PART = 16 * 2**20  # bytes that travel at once


def packed(runs: Sequence[RunDir]) -> IO[bytes]:
    """The folders and plain files of run directories, as a tar archive; no links, locks or half-written files."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:  # a hard link is packed as the file that it is
        for run in runs:
            for path in sorted(run.path.rglob("*")):
                if (path.is_file() or path.is_dir()) and not path.is_symlink() and not path.name.startswith("."):
                    tar.add(path, f"{run.path.name}/{path.relative_to(run.path)}", recursive=False)
    file.seek(0)
    return file


def parts(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    with file:
        while part := file.read(PART):
            yield file.tell() - len(part), part


def unpack(file: IO[bytes], runs: Sequence[RunDir], folder: Path) -> None:
    """Write the packed runs below `folder`.

    Raises:
        UserError: something in the archive is not a plain file or folder in one of these runs.
    """
    places = [(folder / run.path.name).resolve() for run in runs]
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        for member in tar:
            target = (folder / member.name).resolve()
            if not (member.isreg() or member.isdir()) or not any(place in target.parents for place in places):
                raise UserError(
                    f"a node must send the plain files of its runs: got {member.name!r}; nothing was taken."
                )
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            content = tar.extractfile(member)
            assert content is not None
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                shutil.copyfileobj(content, copy)


def bring_home(file: IO[bytes], runs: Sequence[RunDir], plan: Path) -> None:
    """Put the packed runs in the place of what is there of them; until all is unpacked, nothing there has changed."""
    folder = Path(tempfile.mkdtemp(prefix=".back-", dir=plan))
    try:
        with writing(plan.parent):
            unpack(file, runs, folder)
            for run in runs:
                new, old = RunDir(folder / run.path.name), folder / f"{run.path.name}.old"
                if not new.config_file.exists():  # it ended before there was a run
                    continue
                config, output = new.config(), str(run.path.parent.parent)
                if config.get("output") != output:  # it names the node's scratch folder
                    write_text(new.config_file, dump_yaml(changed(config, {"output": output})))
                if run.path.exists():
                    run.path.rename(old)
                try:
                    new.path.rename(run.path)
                except OSError:
                    if old.exists():
                        old.rename(run.path)
                    raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
