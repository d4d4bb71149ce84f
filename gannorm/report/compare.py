"""Compare runs: from run directories to a table, figures and one page that a person can open anywhere.

output/
  index.html          the report: one self-contained page
  why.html            a second one, where runs hold optimization probes
  table.csv           one line a condition and quantity, with intervals and effects
  table.json          the same, with headline, findings, conditions, protocol and what was left out
  figures/            every figure as PNG and its data as CSV
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from gannorm.errors import UserError
from gannorm.registry import choices
from gannorm.files import write_json, write_text, writing
from gannorm.rundir import RunDir
from gannorm.report import optimization as why
from gannorm.comparison.conditions import Condition, group, read_runs
from gannorm.comparison.crossed import cross
from gannorm.comparison.findings import findings, headline
from gannorm.report.pages import linked_figures, require_replaceable
from gannorm.comparison.quantities import (
    by_sampling_mode,
    measured_unevenly,
    scored_early,
    scored_unevenly,
    scored_without_images,
    under_one_protocol,
)
from gannorm.report.report import write_report
from gannorm.comparison.table import Comparison, tabulate

__all__ = ["Comparison", "analyse", "compare"]


def compare(runs: Sequence[RunDir], output: Path, *, baseline: str | None = None, by_mode: bool = False) -> Comparison:
    """Compare finished runs by condition, with intervals over training seeds, and write the report.

    Runs that differ only in the seed form a condition. Runs that are still being written, failed, or are damaged are
    left out by name; diverged runs count in the divergence rate and in nothing else.

    Args:
        runs: run directories, of one study or several.
        output: folder for the report; made if it does not exist.
        baseline: label of the condition that the others are compared with; the first one if not given.
        by_mode: compare each run with itself: the sampling modes of G (statistics, averaged or trained weights) under
            which it was scored become conditions, paired by the run's seed.

    Returns:
        The comparison, as it was written to `output`.

    Raises:
        UserError: no run has finished; there are GANs and classifiers; no condition has the baseline's name; `output`
            cannot be written, or holds a page that is not ours.

    Source: statistics as in `gannorm.comparison.intervals`; the verdicts are defined here.
    """
    require_replaceable(output)
    comparison = analyse(runs, baseline=baseline, by_mode=by_mode)
    with writing(output):
        (output / "figures").mkdir(parents=True, exist_ok=True)
        before = linked_figures(output)
        write_text(output / "table.csv", comparison.to_csv())
        write_json(output / "table.json", comparison.to_dict())
        write_report(comparison, output, more=why.link(comparison))
        why.write_why(comparison, output)
        for file in set(before) - set(linked_figures(output)):
            with contextlib.suppress(OSError):  # of the report that was here
                file.unlink()
    return comparison


def analyse(runs: Sequence[RunDir], *, baseline: str | None = None, by_mode: bool = False) -> Comparison:
    """The comparison alone: as `compare`, without writing anything."""
    ended, left_out = read_runs(runs)
    if not any(run.state == "finished" for run in ended):
        reasons = Counter(run.reason.split(":")[0].split(" at ")[0] for run in left_out)
        reasons.update(run.state for run in ended)
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"
        raise UserError(f"at least one run must have finished: got {found}; let `gannorm train` finish one first.")
    tasks = Counter(run.task for run in ended)
    if len(tasks) > 1:
        found = " and ".join(f"{count} {task}{'s' * (count > 1)}" for task, count in tasks.items())
        raise UserError(f"runs to compare must be of one task: got {found}; compare them apart.")
    if by_mode:
        if "classifier" in tasks:
            raise UserError("modes of sampling are a generator's: got classifiers; compare them without --by_mode.")
        ended = by_sampling_mode(ended)
    ended, protocol, more = under_one_protocol(ended)
    conditions, repeats, remarks = group(ended)
    labels = [c.label for c in conditions if c.runs]
    if baseline is None:
        baseline = labels[0]
    parts = sorted(baseline.split(", "))  # "a=1, b=2" and "b=2, a=1" name one condition
    matching = [label for label in labels if sorted(label.split(", ")) == parts]
    if not matching:
        raise UserError(
            f"the baseline must be a condition with finished runs: got {baseline!r}; {choices(baseline, labels)}"
        )
    conditions.sort(key=_from(next(c for c in conditions if c.label == matching[0])))
    rows, lines = tabulate(conditions), cross(conditions)
    finished = [run for c in conditions for run in c.runs]
    told = headline(rows, conditions)
    seen = (scored_without_images, scored_early, scored_unevenly, measured_unevenly)
    return Comparison(
        told,
        [sentence for sentence in findings(rows, conditions, lines) if sentence != told],
        matching[0],
        conditions,
        rows,
        protocol,
        [*left_out, *repeats],
        [*remarks, *more, *(remark for look in seen for remark in look(finished))],
        lines,
    )


def _from(baseline: Condition) -> Callable[[Condition], tuple[bool, ...]]:
    """A sort key: the baseline first, then whatever shares more of its names; numbers stay in order of size."""
    names = [key for key in baseline.naming if not isinstance(baseline.values.get(key), int | float)]
    return lambda c: (c is not baseline, *(c.values.get(key) != baseline.values.get(key) for key in names))
