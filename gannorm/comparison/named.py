"""The comparisons that a study named before its first run, each with its tests.

Every run that ended enters, the diverged too, with its last finite value. Nothing is needed but the lines of a runs.csv
and the study's `primary`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from gannorm.comparison.conditions import Condition
from gannorm.comparison.intervals import Estimate, compare_means, equivalence
from gannorm.comparison.multiplicity import ALPHA, holm
from gannorm.comparison.numbers import aligned, interval, short
from gannorm.comparison.primary import Primary
from gannorm.comparison.quantities import WITHOUT_IMAGES
from gannorm.comparison.runs import Run
from gannorm.comparison.scores import SCORES
from gannorm.config.dotted import Flat
from gannorm.config.labels import text
from gannorm.errors import UserError

_TESTS = ("p", "p_equal", "p_rank")


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: in the study file.
        n: runs with a finite value.
        mean: of them; on a log scale the geometric mean. None without any.
        collapsed, ended: of the runs that ended, so many collapsed: diverged, without finite images at the end, or
            above the study's limit.
    """

    name: str
    n: int
    mean: float | None
    collapsed: int
    ended: int


@dataclass(frozen=True)
class Named:
    """One comparison that the study named.

    Attributes:
        change: of the first arm against the second: on a log scale their ratio, otherwise their difference; None where
            one run gives no interval.
        decreases: whether the first arm's value is the lower one.
        better: which value is, "lower" or "higher"; "" where neither is.
        p: of no change; p_equal: of a change of at least the margin (two one-sided tests); p_rank: of the rank test,
            in which a collapsed run without a finite value ranks last. The three `…_holm` are corrected over all
            comparisons that the study named, made or not; one that stands beside them is by itself. None where one run
            gives no test.
    """

    arm: Arm
    against: Arm
    change: Estimate | None
    decreases: bool
    better: str
    margin: str
    p: float | None = None
    p_holm: float | None = None
    p_equal: float | None = None
    p_equal_holm: float | None = None
    p_rank: float | None = None
    p_rank_holm: float | None = None

    @property
    def verdict(self) -> str:
        """ "lower" or "higher", "equal within ±25 %", "no difference shown", or why there is no answer."""
        if self.p_holm is None:
            return "not enough runs"
        if self.p_holm < ALPHA:
            return "lower" if self.decreases else "higher"
        if self.p_equal_holm is not None and self.p_equal_holm < ALPHA:
            return f"equal within {self.margin}"
        return "no difference shown"

    @property
    def outcome(self) -> str:
        """The verdict as the study's reading needs it: "better", "worse", "equal within ±25 %", or "not decided"."""
        if self.verdict in ("lower", "higher"):
            if not self.better:
                return self.verdict
            return "better" if self.verdict == self.better else "worse"
        if self.verdict.startswith("equal"):
            return self.verdict
        return f"not decided: {self.verdict}"

    def flat(self) -> dict[str, Any]:
        """One line of primary.csv."""
        sides = {f"{side}_{k}": v for side in ("arm", "against") for k, v in asdict(getattr(self, side)).items()}
        bounds = self.change.bounds if self.change else (None, None, None)
        change = dict(zip(("change", "change_low", "change_high"), bounds, strict=True))
        tests = {name: getattr(self, name) for test in _TESTS for name in (test, f"{test}_holm")}
        return {**sides, **change, **tests, "margin": self.margin, "verdict": self.verdict, "outcome": self.outcome}


def compare_named(primary: Primary, conditions: Sequence[Condition]) -> list[Named]:
    """The comparisons that a study named, over all runs that ended.

    On a log scale the values are compared as logarithms, and the change is a ratio of geometric means. Welch's t test
    with its interval; two one-sided tests against the margin; the Mann–Whitney test beside them.

    Raises:
        UserError: an arm is several conditions, or a value has no logarithm.

    Source: Welch 1947; Schuirmann 1987; Mann & Whitney 1947; Holm 1979.
    """
    members = {name: _runs_of(name, settings, conditions) for name, settings in primary.arms.items()}
    family = [_compared(primary, a, b, members) for a, b in primary.comparisons]
    return [*_corrected(family), *(_corrected([_compared(primary, *pair, members)])[0] for pair in primary.beside)]


def _corrected(named: list[Named]) -> list[Named]:
    """The same comparisons with Holm's p values over all of them."""
    for test in _TESTS:  # a comparison that could not be made yet counts: the family was fixed before the first run
        adjusted = holm({i: 1.0 if getattr(c, test) is None else getattr(c, test) for i, c in enumerate(named)})
        for i, c in enumerate(named):
            own: dict[str, Any] = {f"{test}_holm": adjusted[i]}
            named[i] = c if getattr(c, test) is None else replace(c, **own)
    return named


def named_title(primary: Primary) -> str:
    """How the comparisons were made, in one sentence."""
    how = "Welch's test" if primary.test == "welch" else "paired by seed"
    scale = "logarithms of " if primary.scale == "log" else ""
    corrected = f"Holm over {len(primary.comparisons)}"
    return f"{scale}{primary.quantity} at the end, {how}, {corrected}, equal within {primary.margin_in_words}"


def named_header(primary: Primary) -> list[str]:
    """The heads of the columns of `named_cells`."""
    mean, change = ("geometric mean", "ratio") if primary.scale == "log" else ("mean", "difference")
    tests = ["p (Holm)", "p of equality (Holm)", "p of ranks (Holm)"]
    return ["comparison", "runs", f"{mean} {primary.quantity}", f"{change} (95 %)", *tests, "collapsed", "outcome"]


