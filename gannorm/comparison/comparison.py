"""The result of a comparison, and its forms: text for the terminal, table.csv, table.json, a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gannorm.comparison.conditions import Condition
from gannorm.comparison.crossed import Line
from gannorm.comparison.intervals import CONFIDENCE
from gannorm.comparison.named import Named, named_text
from gannorm.comparison.numbers import aligned, interval
from gannorm.comparison.primary import Primary
from gannorm.comparison.quantities import BY_NAME, TRAIN
from gannorm.comparison.runs import LeftOut
from gannorm.comparison.table import Row, Rows
from gannorm.comparison.verdicts import Point
from gannorm.errors import UserError
from gannorm.verdict import Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

LISTED_FINDINGS = 8  # findings beyond this number are folded
# The columns of the terminal's table: quantity → heading.
SUMMARY = {
    f"{TRAIN}auc_pure": "AUC pure",
    f"{TRAIN}auc_mixed": "mixed",
    f"{TRAIN}auc_conflict": "conflict",
    "inception_score/final": "IS",
    "fid/final": "FID",
    "test/accuracy/final": "accuracy",
}


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison: its sentences, its rows, and the runs that were left out.

    Attributes:
        headline: the first line, computed from rows and verdicts; "" for crossed factors, which have a table instead.
        findings: one sentence a condition, then one a score; none for crossed factors.
        baseline: the label of the condition that the others are compared with.
        conditions: in order, the baseline first.
        rows: (condition's label, quantity's name) → row, for every measured quantity.
        verdicts: condition's label → the verdict over its runs.
        curves: condition's label → its composition curve, from pure batches to conflict; empty where not probed.
        protocol: how the scores were made; None without scores.
        left_out: runs that are not in the comparison.
        remarks: cautions for the reader of a difference.
        crossed: the table of a full grid of factors; empty for one factor, or where combinations are missing.
        primary: the study's primary analysis; None where it has none.
        named: its comparisons.
    """

    headline: str
    findings: Sequence[str]
    baseline: str
    conditions: Sequence[Condition]
    rows: Rows
    verdicts: Mapping[str, Verdict]
    curves: Mapping[str, Sequence[Point]]
    protocol: Mapping[str, Any] | None
    left_out: Sequence[LeftOut]
    remarks: Sequence[str]
    crossed: Sequence[Line] = ()
    primary: Primary | None = None
    named: Sequence[Named] = ()

    @property
    def task(self) -> str:
        """What was trained: "GAN" or "classifier"."""
        return self.conditions[0].task

    @property
    def finished(self) -> list[Condition]:
        """The conditions with a finished run."""
        return [c for c in self.conditions if c.runs]

    @property
    def question(self) -> str:
        """The question that the page answers."""
        if self.task == "classifier":
            return "How well do the classifiers learn?"
        return "Does the discriminator judge images, or batches?"

    def row(self, condition: str, quantity: str) -> Row | None:
        """The row of a condition's label and a quantity's name; None where nothing was measured."""
        return self.rows.get((condition, quantity))

    def to_text(self) -> str:
        """For the terminal: the first line, a short table, the findings, and what was left out."""
        columns = [q for q in SUMMARY if any(quantity == q for _, quantity in self.rows)]
        lines = [["", "runs", "diverged", *(SUMMARY[q] for q in columns)]]
        with_verdicts = self.task == "GAN" and bool(self.curves)
        if with_verdicts:
            lines[0].append("the discriminator")
        for c in self.conditions:
            cells = [c.label, str(len(c.runs)), c.divergence]
            for quantity in columns:
                row = self.row(c.label, quantity)
                cells.append("–" if row is None else interval(row.estimate, rounding=BY_NAME[quantity].rounding))
            if with_verdicts:
                cells.append(self.verdicts[c.label].kind if c.runs else "–")
            lines.append(cells)
        notes = [f"note: {remark}" for remark in self.remarks]
        notes += [f"left out: {run.name} ({run.reason})" for run in self.left_out]
        listed = [f"  {sentence}" for sentence in self.findings[:LISTED_FINDINGS]]
        if len(self.findings) > LISTED_FINDINGS:
            listed.append(f"  {len(self.findings) - LISTED_FINDINGS} more in the report")
        analysis = [named_text(self.primary, self.named), ""] if self.primary else []
        text = [self.headline or self.question, "", *analysis, *aligned(lines), "", *listed, "", *notes]
        return "\n".join(text).rstrip()

    def to_csv(self) -> str:
        """One line a row; empty cells where there is no interval or no baseline."""
        stream = io.StringIO()
        lines = [row.flat() for row in self.rows.values()]
        writer = csv.DictWriter(stream, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return stream.getvalue()

    def to_frame(self) -> DataFrame:
        """The rows as a pandas DataFrame, with the columns of table.csv.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise UserError("to_frame needs pandas, which is not installed: pip install 'gannorm[notebook]'.") from None
        return DataFrame([row.flat() for row in self.rows.values()])

    def to_dict(self) -> dict[str, Any]:
        """The content of table.json."""
        content = {
            "version": 2,
            "headline": self.headline,
            "findings": list(self.findings),
            "confidence": CONFIDENCE,
            "baseline": self.baseline,
            "conditions": [self._condition(c) for c in self.conditions],
            "rows": [row.flat() for row in self.rows.values()],
            "crossed": [asdict(line) for line in self.crossed],
            "primary": [c.flat() for c in self.named],
            "protocol": self.protocol,
            "left_out": [asdict(run) for run in self.left_out],
            "remarks": list(self.remarks),
        }
        # Configs and protocols may hold values that strict JSON lacks, such as NaN or a date: write them as text.
        return json.loads(json.dumps(content, default=str), parse_constant=str)

    def _condition(self, c: Condition) -> dict[str, Any]:
        return {
            "label": c.label,
            "factors": dict(c.values),
            "runs": {run.name: run.seed for run in c.runs},
            "diverged": [run.name for run in c.diverged],
            "verdict": asdict(self.verdicts[c.label]),
            "composition_curve": [asdict(point) for point in self.curves.get(c.label, ())],
        }
