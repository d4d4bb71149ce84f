"""runs.csv: one line a run, from which a reader can compute every table, verdict and interval again.

Columns: run, study, config_hash, seed, state, step, protocol; the config keys in which the runs differ, with those that
name them; then every quantity, under its metric key or as "fid/final". Config values are JSON, so that 1 and "1" stay
two values; a key that a run does not have is an empty cell. Files can be joined by their lines: columns that
one of them lacks are empty.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gannorm.comparison.runs import LeftOut, Run
from gannorm.comparison.titles import varied
from gannorm.config import NORMS
from gannorm.errors import UserError, printable

FACTS = ("run", "study", "config_hash", "seed", "state", "step", "protocol")
ALWAYS = (*NORMS, "task", "data.name", "data.batch_size")  # config keys that a reader needs though they do not vary
SETTING = "config:"  # before a config key in the head of its column
STATES = ("finished", "diverged")


def runs_csv(runs: Sequence[Run]) -> str:
    """The content of runs.csv."""
    configs = [run.config for run in runs]
    settings = list(dict.fromkeys([*varied(configs), *(k for k in ALWAYS if any(k in c for c in configs))]))
    quantities = list(dict.fromkeys(name for run in runs for name in run.values))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*FACTS, *(SETTING + key for key in settings), *quantities])
    for run in runs:
        facts = (run.name, run.config.get("study", ""), run.hash, run.seed, run.state, run.step, run.protocol)
        values = [_json(run.config[key]) if key in run.config else "" for key in settings]
        writer.writerow([*facts, *values, *(repr(run.values[q]) if q in run.values else "" for q in quantities)])
    return stream.getvalue()


def read_runs_csv(file: Path) -> tuple[list[Run], list[LeftOut]]:
    """The runs of a runs.csv; invalid lines are reported with the reason.

    Raises:
        UserError: the file cannot be read, or is no runs.csv.
    """
    try:
        content = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"a runs.csv must be a readable file: {file}: {printable(str(error))}.") from None
    try:
        lines = csv.DictReader(io.StringIO(content), strict=True)
        head = lines.fieldnames or []
        records = list(lines)
    except csv.Error as error:
        raise UserError(f"a runs.csv must be a table of comma-separated values: {file}: {error}.") from None
    missing = [name for name in FACTS if name not in head]
    if missing:
        raise UserError(
            f"a runs.csv must have the columns {', '.join(FACTS)}: {file} lacks {', '.join(missing)}; give the "
            "runs.csv that `gannorm compare` wrote, or run directories."
        )
    runs, left_out = [], []
    for number, record in enumerate(records, start=2):
        try:
            runs.append(_run(record))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            left_out.append(LeftOut(f"line {number} of {printable(file.name)}", f"damaged: {printable(str(error))}"))
    return runs, left_out


def _run(record: Mapping[str, Any]) -> Run:
    if None in record:
        raise ValueError("it has more cells than the head of the file")
    if record["state"] not in STATES:
        raise ValueError(f"its state must be one of {', '.join(STATES)}: got {record['state']!r}")
    config: dict[str, Any] = {"seed": int(record["seed"])}
    if record["study"]:
        config["study"] = record["study"]
    values = {}
    for name, cell in record.items():
        if name in FACTS or not cell:
            continue
        if name.startswith(SETTING):
            config[name.removeprefix(SETTING)] = json.loads(cell)
        else:
            values[name] = float(cell)
            if not math.isfinite(values[name]):
                raise ValueError(f"{name} must be a finite number: got {cell}")
    return Run(
        printable(record["run"]),
        config,
        config["seed"],
        record["state"],
        int(record["step"]),
        values=values,
        hash=record["config_hash"],
        protocol=record["protocol"],
    )


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
