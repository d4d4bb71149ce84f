"""Image files → pixels, decoded once, in parallel, into memory-mapped files.

A second start reads the listing and maps the files; the system then loads and drops their pages as needed,
so a data set may be larger than memory.

The cache must never be used for changed files. It keeps a hash over every file's name, size, modification
time and *change* time, in nanoseconds. The change time makes this safe without reading every file at every start: the
system sets it whenever a file's bytes or times are written, and no program can choose it. So the cache detects a file
that was edited with its old modification time restored (touch, rsync, unzip) or under a clock that was set back.
The price is a new decoding if only an owner or a mode has changed. The hash is taken before decoding: a file that
changes meanwhile leaves a cache that the next start rejects. A running training keeps its pixels.

Pixels and index carry a SHA-256 each, checked at every start: a cut or damaged cache is made again. There is one cache
for each folder, list of parts and form of image, below $GANNORM_CACHE or ~/.cache/gannorm, and a lock, so that the
second of two processes waits for the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from tqdm import tqdm

from gannorm.data import decoding
from gannorm.data.decoding import Decoded, Form
from gannorm.data.images import fingerprint
from gannorm.errors import UserError
from gannorm.files import cache_dir, lock, write_json

VERSION = 2  # of the cache's files, and of what `decode` makes of an image
DECODER = decoding.__file__


@dataclass(frozen=True)
class Part:
    """The images of one part of a list of files.

    Attributes:
        names: of the files, in the order of the pixels.
        pixels: uint8 (M, 3, image_size, image_size), memory-mapped.
        bad: the part's files that give no image → the reason.
        transparent: how many of the images have pixels that are not opaque.
        copies: how many of the images have exactly the pixels of an image in another part.
    """

    names: list[str]
    pixels: Tensor
    bad: dict[str, str]
    transparent: int
    copies: int


def decoded(root: Path, parts: Mapping[str, str], part: str, form: Form, *, together: bool = False) -> Part:
    """One part of a list of files as pixels, from the cache if it is there and true, else by decoding all parts.

    Args:
        root: the folder.
        parts: file, relative to it → the name of its part ("train").
        part: the part that is wanted.
        form: what each image is made into.
        together: images with equal pixels all go into the part of the first of them.

    Raises:
        UserError: the cache cannot be written.
    """
    root = root.resolve()
    asked = json.dumps([sorted(set(parts.values())), form, together])
    place = hashlib.sha256(os.fsencode(root) + b"\0" + asked.encode()).hexdigest()[:16]
    base = cache_dir() / f"{form.image_size}_{place}"
    key = _key(root, parts)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with base.with_suffix(".lock").open("w") as file:
            lock(file)
            answer = _open(base, key, parts, part, form)
            if answer is None:
                _build(base, key, root, parts, form, together)
                answer = _open(base, key, parts, part, form)
    except OSError as error:
        need = len(parts) * 3 * form.image_size**2 / 2**20
        raise UserError(
            f"the image cache must be writable and have {need:.0f} MiB free: {base.parent} gave {error.strerror}; "
            "choose another folder with the environment variable GANNORM_CACHE."
        ) from None
    assert answer is not None, f"{base} was changed by another program while it was written"
    return answer


def _key(root: Path, parts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(f"{VERSION}\n".encode())
    for name, part in parts.items():
        try:
            stat = os.stat(os.path.join(root, name))  # pathlib takes longer than the system
            facts = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except OSError:
            facts = "unreadable"
        digest.update(os.fsencode(name) + f"\0{part} {facts}\n".encode())
    return digest.hexdigest()


def _open(base: Path, key: str, parts: Mapping[str, str], part: str, form: Form) -> Part | None:
    """The cached part, if it was made from these files and is undamaged."""
    try:
        index = json.loads(base.with_suffix(".json").read_text())
        if index.pop("digest") != _digest(index) or index["key"] != key:
            return None
        facts, bad, moved = index["parts"][part], index["bad"], index["moved"]
        pixels = _map(_pixels(base, part), facts["images"], form.image_size)
        if fingerprint(pixels) != facts["fingerprint"]:
            return None
    # Absent, cut or otherwise damaged: the remedy is the same.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None
    names = [name for name, own in parts.items() if name not in bad and moved.get(name, own) == part]
    bad_here = {name: reason for name, reason in bad.items() if parts[name] == part}
    return Part(names, pixels, bad_here, facts["transparent"], facts["copies"])


def _build(base: Path, key: str, root: Path, parts: Mapping[str, str], form: Form, together: bool) -> None:
    """Decode into temporary files, then put pixels and index in place; the index, last, makes them valid."""
    bad: dict[str, str] = {}
    moved: dict[str, str] = {}  # file → the part of its first copy
    first: dict[bytes, str] = {}  # pixels, as a hash → the part that had them first
    seen: dict[str, Counter[bytes]] = {part: Counter() for part in parts.values()}  # how often each part has them
    transparent: Counter[str] = Counter()
    answers = tqdm(_decode_all(root, list(parts), form), f"decoding {root.name}", len(parts), unit="img", disable=None)
    with _new_files(base, seen) as streams:
        for (name, part), answer in zip(parts.items(), answers, strict=True):
            if isinstance(answer, str):
                bad[name] = answer
                continue
            digest = hashlib.sha256(answer.pixels).digest()
            if together and first.setdefault(digest, part) != part:
                part = moved[name] = first[digest]
            streams[part].write(answer.pixels)
            seen[part][digest] += 1
            transparent[part] += answer.transparent
    facts = {}
    for part, own in seen.items():
        others = set().union(*(seen[other] for other in seen if other != part))
        facts[part] = {
            "images": own.total(),
            "fingerprint": fingerprint(_map(_pixels(base, part), own.total(), form.image_size)),
            "transparent": transparent[part],
            "copies": sum(count for digest, count in own.items() if digest in others),
        }
    index = {"version": VERSION, "root": str(root), "key": key, "bad": bad, "moved": moved, "parts": facts}
    write_json(base.with_suffix(".json"), index | {"digest": _digest(index)})


@contextlib.contextmanager
def _new_files(base: Path, parts: Iterable[str]) -> Iterator[Mapping[str, IO[bytes]]]:
    """A file for the pixels of each part, all of which appear complete and on disk, or not at all."""
    partial = {
        part: base.with_suffix(f".{part}.partial") for part in parts
    }  # no other process writes them: this one holds the lock
    try:
        with contextlib.ExitStack() as opened:
            streams = {part: opened.enter_context(file.open("wb")) for part, file in partial.items()}
            yield streams
            for stream in streams.values():
                stream.flush()
                os.fsync(stream.fileno())
        base.with_suffix(".json").unlink(missing_ok=True)
        for part, file in partial.items():
            os.replace(file, _pixels(base, part))
    finally:
        for file in partial.values():
            file.unlink(missing_ok=True)


def _pixels(base: Path, part: str) -> Path:
    return base.with_suffix(f".{part}.pixels")


def _digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _map(file: Path, images: int, size: int) -> Tensor:
    if images == 0:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    # Private: writes into the tensor stay in this process's memory and never reach the file. No memory is reserved for
    # them: Linux would refuse one for a file larger than the memory (as it does in torch.from_file).
    flags = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)  # MAP_NORESERVE, from Python 3.13 on by name
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(mapped, dtype=torch.uint8).view(images, 3, size, size)


# -- worker processes -------------------------------------------------------------------------------------------------
# Threads decode small JPEGs no faster than one of them (the interpreter's lock); multiprocessing would import the
# main module in each worker, torch and all, or fork a process that may already hold CUDA and its threads.


MOST_WORKERS = 32  # Linux grants the pipes of one user 64 MiB, and each takes 1


def _decode_all(root: Path, names: list[str], form: Form) -> Iterator[Decoded | str]:
    """An image, or the reason for none, for every file in order. The pipes bound how far the workers run ahead."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(cores, MOST_WORKERS, len(names) // 256))
    workers: list[_Worker] = []
    try:
        for k in range(count):
            workers.append(_Worker(root, names[k::count], form))
        for k in range(len(names)):
            yield workers[k % count].answer()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that decodes a list of files. If a file kills it, another process continues with the next file."""

    def __init__(self, root: Path, names: list[str], form: Form) -> None:
        self.root, self.names, self.form = root, names, form
        self.answered = 0
        self.start()

    def start(self) -> None:
        with tempfile.TemporaryFile() as listing:
            listing.writelines(os.fsencode(self.root / name) + b"\0" for name in self.names[self.answered :])
            listing.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, DECODER, *map(str, self.form)],
                stdin=listing,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff's own remarks
                pipesize=2**20,
            )

    def answer(self) -> Decoded | str:
        assert self.process.stdout
        header = self.process.stdout.read(decoding.HEADER.size)
        if len(header) == decoding.HEADER.size:
            readable, transparent, length = decoding.HEADER.unpack(header)
            content = self.process.stdout.read(length)
            if len(content) == length:
                self.answered += 1
                return Decoded(content, transparent) if readable else content.decode()
        status = self.process.wait()
        if status >= 0:  # not killed by a signal: a bug here, not a bad file
            raise RuntimeError(f"{DECODER} ended with status {status} at {self.names[self.answered]!r}")
        self.stop()
        self.answered += 1
        if self.answered < len(self.names):
            self.start()
        return "crashes the image library"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
