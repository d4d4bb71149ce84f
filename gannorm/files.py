"""Files: atomic writes, locks, JSON and YAML in and out, with system errors as one line; standard output that is gone.

A file is written to a temporary name and renamed, so a reader never sees half of one. Processes exclude each other by
locks on open files; the system frees those of a dead process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from gannorm.errors import UserError

try:
    import fcntl  # imported nowhere else: Windows does not have it, and what needs no lock works there
except ImportError:
    fcntl = None  # type: ignore[assignment]

MAX_VALUES = 100_000  # in a config; a complete one has about a hundred


@contextmanager
def atomic_write(file: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name complete and on disk, or not at all.

    Raises:
        UserError: the folder is missing or read-only, or the disk is full; what was there before is still there.
    """
    with writing(file):
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
            os.replace(temporary, file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a system error while writing `path` into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        behind: BaseException | None = error  # torch's file writer raises an error of its own on top of the system's
        while behind is not None and not isinstance(behind, OSError):
            behind = behind.__context__
        if behind is None:
            raise
        raise UserError(
            f"the output must be writable: {path}: {behind.strerror}; make room or choose another folder."
        ) from error


def cache_dir() -> Path:
    """Where results that can be computed again are kept: $GANNORM_CACHE, or ~/.cache/gannorm.

    Warns:
        UserWarning: the home directory is read-only; a folder among the temporary files takes its place.
    """
    if chosen := os.environ.get("GANNORM_CACHE"):
        return Path(chosen).expanduser()
    usual = Path(os.path.expanduser("~/.cache/gannorm"))
    if usual.is_absolute() and is_writable(usual):  # relative: nobody knows a home
        return usual
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    instead = Path(tempfile.gettempdir()) / f"gannorm-{owner}"
    if not is_writable(instead) or instead.is_symlink() or instead.stat().st_uid not in (owner, 0):
        return usual  # no folder of this user's own: whoever writes there says so
    warnings.warn(f"{usual} is not writable: {instead} is used instead; GANNORM_CACHE chooses a folder.", stacklevel=2)
    return instead


def is_writable(folder: Path) -> bool:
    """Whether the folder is there, or can be made, and may be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def write_text(file: Path, text: str) -> None:
    with atomic_write(file) as stream:
        stream.write(text.encode())


def write_json(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def lock(file: IO[str], *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file until it is closed.

    Args:
        file: the file; locks belong to an open file, so that threads exclude each other as processes do.
        shared: several may hold a shared lock at once, and none an exclusive one meanwhile.
        wait: for others to free it.

    Raises:
        OSError: another holds it and `wait` is False, or its file system has no locks.
        UserError: the system has no such locks.
    """
    if fcntl is None:
        raise UserError(
            f"run directories, studies and folders of images need file locks (fcntl): {sys.platform} has none; use "
            "Linux, macOS or WSL for them. The probes work everywhere."
        )
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as it is to the training command; YAML 1.1 wants 1.0e-4.

    In pure Python: libyaml's loader crashes the process where brackets are nested deep enough.
    """


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Text that the loader would take for a number, such as a folder called 1e4, is quoted."""


for _style in (_Loader, _Dumper):
    _style.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def dump_yaml(config: Mapping[str, Any]) -> str:
    return yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str) -> Any:
    """Third-party YAML as plain data of a bounded size.

    Raises:
        yaml.YAMLError: malformed; tags that name objects; a value that is nested in itself, or deeper than Python's
            stack; references that repeat a value so often (a few lines can say a billion) that writing it out would
            take MAX_VALUES values.
    """
    try:
        content = yaml.load(text, _Loader)
        values = _values(content, {})
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply, or in itself") from None
    if values > MAX_VALUES:
        raise yaml.YAMLError(f"its references stand for {values} values, more than {MAX_VALUES}")
    return content


def _values(content: Any, known: dict[int, int]) -> int:
    """The number of values in a structure with every reference expanded."""
    if id(content) not in known:
        parts = [*content, *content.values()] if isinstance(content, dict) else content
        inner = parts if isinstance(parts, (list, tuple, set)) else ()
        known[id(content)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(content)]


def read(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{file} must be readable: {error.strerror}.") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        line = str(error).replace("\n", " ")
        raise damaged(file, line) from None


def load(file: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError, which calls the file `what`, if there is none."""
    try:
        content = parse_yaml(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{what} must be readable: {file}: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{what} must be well-formed YAML: {file}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{what} must be a mapping of keys: {file} is not.")
    return content


def damaged(file: Path, what: str) -> UserError:
    return UserError(f"{file} must be well-formed: {what}; restore it or leave this run out.")


# -- standard output and error ----------------------------------------------------------------------------------------


def require_streams() -> None:
    """If a command was started with output or error closed, redirect it to the null device. Python has None there.

    Opens all of the descriptors 0 to 2, so that no file that is opened later gets one to which libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:  # the lowest that is free
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)


def leave() -> None:
    """Redirect output from a terminal or pipe that is gone, where writing would fail, to the null device.

    Output into a file continues.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
