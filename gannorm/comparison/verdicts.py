"""The verdict on each run, and on a condition over its runs, by the rule of `gannorm.verdict`.

A run's evidence is made of its values, which are one line of runs.csv, so a reader of that file computes the same
verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from gannorm.comparison.conditions import Condition
from gannorm.comparison.intervals import Estimate, mean_interval
from gannorm.comparison.quantities import TRAIN
from gannorm.comparison.runs import Run
from gannorm.comparison.scores import SHARE
from gannorm.verdict import Evidence, Verdict, over_runs

ONE_OWN = f"{TRAIN}auc_one_own"
UNPROBED = "no finished run holds a probe of batch dependence"


@dataclass(frozen=True)
class Point:
    """One share of the composition curve of a condition: the AUC over its runs.

    Attributes:
        share: of the own class in the batch, k/N.
        others: share of the own class among the other images, (k−1)/(N−1), which is comparable between batch sizes.
        auc: the mean over runs, with Student's interval.
        lowest, highest: of the runs.
    """

    share: float
    others: float
    auc: Estimate
    lowest: float
    highest: float


def evidence(run: Run) -> Evidence | None:
    """A run's evidence in train mode, the mode in which D is trained; None where it was not probed.

    From the mean over its last probes. An AUC's interval is the mean of their intervals, which is sound whether or not
    the probes share images: a mean varies at most as much as the mean of the deviations. Facts (coupled, repeats,
    constant, saturated) are the worst case; see `quantities.measured`.
    """
    return Evidence.from_metrics(run.values, TRAIN)


def verdict(condition: Condition) -> Verdict:
    """The verdict that a condition's finished runs share; if they disagree, the one from intervals over the runs."""
    probed = [e for run in condition.runs if (e := evidence(run)) is not None]
    if not probed:
        return Verdict("undecided", UNPROBED)
    whole = over_runs(probed)
    if len(probed) < len(condition.runs):
        return Verdict(whole.kind, f"{whole.reason} ({len(probed)} of {len(condition.runs)} runs were probed)")
    return whole


def composition_curve(condition: Condition) -> list[Point]:
    """The curve over a condition's runs, from pure batches to conflict, at the shares that all probed runs have.

    Then at one own image, where all probed runs measured it and the batch holds more at the conflict end.
    """
    curves = [(run, e.curve, e.batch_size) for run in condition.runs if (e := evidence(run)) is not None]
    if not curves:
        return []
    points = []
    for share in sorted(set.intersection(*(set(curve) for _, curve, _ in curves)), reverse=True):
        aucs = [curve[share].mean for _, curve, _ in curves]
        others = {share_of_others(share, size or _batch_size(run)) for run, _, size in curves}
        points.append(Point(share, max(others), mean_interval(aucs, SHARE), min(aucs), max(aucs)))
    alone = [run.values.get(ONE_OWN) for run, _, _ in curves]
    size = min(size or _batch_size(run) for run, _, size in curves)
    if None not in alone and 1 / size < points[-1].share and points[-1].others > 0:
        aucs = [auc for auc in alone if auc is not None]
        points.append(Point(1 / size, 0.0, mean_interval(aucs, SHARE), min(aucs), max(aucs)))
    return points


def share_of_others(share: float, batch_size: int) -> float:
    """(k−1)/(N−1): the share of the own class among the other images, where k = max(1, round(sN)) are of it.

    >>> share_of_others(0.5, 64), share_of_others(1 / 16, 8)
    (0.49..., 0.0)
    """
    if batch_size < 2:
        return share
    k = max(1, round(share * batch_size))
    return (k - 1) / (batch_size - 1)


def _batch_size(run: Run) -> int:
    """The training batch size, for a probe of an earlier version that recorded none."""
    size = run.config.get("data.batch_size")
    return size if isinstance(size, int) and size > 1 else 64
