"""A progress line on stderr for a probe that takes longer than five seconds: forward passes and seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

AFTER = 5.0  # seconds without a sign of life; then a line each second
_bars: list[Bar] = []  # the outermost probe in progress counts for those that it calls


class Bar:
    """The passes of a probe, and of those that it calls."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.passes = label, total, 0
        self.began = time.monotonic()
        self.next, self.width = self.began + AFTER, 0

    def step(self) -> None:
        self.passes += 1
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + 1.0
        of = f" of at most {self.total}" if self.total else ""
        line = f"{self.label}: {self.passes}{of} forward passes, {now - self.began:.0f} s"
        self.write("\r" + line.ljust(self.width))
        self.width = len(line)

    def write(self, text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Bar]:
    """Inside, forward passes are counted (`step`), and printed from the fifth second on; yields the count."""
    if _bars:
        yield _bars[0]
        return
    bar = Bar(label, total)
    _bars.append(bar)
    try:
        yield bar
    finally:
        _bars.remove(bar)
        if bar.width:
            bar.write("\n")


def step() -> None:
    """One forward pass was made."""
    if _bars:
        _bars[0].step()
