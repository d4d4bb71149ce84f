"""What a comparison reports: one value a run, then a mean over seeds and an effect against the baseline.

Every figure of the report comes from the rows made here, and the same rows are written to table.csv and table.json.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gannorm.comparison.conditions import Condition, LeftOut
from gannorm.comparison.crossed import Line
from gannorm.comparison.intervals import CONFIDENCE, Effect, Estimate, compare_means, mean_interval, rate_interval
from gannorm.comparison.quantities import QUANTITIES
from gannorm.terminal import aligned


@dataclass(frozen=True)
class Row:
    """One quantity of one condition: mean over seeds, and the effect against the baseline."""

    condition: str
    quantity: str
    estimate: Estimate
    effect: Effect | None  # None for the baseline, and for rates

    def flat(self) -> dict[str, Any]:
        """One line of table.csv."""
        effect = self.effect
        return {
            "condition": self.condition,
            "quantity": self.quantity,
            **asdict(self.estimate),  # mean, low, high, n
            **_bounds("difference", effect.difference if effect else None),
            **_bounds("percent", effect.percent if effect else None),
            "pairing": effect and ("by seed" if effect.paired else "none"),
            "difference_n": effect and effect.difference.n,
            "verdict": effect and effect.verdict,
        }


def _bounds(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = estimate.bounds if estimate else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


LISTED_FINDINGS = 8  # more than this are folded away

Rows = Mapping[tuple[str, str], Row]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: what was found, the rows behind it, and what was left out.

    Attributes:
        headline: one sentence, computed from the rows.
        findings: one sentence a condition, then one a score and condition.
        baseline: the label of the condition that the others are compared with.
        conditions: in order, the baseline first.
        rows: (condition's label, quantity's name) → row, where something was measured.
        protocol: how the scores were made; None without scores.
        left_out: runs that are not in the comparison.
        remarks: what a reader must know before believing a difference.
        crossed: the table of a full grid of factors; empty for one factor, or where combinations are missing.
    """

    headline: str
    findings: Sequence[str]
    baseline: str
    conditions: Sequence[Condition]
    rows: Rows
    protocol: Mapping[str, Any] | None
    left_out: Sequence[LeftOut]
    remarks: Sequence[str]
    crossed: Sequence[Line] = ()

    @property
    def task(self) -> str:
        """What was trained: "GAN" or "classifier"."""
        return self.conditions[0].task

    @property
    def finished(self) -> list[Condition]:
        """The conditions with a finished run, which alone have something to show."""
        return [c for c in self.conditions if c.runs]

    def row(self, condition: str, quantity: str) -> Row | None:
        """The row of a condition's label and a quantity's name; None where nothing was measured."""
        return self.rows.get((condition, quantity))

    def to_text(self) -> str:
        """For the terminal: headline, the first findings, a short table, and what was left out."""
        columns = [q for q in SUMMARY if any(quantity == q for _, quantity in self.rows)]
        lines = [["", "seeds", "diverged", *(SUMMARY[q] for q in columns)]]
        for c in self.conditions:
            cells = [c.label, str(len(c.runs)), c.divergence]
            for quantity in columns:
                row = self.row(c.label, quantity)
                cells.append("–" if row is None else interval(row.estimate))
            lines.append(cells)
        notes = [f"note: {remark}" for remark in self.remarks]
        notes += [f"left out: {run.name} ({run.reason})" for run in self.left_out]
        told, more = self.findings[:LISTED_FINDINGS], len(self.findings) - LISTED_FINDINGS
        found = [f"  {sentence}" for sentence in (*told, *[f"{more} more in the report"] * (more > 0))]
        return "\n".join([self.headline, "", *found, "", *aligned(lines), "", *notes]).rstrip()

    def to_csv(self) -> str:
        """One line a row; empty cells where there is no interval or no baseline."""
        stream = io.StringIO()
        lines = [row.flat() for row in self.rows.values()]
        writer = csv.DictWriter(stream, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return stream.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The content of table.json."""
        content = {
            "version": 1,
            "headline": self.headline,
            "findings": list(self.findings),
            "confidence": CONFIDENCE,
            "baseline": self.baseline,
            "conditions": [
                {
                    "label": c.label,
                    "factors": dict(c.values),
                    "runs": {run.name: run.seed for run in c.runs},
                    "diverged": [run.name for run in c.diverged],
                }
                for c in self.conditions
            ],
            "rows": [row.flat() for row in self.rows.values()],
            "crossed": [asdict(line) for line in self.crossed],
            "protocol": self.protocol,
            "left_out": [asdict(run) for run in self.left_out],
            "remarks": list(self.remarks),
        }
        # Configs and protocols may hold what strict JSON has no word for, such as NaN or a date: write its name.
        return json.loads(json.dumps(content, default=str), parse_constant=str)


# The columns of the terminal's table: quantity → heading.
SUMMARY = {
    "train/accuracy_pure": "pure",
    "train/accuracy_mixed": "mixed",
    "train/accuracy_fall": "fall",
    "inception_score/final": "IS",
    "fid/final": "FID",
    "test/accuracy/final": "accuracy",
}


def tabulate(conditions: Sequence[Condition]) -> Rows:
    """All rows; the first condition is the baseline."""
    rows = []
    for quantity in QUANTITIES:
        baseline: dict[int, float] = {}
        for condition in conditions:
            measured = ((run.seed, quantity.measure(run)) for run in condition.runs)
            values = {seed: value for seed, value in measured if value is not None}
            if condition is conditions[0]:
                baseline = values
            if values:
                compared = baseline and condition is not conditions[0]
                effect = compare_means(baseline, values, quantity.limits) if compared else None
                estimate = mean_interval(list(values.values()), quantity.limits)
                rows.append(Row(condition.label, quantity.name, estimate, effect))
    for condition in conditions:
        diverged, ended = len(condition.diverged), len(condition.diverged) + len(condition.runs)
        rows.append(Row(condition.label, "divergence_rate", rate_interval(diverged, ended), None))
    return {(row.condition, row.quantity): row for row in rows}


def short(value: float) -> str:
    """As many figures as a reader can use.

    >>> [short(v) for v in (0, 0.8312, 5.716, 23.46, 137.2, -0.031, 2.2e-7)]
    ['0', '0.83', '5.72', '23.5', '137', '−0.031', '2.2e−07']
    """
    size = abs(value)
    if size == 0:
        return "0"
    form = ".0f" if size >= 100 else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".2g"
    figures = format(size, form)
    return ("−" if value < 0 else "") + figures.replace("-", "−")


def interval(estimate: Estimate, unit: str = "", *, signed: bool = False) -> str:
    """An estimate with its interval.

    >>> interval(Estimate(3.1, -0.5, 6.8, 4), " %", signed=True)
    '+3.10 % (−0.50 to +6.80)'
    """
    numbers = [f"{'+' if signed and v > 0 else ''}{short(v)}" for v in estimate.bounds if v is not None]
    return f"{numbers[0]}{unit}" + (f" ({numbers[1]} to {numbers[2]})" if len(numbers) == 3 else "")