def named_cells(primary: Primary, named: Sequence[Named]) -> list[list[str]]:
    """One line a comparison, the columns of `named_header`."""
    lines = []
    for i, c in enumerate(named):
        beside = ", beside" if i >= len(primary.comparisons) else ""
        sides = (c.arm, c.against)
        lines.append(
            [
                f"{c.arm.name} against {c.against.name}{beside}",
                " and ".join(str(side.n) for side in sides),
                " and ".join("–" if side.mean is None else short(side.mean) for side in sides),
                "–" if c.change is None else interval(c.change),
                *("–" if p is None else short(p) for p in (c.p_holm, c.p_equal_holm, c.p_rank_holm)),
                " and ".join(f"{side.collapsed} of {side.ended}" for side in sides),
                c.outcome,
            ]
        )
    return lines


def named_text(primary: Primary, named: Sequence[Named]) -> str:
    """The primary analysis for the terminal."""
    lines = aligned([named_header(primary), *named_cells(primary, named)])
    return "\n".join([f"Primary analysis: {named_title(primary)}.", *lines])


def named_markdown(primary: Primary, named: Sequence[Named]) -> str:
    """primary.md: the primary analysis as a table for a README."""
    header = named_header(primary)
    rows = [header, ["---"] * len(header), *named_cells(primary, named)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"Primary analysis: {named_title(primary)}.\n\n{table}"


def named_csv(named: Sequence[Named]) -> str:
    """primary.csv: one line a comparison."""
    stream = io.StringIO()
    lines = [c.flat() for c in named]
    writer = csv.DictWriter(stream, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


# -- one comparison ---------------------------------------------------------------------------------------------------


def _runs_of(name: str, settings: Flat, conditions: Sequence[Condition]) -> list[Run]:
    """The runs of an arm: of the one condition whose config has the arm's settings; none where it was not run yet."""
    fitting = [c for c in conditions if all(_same(c.all_runs[0].config.get(k), v) for k, v in settings.items())]
    if len(fitting) > 1:
        labels = ", ".join(c.label for c in fitting)
        raise UserError(f"an arm of `primary` must be one condition: {name!r} is {labels}; name arms by one factor.")
    return fitting[0].all_runs if fitting else []


def _same(value: Any, planned: Any) -> bool:
    return value == planned or text(value) == text(planned)


def _value(primary: Primary, run: Run) -> float | None:
    """A run's last finite value on the scale of the analysis; None without one."""
    names = (primary.quantity, f"{primary.quantity}/final", f"{primary.quantity}/last_finite")
    value = next((run.values[name] for name in names if name in run.values), None)
    if value is None or primary.scale == "linear":
        return value
    if value <= 0:
        raise UserError(f"on a log scale every value must be above 0: {run.name} has {primary.quantity} {value:g}.")
    return math.log(value)


def _collapsed(primary: Primary, run: Run, value: float | None) -> bool:
    if run.state == "diverged" or run.values.get(WITHOUT_IMAGES):
        return True
    limit = primary.collapsed_above
    return limit is not None and value is not None and _unscaled(primary, value) > limit


def _unscaled(primary: Primary, value: float) -> float:
    return math.exp(value) if primary.scale == "log" else value


def _arm(primary: Primary, name: str, runs: Sequence[Run]) -> tuple[Arm, dict[int, float], list[float]]:
    """The arm; seed → finite value; and the values that the rank test sees, infinite where there is no finite one."""
    values, ranked, collapsed = {}, [], 0
    worst = math.inf if _better(primary) == "lower" else -math.inf
    for run in runs:
        value = _value(primary, run)
        gone = _collapsed(primary, run, value)
        collapsed += gone
        if value is not None:
            values[run.seed] = value
            ranked.append(value)
        elif gone:
            ranked.append(worst)
    mean = _unscaled(primary, float(np.mean(list(values.values())))) if values else None
    return Arm(name, len(values), mean, collapsed, len(runs)), values, ranked


def _better(primary: Primary) -> str:
    """Which value of the quantity is better, "lower" or "higher"; "" where it is no score."""
    return next((score.better for score in SCORES if score.name == primary.quantity), "")


def _compared(primary: Primary, a: str, b: str, members: Mapping[str, Sequence[Run]]) -> Named:
    arm, y, ranked = _arm(primary, a, members[a])
    against, x, others = _arm(primary, b, members[b])
    paired, better = primary.test == "paired", _better(primary)
    if min(len(x), len(y)) < 2 or (paired and len(x.keys() & y.keys()) < 2):
        return Named(arm, against, None, False, better, primary.margin_in_words)
    effect = compare_means(x, y, paired=paired)
    equal = equivalence(x, y, primary.bound, relative=False, paired=paired)
    with np.errstate(invalid="ignore"):
        ranks = float(stats.mannwhitneyu(ranked, others, alternative="two-sided").pvalue)
    change, decreases = effect.difference, effect.difference.mean < 0
    if primary.scale == "log":
        low, high = (None if bound is None else math.exp(bound) for bound in (change.low, change.high))
        change = Estimate(math.exp(change.mean), low, high, change.n)
    rank = ranks if math.isfinite(ranks) else 1.0  # all values are equal
    margin = primary.margin_in_words
    return Named(arm, against, change, decreases, better, margin, p=effect.p, p_equal=equal, p_rank=rank)
