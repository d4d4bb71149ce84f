"""Compare runs: from run directories, or a runs.csv, to a table, figures and one page that opens anywhere.

output/
  index.html          the report: one self-contained page
  optimization.html   a second one, where runs hold optimization probes
  runs.csv            one line a run, with every quantity: enough to compute the rest again
  table.csv           one line a condition and quantity, with intervals, effects and verdicts
  primary.csv         one line a comparison of the study's primary analysis, where it names one
  primary.md          the same as a table for a README
  table.json          the same, with verdicts on batch dependence, conditions, protocol and what was left out
  figures/            every figure as PNG and its data as CSV
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.comparison.named import named_csv, named_markdown
from gannorm.comparison.primary import Primary
from gannorm.comparison.runs_file import runs_csv
from gannorm.files import write_json, write_text, writing
from gannorm.report import optimization
from gannorm.report.about import about
from gannorm.report.pages import FORMER, linked_figures, require_replaceable
from gannorm.report.report import write_report
from gannorm.rundir import RunDir

RUNS, PRIMARY_CSV, PRIMARY_TABLE = "runs.csv", "primary.csv", "primary.md"

__all__ = ["Comparison", "analyse", "compare"]


def compare(
    runs: Sequence[RunDir] | Path,
    output: Path,
    *,
    baseline: str | None = None,
    by_mode: bool = False,
    primary: Primary | None = None,
    question: str = "",
    command: str = "",
) -> Comparison:
    """Compare finished runs by condition, with intervals over training seeds, and write the report.

    Args:
        runs, baseline, by_mode, primary: as of `gannorm.comparison.analysis.analyse`.
        output: folder for the report; made if it does not exist.
        question, command: of the study, for the top of the page.

    Returns:
        The comparison, as it was written to `output`.

    Raises:
        UserError: as `analyse`; `output` cannot be written, or holds a page of another program.

    Source: statistics as in `gannorm.comparison.intervals` and `multiplicity`; verdicts as in `gannorm.verdict`.
    """
    require_replaceable(output)
    comparison = analyse(runs, baseline=baseline, by_mode=by_mode, primary=primary)
    with writing(output):
        (output / "figures").mkdir(parents=True, exist_ok=True)
        before = linked_figures(output)
        facts = about(comparison, question, command)
        if not _is_source(output / RUNS, runs):
            write_text(output / RUNS, runs_csv([run for c in comparison.conditions for run in c.all_runs]))
        write_text(output / "table.csv", comparison.to_csv())
        if comparison.primary:
            write_text(output / PRIMARY_CSV, named_csv(comparison.named))
            write_text(output / PRIMARY_TABLE, named_markdown(comparison.primary, comparison.named))
        else:
            for name in (PRIMARY_CSV, PRIMARY_TABLE):  # of the report that this one replaces
                (output / name).unlink(missing_ok=True)
        write_json(output / "table.json", comparison.to_dict())
        write_report(comparison, output, facts, optimization=bool(optimization.measured(comparison)))
        optimization.write(comparison, output, facts)
        for name in FORMER:
            (output / name).unlink(missing_ok=True)
        for file in set(before) - set(linked_figures(output)):
            with contextlib.suppress(OSError):  # figures of the replaced report
                file.unlink()
    return comparison


def _is_source(file: Path, runs: Sequence[RunDir] | Path) -> bool:
    """Whether the runs were read from this very file, which then stays as it is, also what was left out of it."""
    return isinstance(runs, Path) and runs.is_file() and file.exists() and runs.samefile(file)
