"""Image files → pixels, decoded once, in parallel, into a memory-mapped file.

A second start reads the listing and maps the file; training then works from pages that the system loads and drops as
it likes, so a data set may be larger than memory.

The cache must never answer for files that have changed. What it was made from is kept as a hash over every file's name,
size, modification time and *change* time, in nanoseconds. The change time is what makes this safe without reading every
file at every start: the system sets it whenever a file's bytes or times are written, and no program can choose it. So a
file edited with its old modification time put back (touch, rsync, unzip) or under a clock that was set back is noticed.
The price is decoding again where only an owner or a mode has changed. The hash is taken before decoding: a file that
changes meanwhile leaves a cache that the next start throws away. A running training keeps the pixels that it has.

Pixels and index carry a SHA-256 each, checked at every start: a cut or damaged cache is made anew. There is one cache
for each folder, part and image size, below $GANNORM_CACHE or ~/.cache/gannorm, and a lock, so that the second of two
processes waits for the first one's work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gannorm.data import decoding
from gannorm.data.images import fingerprint
from gannorm.errors import UserError
from gannorm.files import write_json

VERSION = 1  # of the cache's files, and of what `decode` makes of an image
DECODER = decoding.__file__
NAMED = 20  # bad files that a message names; the cache's index lists them all


def cache_dir() -> Path:
    """Where decoded images are kept: $GANNORM_CACHE, or ~/.cache/gannorm."""
    return Path(os.environ.get("GANNORM_CACHE") or "~/.cache/gannorm").expanduser()


def decoded(root: Path, names: list[str], image_size: int, part: str) -> tuple[Tensor, dict[str, str]]:
    """The pixels of the files `names` below `root`, from the cache if it is there and true, else by decoding them.

    Args:
        root: the folder.
        names: files, relative to it.
        image_size: pixels a side.
        part: the name of this list of files ("train"); each part has its own cache.

    Returns:
        uint8 (M, 3, image_size, image_size), memory-mapped, the M usable images in the order of `names`; and
        name → reason for the others.

    Raises:
        UserError: the cache cannot be written.
    """
    root = root.resolve()
    place = hashlib.sha256(os.fsencode(root) + f"\0{part}\0{image_size}".encode()).hexdigest()[:16]
    base = cache_dir() / f"{part}_{image_size}_{place}"
    key = _key(root, names)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with base.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _open(base, key, image_size) or _build(base, key, image_size, root, names)
    except OSError as error:
        need = len(names) * 3 * image_size**2 / 2**20
        raise UserError(
            f"the image cache must be writable and have {need:.0f} MiB free: {base.parent} gave {error.strerror}; "
            "choose another folder with the environment variable GANNORM_CACHE."
        ) from None


def report_bad(root: Path, bad: Mapping[str, str], total: int, skip_bad: bool) -> None:
    """Name the bad ones among a folder's files: a warning if they may be skipped, otherwise an error."""
    if not bad:
        return
    listed = "; ".join(f"{name!r}: {reason}" for name, reason in list(bad.items())[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    count = f"{len(bad)} of {total} images in {root}"
    if len(bad) == total or not skip_bad:
        remedy = "mend or remove them" + ("" if len(bad) == total else ", or leave them out with --data.skip_bad true")
        raise UserError(f"every image must be readable and large enough: {count} are not ({listed}{more}); {remedy}.")
    warnings.warn(f"skipped {count} ({listed}{more}).", stacklevel=2)


def _key(root: Path, names: list[str]) -> str:
    digest = hashlib.sha256(f"{VERSION}\n".encode())
    for name in names:
        try:
            stat = os.stat(root / name)
            facts = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except OSError:
            facts = "unreadable"
        digest.update(os.fsencode(name) + f"\0{facts}\n".encode())
    return digest.hexdigest()


def _open(base: Path, key: str, image_size: int) -> tuple[Tensor, dict[str, str]] | None:
    """What is cached, if it was made from these files and is undamaged."""
    try:
        index = json.loads(base.with_suffix(".json").read_text())
        if index.pop("digest") != _digest(index) or index["key"] != key:
            return None
        pixels = _map(base, int(index["images"]), image_size)
        return (pixels, dict(index["bad"])) if fingerprint(pixels) == index["fingerprint"] else None
    # Absent, cut, or damaged in any other way: the remedy is the same.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None


def _build(base: Path, key: str, image_size: int, root: Path, names: list[str]) -> tuple[Tensor, dict[str, str]]:
    """Decode into a temporary file, then put pixels and index in place; the index, last, makes them valid."""
    images, bad = 0, {}
    partial = base.with_suffix(".partial")  # ours alone: we hold the lock
    answers = tqdm(_decode_all(root, names, image_size), f"decoding {root.name}", len(names), unit="img", disable=None)
    try:
        with partial.open("wb") as stream:
            for name, (ok, content) in zip(names, answers, strict=True):
                if ok:
                    stream.write(content)
                    images += 1
                else:
                    bad[name] = content.decode()
            stream.flush()
            os.fsync(stream.fileno())
        base.with_suffix(".json").unlink(missing_ok=True)
        os.replace(partial, base.with_suffix(".pixels"))
    finally:
        partial.unlink(missing_ok=True)
    pixels = _map(base, images, image_size)
    index = {"version": VERSION, "root": str(root), "key": key, "bad": bad, "images": images}
    index["fingerprint"] = fingerprint(pixels)
    write_json(base.with_suffix(".json"), index | {"digest": _digest(index)})
    return pixels, bad


def _digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _map(base: Path, images: int, size: int) -> Tensor:
    if images == 0:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    # Private: what a caller writes into the tensor stays in its memory and never reaches the file. No reserve for such
    # writes: Linux would refuse one for a file larger than the memory (as it does in torch.from_file).
    flags = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)  # MAP_NORESERVE, from Python 3.13 on by name
    with base.with_suffix(".pixels").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(mapped, dtype=torch.uint8).view(images, 3, size, size)


# -- worker processes -------------------------------------------------------------------------------------------------
# Threads decode small JPEGs no faster than one of them (the interpreter's lock); multiprocessing would import the
# caller's main module in each worker, torch and all, or fork a process that may already hold CUDA and its threads.


MOST_WORKERS = 32  # Linux grants the pipes of one user 64 MiB, and each takes 1


def _decode_all(root: Path, names: list[str], image_size: int) -> Iterator[tuple[bool, bytes]]:
    """(True, pixels) or (False, reason) for every file, in order; the pipes' size bounds how far workers run ahead."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(cores, MOST_WORKERS, len(names) // 256))
    workers: list[_Worker] = []
    try:
        for k in range(count):
            workers.append(_Worker(root, names[k::count], image_size))
        for k in range(len(names)):
            yield workers[k % count].answer()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that decodes a list of files. One that a file kills is replaced, from the next file on."""

    def __init__(self, root: Path, names: list[str], image_size: int) -> None:
        self.root, self.names, self.image_size = root, names, image_size
        self.answered = 0
        self.start()

    def start(self) -> None:
        with tempfile.TemporaryFile() as listing:
            listing.writelines(os.fsencode(self.root / name) + b"\0" for name in self.names[self.answered :])
            listing.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, DECODER, str(self.image_size)],
                stdin=listing,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff's own remarks
                pipesize=2**20,
            )

    def answer(self) -> tuple[bool, bytes]:
        assert self.process.stdout
        header = self.process.stdout.read(decoding.HEADER.size)
        if len(header) == decoding.HEADER.size:
            ok, length = decoding.HEADER.unpack(header)
            content = self.process.stdout.read(length)
            if len(content) == length:
                self.answered += 1
                return ok, content
        status = self.process.wait()
        if status >= 0:  # not killed by a signal: a bug of ours, not of the file
            raise RuntimeError(f"{DECODER} ended with status {status} at {self.names[self.answered]!r}")
        self.stop()
        self.answered += 1
        if self.answered < len(self.names):
            self.start()
        return False, b"crashes the image library"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
