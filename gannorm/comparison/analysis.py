"""From runs to a comparison: group them into conditions, estimate, decide. Draws and writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition, group
from gannorm.comparison.crossed import cross
from gannorm.comparison.numbers import counted
from gannorm.comparison.protocols import by_sampling_mode, under_one_protocol
from gannorm.comparison.quantities import measured
from gannorm.comparison.remarks import remarks as remarks_on
from gannorm.comparison.runs import LeftOut, Run, read_runs
from gannorm.comparison.runs_file import read_runs_csv
from gannorm.comparison.sentences import findings, headline
from gannorm.comparison.table import tabulate
from gannorm.comparison.verdicts import composition_curve, verdict
from gannorm.errors import UserError
from gannorm.registry import choices
from gannorm.rundir import RunDir, find_runs


def analyse(runs: Sequence[RunDir] | Path, *, baseline: str | None = None, by_mode: bool = False) -> Comparison:
    """Compare finished runs by condition, with intervals over training seeds.

    Runs that differ only in the seed form a condition. Running, failed and damaged runs are left out by name. Diverged
    runs count in the divergence rate only.

    Args:
        runs: run directories, of one study or several; or the path of a folder of runs, or of a runs.csv, which gives
            the same numbers.
        baseline: label of the condition that the others are compared with; the first one if not given.
        by_mode: compare each run with itself: the sampling modes of G (statistics, averaged or trained weights) under
            which it was scored become conditions, paired by the run's seed.

    Raises:
        UserError: no run has finished; there are GANs and classifiers; no condition has the baseline's name.
    """
    if isinstance(runs, Path) and runs.is_dir():
        runs = find_runs([str(runs)])
    ended, left_out = read_runs_csv(runs) if isinstance(runs, Path) else read_runs(runs)
    _require_comparable(ended, left_out)
    if by_mode:
        if isinstance(runs, Path):
            raise UserError("a comparison by mode needs the score records of run directories: got a runs.csv.")
        if ended[0].task == "classifier":
            raise UserError("only generators have sampling modes: got classifiers; compare them without --by_mode.")
        ended = by_sampling_mode(ended)
    ended, protocol, unlike = under_one_protocol(ended)
    if not isinstance(runs, Path):
        ended = [replace(run, values=measured(run)) for run in ended]
    conditions, repeats, indistinct = group(ended)
    label = _baseline(conditions, baseline)
    conditions.sort(key=_from(next(c for c in conditions if c.label == label)))
    rows, lines = tabulate(conditions), cross(conditions)
    verdicts = {c.label: verdict(c) for c in conditions}
    curves = {c.label: curve for c in conditions if (curve := composition_curve(c))}
    is_crossed = len(conditions[0].naming) > 1
    first = "" if is_crossed else headline(conditions, rows, verdicts)
    sentences = [] if is_crossed else [s for s in findings(conditions, rows, verdicts) if s != first]
    finished = [run for c in conditions for run in c.runs]
    return Comparison(
        first,
        sentences,
        label,
        conditions,
        rows,
        verdicts,
        curves,
        protocol,
        [*left_out, *repeats],
        [*indistinct, *unlike, *remarks_on(finished)],
        lines,
    )


def _require_comparable(ended: Sequence[Run], left_out: Sequence[LeftOut]) -> None:
    """Some run has finished, and all are of one task."""
    if not any(run.state == "finished" for run in ended):
        reasons = Counter(run.reason.split(":")[0].split(" at ")[0] for run in left_out)
        reasons.update(run.state for run in ended)
        states = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"
        raise UserError(f"at least one run must have finished: got {states}; let `gannorm train` finish one first.")
    tasks = Counter(run.task for run in ended)
    if len(tasks) > 1:
        kinds = " and ".join(counted(count, task) for task, count in tasks.items())
        raise UserError(f"runs to compare must be of one task: got {kinds}; compare them separately.")


def _baseline(conditions: Sequence[Condition], asked: str | None) -> str:
    """The label of the condition to compare with; "a=1, b=2" and "b=2, a=1" name one condition."""
    labels = [c.label for c in conditions if c.runs]
    if asked is None:
        return labels[0]
    for label in labels:
        if sorted(label.split(", ")) == sorted(asked.split(", ")):
            return label
    raise UserError(f"the baseline must be a condition with finished runs: got {asked!r}; {choices(asked, labels)}")


def _from(baseline: Condition) -> Callable[[Condition], tuple[bool, ...]]:
    """A sort key: the baseline first, then conditions by the names that they share with it; numbers stay by size."""
    names = [key for key in baseline.naming if not isinstance(baseline.values.get(key), int | float)]
    return lambda c: (c is not baseline, *(c.values.get(key) != baseline.values.get(key) for key in names))
