"""What every section uses: rows, contestants that take turns, and the machine's peaks."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent


OFF = [*(f"--{kind}_every=0" for kind in ("probe", "sample", "checkpoint")), "--progress=false", "--wandb=off"]


Times = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, its ratio to what, the target, and the share of the peak."""

    section: str
    what: str
    seconds: float | None = None  # median of a call
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    meaning: str = ""  # of the ratio: "faster than …" or "cost of …"
    target: str = ""  # "≥ 2.5" or "≤ 1.05"
    share: float | None = None  # of the measured peak
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio keeps its target; None without one."""
        if not self.target or self.ratio is None:
            return None
        sign, bound = self.target.split()
        return self.ratio >= float(bound) if sign == "≥" else self.ratio <= float(bound)

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds * 1e3:.4g} ms"
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}× ({self.low:.3g}–{self.high:.3g}) {self.meaning}"
        verdict = "" if self.met is None else f"target {self.target}: {'met' if self.met else 'MISSED'}"
        share = "" if self.share is None else f"{self.share:.0%} of peak"
        parts = f"{self.section:<12} {self.what:<44} {seconds:>11}  {ratio:<48} {share:<12} {verdict}  {self.note}"
        return parts.rstrip()


class Bench:
    """What every section is given: the device, how many rounds, and the machine's peaks."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick
        self.rounds = 2 if quick else 5
        size = 1024 if self.device.type == "cpu" else 8192
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        pairs = {name: torch.randn(2, size, size, device=self.device).to(dtype) for name, dtype in types.items()}
        products = {name: lambda pair=pair: pair[0] @ pair[1] for name, pair in pairs.items()}
        if self.device.type == "cuda":  # as its convolutions take float32, if nobody says otherwise
            products["tf32"] = lambda: _in_tf32(*pairs["float32"])
        # The machine's pace changes: many rounds, in which the types take turns, for each one's best.
        best = {name: min(seconds) for name, seconds in self.interleaved(products, rounds=50).items()}
        self.flops = {name: 2 * size**3 / seconds for name, seconds in best.items()}
        source = torch.zeros(2**26, device=self.device)  # 256 MiB, larger than any cache
        target = torch.empty_like(source)
        copies = self.interleaved({"copy": lambda: target.copy_(source)}, rounds=5)["copy"]
        self.bytes_per_second = 2 * source.nbytes / statistics.median(copies)  # read and written

    def interleaved(self, contestants: Mapping[str, Callable[[], Any]], rounds: int | None = None) -> Times:
        return interleaved(contestants, self.rounds if rounds is None else rounds, self.device)


def _in_tf32(a: Tensor, b: Tensor) -> Tensor:
    with mock.patch.object(torch.backends.cuda.matmul, "fp32_precision", "tf32"):
        return a @ b


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(contestants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> Times:
    """Seconds of a call of each contestant in each round, after a round that is not counted."""
    times: Times = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            begin = now(device)
            run()
            if round_:
                times[name].append(now(device) - begin)
    return times


def in_own_process(function: Callable[..., None], *arguments: str) -> list[str]:
    """The command that calls a function of these files."""
    load = f"from {function.__module__} import {function.__name__} as run"
    call = f"import sys; sys.path.insert(0, sys.argv[1]); {load}; run(*sys.argv[2:])"
    return [sys.executable, "-c", call, str(REPOSITORY), *arguments]


def row(
    section: str,
    what: str,
    times: Times,
    ours: str,
    other: str,
    faster: bool,
    label: str,
    target: str = "",
    **more: Any,
) -> Row:
    """The row of one comparison: the median and range over rounds of other/ours (faster) or ours/other (cost)."""
    pairs = list(zip(times[ours], times[other], strict=True))
    ratios = [theirs / mine if faster else mine / theirs for mine, theirs in pairs]
    meaning = f"{'faster than' if faster else 'cost of'} {label}"
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return Row(section, what, statistics.median(times[ours]), middle, low, high, meaning, target, **more)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
