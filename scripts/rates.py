#!/usr/bin/env python
"""Choose each arm's learning rate: the one with the lowest mean log FID over the seeds, from the lines of a runs.csv.

    python scripts/rates.py results/causal_digits_rates/runs.csv

A run that collapsed enters with its last finite FID; a rate with a run that never had one is not chosen. A chosen rate
at the edge of those that were run is not final: the next factor of two beyond it must be run as well. Nor is one where
a rate lacks seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gannorm.comparison.numbers import aligned
from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import read_runs_csv
from gannorm.config.labels import labels
from gannorm.errors import UserError

RATE = "model.lr_d"
VALUES = ("fid/final", "fid/last_finite")


@dataclass(frozen=True)
class Choice:
    """An arm, rate → seed → log FID (infinite without any), the seeds that each rate needs, and the chosen rate."""

    arm: str
    values: dict[float, dict[int, float]]
    seeds: int

    @property
    def rate(self) -> float:
        return min(self.values, key=self.mean)

    def mean(self, rate: float) -> float:
        return float(np.mean(list(self.values[rate].values())))

    @property
    def open_reason(self) -> str:
        """Why the choice is not final; "" where it is."""
        if not math.isfinite(self.mean(self.rate)):
            return "no rate has a finite FID in every run"
        if any(len(values) < self.seeds for values in self.values.values()):
            return f"not final: every rate needs {self.seeds} seeds"
        if self.rate == min(self.values):
            return f"at the edge: run {self.rate / 2:g} too"
        if self.rate == max(self.values):
            return f"at the edge: run {self.rate * 2:g} too"
        return ""


def choose(runs: Sequence[Run], seeds: int) -> list[Choice]:
    """The choice of each arm; an arm is what the runs have in common besides rate and seed."""
    arms = labels([{key: value for key, value in run.config.items() if key != RATE} for run in runs])
    values: dict[str, dict[float, dict[int, float]]] = {}
    for arm, run in zip(arms, runs, strict=True):
        fid = next((run.values[name] for name in VALUES if name in run.values), math.inf)
        values.setdefault(arm, {}).setdefault(float(run.config[RATE]), {})[run.seed] = math.log(fid)
    return [Choice(arm, dict(sorted(rates.items())), seeds) for arm, rates in values.items()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="runs.csv of the stage that varies the rate")
    parser.add_argument("--seeds", type=int, default=3, help="runs that every rate needs")
    options = parser.parse_args(argv)
    try:
        runs, damaged = read_runs_csv(options.file)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    lines = [["arm", RATE, "seeds", "mean log FID", ""]]
    for choice in choose(runs, options.seeds):
        for rate, seeds in choice.values.items():
            mark = f"chosen; {choice.open_reason or 'inside'}" if rate == choice.rate else ""
            lines.append([choice.arm, f"{rate:g}", str(len(seeds)), f"{choice.mean(rate):.3f}", mark])
    print("\n".join([*aligned(lines), *(f"left out: {line.name} ({line.reason})" for line in damaged)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
