"""The scores of generators and classifiers, and how each is reduced over a run: last, best and mean level.

All three are reported, since a run may peak and then get worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gannorm.comparison.intervals import ANY, Effect, Estimate, Limits, mean_level
from gannorm.comparison.runs import score_values

DEGRADED = 2  # times the best FID, and the floor
SHARE, SIGNED_SHARE, POSITIVE, FROM_ONE = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (1.0, math.inf)

CurveOfRun = Mapping[int, float]  # step → value


@dataclass(frozen=True)
class Score:
    """A score of a network, over checkpoints or tests.

    Attributes:
        name: in the files.
        title: for people.
        better: "higher" or "lower".
        limits: of its values.
        margin: conditions whose means differ by less count as equal; a share of the baseline's mean, or in the score's
            own unit if `relative` is false. None: no margin is defined.
        real: name of real images' own score beside it; "" without.
        whose: the network, in the words that follow the title in a sentence.
        relative: whether a change is given in per cent.
    """

    name: str
    title: str
    better: str
    limits: Limits
    margin: float | None
    real: str = ""
    whose: str = " of the generator"
    relative: bool = True

    def change(self, effect: Effect) -> tuple[Estimate, str]:
        """The change from the baseline and its unit: per cent where a ratio is defined."""
        return (effect.percent, " %") if self.relative and effect.percent else (effect.difference, "")

    @property
    def margin_in_words(self) -> str:
        """ "±5 %", or "±0.01" for a score whose changes are not in per cent."""
        assert self.margin is not None
        return f"±{100 * self.margin:g} %" if self.relative else f"±{self.margin:g}"


# The margins are decided here: 5 % is the gain of the inception score that is reported for GroupNorm; log FID varies by
# about .33 over seeds, so that less than 25 % cannot be resolved; the others lie between.
SCORES = (
    Score("inception_score", "Inception score", "higher", FROM_ONE, 0.05, "inception_score_real"),
    Score("fid", "FID", "lower", POSITIVE, 0.25, "fid_floor"),
    Score("kid", "KID", "lower", ANY, None),  # its estimator is unbiased, and so takes negative values
    Score("precision", "Precision", "higher", SHARE, 0.1),
    Score("recall", "Recall", "higher", SHARE, 0.1),
    Score("reconstruction", "Reconstruction error", "lower", POSITIVE, 0.1),
)
ACCURACY = Score("test/accuracy", "Accuracy on held-out images", "higher", SHARE, 0.01, whose="", relative=False)


def last(curve: CurveOfRun) -> float:
    """The value at the last step."""
    return curve[max(curve)]


def best(score: Score) -> Callable[[CurveOfRun], float]:
    """The value at the better end of a score's scale."""
    return lambda curve: max(curve.values()) if score.better == "higher" else min(curve.values())


def level(curve: CurveOfRun) -> float:
    """The area under the curve divided by its length."""
    return mean_level(sorted(curve), [curve[step] for step in sorted(curve)])


def score_curves(records: Sequence[Mapping[str, Any]]) -> str:
    """Each score over a run's checkpoints in a line: its best, its last, its mean level, and whether it degraded.

    The mean level is the area under the curve divided by its length. A run has degraded since its best where FID ends
    above twice its best and twice the floor of real images, so that the noise of a good score does not count. Defined
    here.

    >>> records = [{"step": s, "fid": fid, "fid_floor": 2.0} for s, fid in ((0, 90.0), (10, 40.0), (20, 130.0))]
    >>> print(score_curves(records))
    FID               best 40 at step 10, last 130 at step 20, mean level 75
    degraded since best: FID ends above 2 times its best and the floor
    """
    records, lines, remarks = [score_values(record) for record in records], [], []
    for score in SCORES:
        curve = {record["step"]: record[score.name] for record in records if record.get(score.name) is not None}
        if not curve:
            continue
        top, end = best(score)(curve), last(curve)
        at = next(step for step, value in curve.items() if value == top)
        parts = (f"best {top:.4g} at step {at}", f"last {end:.4g} at step {max(curve)}")
        lines.append(f"{score.title:<17} {', '.join(parts)}, mean level {level(curve):.4g}")
        floors = [r[score.real] for r in records if r.get(score.real) is not None]
        if score.name == "fid" and end > DEGRADED * max(top, *floors):
            remarks.append(f"degraded since best: FID ends above {DEGRADED} times its best and the floor")
    bad = [str(record["step"]) for record in records if record.get("diverged")]
    if bad:
        remarks.append(f"non-finite images at step {', '.join(bad)}")
    return "\n".join(lines + remarks)
