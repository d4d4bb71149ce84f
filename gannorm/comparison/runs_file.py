"""runs.csv: one line a run, from which a reader can compute every table, verdict and interval again.

Columns: run, study, config_hash, seed, state, step, protocol; every config key that makes a condition; then every
quantity, under its metric key or as "fid/final". Config values are JSON, so that 1 and "1" stay two values; a key that
a run does not have is an empty cell. A study that runs in parts appends its lines (`append_runs`): since a line holds
its whole condition, the file of all parts compares as the runs would have at once.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gannorm.comparison.runs import LeftOut, Run, completed
from gannorm.config import factors
from gannorm.errors import UserError, printable
from gannorm.files import write_text, writing

FACTS = ("run", "study", "config_hash", "seed", "state", "step", "protocol")
SETTING = "config:"  # before a config key in the head of its column
STATES = ("finished", "diverged")


def runs_csv(runs: Sequence[Run]) -> str:
    """The content of runs.csv."""
    settings = list(dict.fromkeys(key for run in runs for key in factors(run.config)))
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
    return completed(runs), left_out


def append_runs(file: Path, runs: Sequence[Run]) -> int:
    """Add runs to a runs.csv, which is made if it is not there; columns are united.

    A run stands there once, by config hash and seed. One that is there already stays as it is, unless it has no scores
    and the new one has.

    Returns:
        How many lines are new or replaced.

    Raises:
        UserError: the file cannot be read or written, or holds a damaged line, which rewriting it would lose.
    """
    held: list[Run] = []
    if file.exists():
        held, damaged = read_runs_csv(file)
        if damaged:
            raise UserError(
                f"every line of {file} must hold a run before others are added: {damaged[0].name} is "
                f"{damaged[0].reason}; mend or remove it."
            )
    lines = {(run.hash, run.seed): run for run in held}
    changed = 0
    for run in runs:
        there = lines.get((run.hash, run.seed))
        if there is None or (run.protocol and not there.protocol):
            lines[run.hash, run.seed] = run
            changed += 1
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, runs_csv(list(lines.values())))
    return changed


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
