"""Does this discriminator judge images, or batches? One rule, from plain numbers, for one network and for several runs.

Every room calls `decide` or `over_runs`. A value is "shown" to lie above another where its 95 % interval excludes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

KINDS = ("undecided", "judges images", "learns from batches", "judges by contrast", "judges both", "judges batches")
PURE, MIXED, CONFLICT = 1.0, 0.5, 1 / 16  # shares of an image's own class in its batch
SHARES = (PURE, 0.75, MIXED, 0.25, CONFLICT)
CHANCE = 0.5  # of an AUC
EQUAL_WITHIN = 0.1  # of AUC: differences from pure batches count as none if all intervals lie within ± this
BLOCKS = 4  # the fewest that give an interval
RUNS = 3  # the fewest that give an interval where runs disagree


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `low` and `high` are None where no interval is defined."""

    mean: float
    low: float | None = None
    high: float | None = None

    def above(self, value: float, wider: float = 1.0) -> bool:
        """Whether the interval, its lower half `wider` times as long, lies above the value."""
        return self.low is not None and self.mean - wider * (self.mean - self.low) > value

    def below(self, value: float, wider: float = 1.0) -> bool:
        """Whether the interval, its upper half `wider` times as long, lies below the value."""
        return self.high is not None and self.mean + wider * (self.high - self.mean) < value

    def within(self, margin: float) -> bool:
        """Whether the interval lies within ±margin."""
        return self.low is not None and self.high is not None and -margin <= self.low and self.high <= margin

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Verdict:
    """The verdict: one of KINDS, and the reason. `str()` is the sentence."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclass(frozen=True)
class Evidence:
    """Every number that the rule reads, of one network in one mode; or the mean of several runs.

    An AUC is the probability that a real image has the larger logit than a fake.
    """

    images: int  # of each class, as given
    batch_size: int
    forward_coupled: bool  # logits depend on the other images of the batch, beyond rounding
    gradient_coupled: bool  # gradients do
    units: int  # independent blocks of images, or runs, behind the intervals of the curve
    curve: Mapping[float, Estimate]  # AUC by the share of an image's own class in its batch
    changes: Mapping[float, Estimate] = field(default_factory=dict)  # AUC at a share minus in pure batches, same images
    auc_images: Estimate | None = None  # over all images as independent draws: for networks that no batch moves
    same_batch: Estimate | None = None  # AUC of real against fake images of one half-and-half batch
    repeats: bool = True  # two calls on one batch agree, with the random state fixed
    constant: bool = False  # all logits are equal within rounding
    saturated: bool = False  # the outputs are exactly 0 or exactly 1
    gradient_tested: bool = True  # False: f has no gradient by its input, or does not let itself be differentiated
    hidden_layers: int = 0  # layers that couple the batch, their effect multiplied by zero at these weights
    hidden_names: tuple[str, ...] = ()  # names of these layers; metrics hold numbers only, so names are not read back

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """The numbers by metric key, without those that are undefined."""
        values: dict[str, float | None] = {name: getattr(self, name) for name in _COUNTS}
        values |= {name: float(getattr(self, name)) for name in _FLAGS}
        for share, auc in self.curve.items():
            values |= _columns(f"auc_{share_name(share)}", auc)
        for share, change in self.changes.items():
            values |= _columns(f"auc_change_{share_name(share)}", change)
        values |= _columns("auc_images", self.auc_images) | _columns("auc_same_batch", self.same_batch)
        return {_with_slash(prefix) + name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float], prefix: str = "") -> Evidence | None:
        """Read what `metrics` wrote; None without measurements. Reads the numbers of earlier versions too."""
        prefix = _with_slash(prefix)
        values = {
            name.removeprefix(prefix): value
            for name, value in metrics.items()
            if name.startswith(prefix) and isinstance(value, (int, float)) and math.isfinite(value)
        }
        if "auc_pure" not in values:
            return None
        flags = {
            "forward_coupled": not values.get("swap_bitwise_equal", 0.0),
            "gradient_coupled": values.get("gradient_change", 1.0) > 0,
        }
        flags |= {name: bool(values[name]) for name in _FLAGS if name in values}
        counts = {name: int(values.get(name, 0)) for name in _COUNTS}
        return cls(
            curve=_by_share(values, "auc_"),
            changes=_by_share(values, "auc_change_"),
            auc_images=_estimate(values, "auc_images"),
            same_batch=_estimate(values, "auc_same_batch"),
            **counts,  # type: ignore[arg-type]
            **flags,  # type: ignore[arg-type]
        )


def share_name(share: float) -> str:
    """The name of a share in metric keys.

    >>> [share_name(share) for share in SHARES]
    ['pure', 'share_0.75', 'mixed', 'share_0.25', 'conflict']
    """
    return {PURE: "pure", MIXED: "mixed", CONFLICT: "conflict"}.get(share, f"share_{share:g}")


def decide(evidence: Evidence) -> Verdict:
    """The verdict on one network: the first of these rules that applies.

    1. Answers that do not repeat, are constant or are saturated: undecided.
    2. No logit and no gradient depends on the batch: "judges images" where its AUC is shown above 0.5.
    3. Only gradients depend on the batch: "learns from batches", likewise.
    4. No AUC of the curve differs from 0.5 (Bonferroni over the shares): undecided.
    5. Pure batches shown above 0.5, conflict shown below: "judges batches".
    6. Pure not shown above, mixed shown above: "judges by contrast".
    7. Pure and conflict shown above: all differences from pure within ±0.1, "judges images"; some AUC shown above pure
       and none below, "judges by contrast"; some shown below pure and every AUC above 0.5, "judges both".
    8. Otherwise undecided.

    Source: defined here.

    >>> auc = Estimate(0.8, 0.7, 0.9)
    >>> evidence = Evidence(256, 64, False, False, 4, curve=dict.fromkeys(SHARES, auc), auc_images=auc)
    >>> decide(evidence).kind
    'judges images'
    """
    return _not_measured(evidence) or (_coupled(evidence) if evidence.forward_coupled else _independent(evidence))


def over_runs(runs: Iterable[Evidence]) -> Verdict:
    """The verdict on a condition of several runs over seeds.

    A verdict that all runs share is the condition's. Where runs disagree, the same rule decides from Student's
    intervals over the runs, of which it takes three; runs that answer nothing (rule 1) are left out of these.
    """
    runs = list(runs)
    verdicts = [decide(run) for run in runs]
    if not runs:
        return Verdict("undecided", "no run was measured")
    if len(runs) == 1:
        return verdicts[0]
    kinds = Counter(verdict.kind for verdict in verdicts)
    (kind, _), *others = kinds.most_common()
    if not others:
        return _shared(kind, runs, verdicts)
    count = ", ".join(f"{n} of {len(runs)} {kind}" for kind, n in sorted(kinds.items()))
    answering = [run for run in runs if _not_measured(run) is None]
    if len(answering) < RUNS:
        return Verdict("undecided", f"the runs disagree ({count}), and an interval over runs takes {RUNS} that answer")
    verdict = decide(_pooled(answering))
    return Verdict(verdict.kind, f"the runs disagree ({count}); over {len(answering)} runs: {verdict.reason}")


# -- the rules --------------------------------------------------------------------------------------------------------


def _not_measured(e: Evidence) -> Verdict | None:
    """Rule 1, and what was not measured."""
    if not e.repeats:
        return _undecided("two calls on the same batch give different logits, so nothing can be compared")
    if e.constant:
        return _undecided("every logit is the same within rounding: a dead network judges nothing")
    if e.saturated:
        return _undecided("the outputs are exactly 0 or exactly 1: a saturated network ranks nothing")
    if CONFLICT not in e.curve:
        return _undecided("the conflict end was not measured")
    return None


def _independent(e: Evidence) -> Verdict:
    """Rules 2 and 3."""
    auc = e.auc_images or e.curve[PURE]
    kind, depends = "judges images", "it does not depend on the batch"
    head = "no logit and no gradient depends on the other images of the batch"
    if e.gradient_coupled:
        kind, head = "learns from batches", _SENTENCES["learns from batches"]
        depends = "only its gradients depend on the batch"
    elif not e.gradient_tested:
        head = "no logit depends on the other images of the batch, and gradients could not be tested"
        depends = "its logits do not depend on the batch (gradients could not be tested)"
    hidden = _hidden(e)
    if auc.above(CHANCE):
        return Verdict(kind, f"{head}; it ranks real above fake images with AUC {auc}{hidden}")
    if auc.low is None:
        return _undecided(f"{depends}, and AUC {auc} has no interval; measure again{hidden}")
    if auc.below(CHANCE):
        return _undecided(f"{depends}, and it ranks real and fake images the wrong way round (AUC {auc}){hidden}")
    unresolved = f"AUC {auc} is not shown to differ from 0.5{hidden}"
    return _undecided(f"{depends}, and it does not separate real from fake: {unresolved}")


def _coupled(e: Evidence) -> Verdict:
    """Rules 4 to 8."""
    pure, mixed, conflict = (e.curve.get(share, Estimate(math.nan)) for share in (PURE, MIXED, CONFLICT))
    if any(auc.low is None for auc in e.curve.values()):
        return _undecided(
            "its logits depend on the batch, and to show how takes at least "
            f"{BLOCKS * e.batch_size} images a class ({BLOCKS} batches of {e.batch_size}): got {e.images}"
        )
    wider = _bonferroni(len(e.curve), e.units)
    if not any(auc.above(CHANCE, wider) or auc.below(CHANCE, wider) for auc in e.curve.values()):
        return _undecided(
            "its logits depend on the batch, but it does not separate real from fake: no AUC is shown to differ "
            f"from 0.5 (pure batches {pure}, mixed {mixed}, conflict {conflict})"
        )
    if pure.above(CHANCE) and conflict.below(CHANCE):
        return Verdict("judges batches", _judges_batches(e, pure, conflict))
    if not pure.above(CHANCE):
        return _without_pure(pure, mixed)
    if conflict.above(CHANCE):
        return _above_at_both_ends(e, pure, conflict)
    return _undecided(
        f"its logits depend on the batch; it separates pure batches (AUC {pure}), but whether the other images "
        f"outweigh the image itself is not shown (conflict {conflict}): measure more images or seeds"
    )


def _judges_batches(e: Evidence, pure: Estimate, conflict: Estimate) -> str:
    """Rule 5."""
    within = ""
    if e.same_batch is not None:
        order = "at chance"
        if e.same_batch.above(CHANCE):
            order = "right"
        elif e.same_batch.below(CHANCE):
            order = "the wrong way round"
        within = f"; within one batch it ranks images {order} (AUC {e.same_batch})"
    return (
        "the other images of the batch outweigh the image: a real image among fakes is ranked below a fake among "
        f"real images (AUC {conflict}), while it separates batches of one class (AUC {pure}){within}"
    )


def _without_pure(pure: Estimate, mixed: Estimate) -> Verdict:
    """Rule 6."""
    if mixed.above(CHANCE):
        return Verdict(
            "judges by contrast",
            f"it separates real from fake only where both share a batch (AUC {mixed} in mixed batches, {pure} in pure)",
        )
    if pure.below(CHANCE):
        return _undecided(f"its logits depend on the batch, and it ranks pure batches the wrong way round (AUC {pure})")
    return _undecided(
        f"its logits depend on the batch, and it is not shown to separate pure batches (AUC {pure}) or mixed ones "
        f"({mixed}): measure more images or seeds"
    )


def _above_at_both_ends(e: Evidence, pure: Estimate, conflict: Estimate) -> Verdict:
    """Rule 7."""
    changes = list(e.changes.values())
    decreases = any(change.below(0) for change in changes)
    increases = any(change.above(0) for change in changes)
    ends = f"AUC {pure} in pure batches, {conflict} in conflict"
    if changes and all(change.within(EQUAL_WITHIN) for change in changes):
        return Verdict("judges images", f"the batch moves its logits, but not its ranks ({ends})")
    if increases and not decreases:
        return Verdict("judges by contrast", f"it ranks better where the other class is in the batch ({ends})")
    if decreases and all(auc.mean > CHANCE for auc in e.curve.values()):
        return Verdict(
            "judges both", f"the other images of the batch weaken its judgement, but do not reverse it ({ends})"
        )
    curve = ", ".join(f"{auc.mean:.2f}" for _, auc in sorted(e.curve.items(), reverse=True))
    if any(auc.below(CHANCE) for auc in e.curve.values()):
        return _undecided(f"its composition curve is not monotone (AUC {curve} from pure to conflict)")
    return _undecided(
        f"its logits depend on the batch, but the change of its AUC is not resolved ({curve} from pure to conflict): "
        "measure more images or seeds"
    )


# -- helpers ----------------------------------------------------------------------------------------------------------

_COUNTS = ("images", "batch_size", "units", "hidden_layers")
_FLAGS = ("forward_coupled", "gradient_coupled", "repeats", "constant", "saturated", "gradient_tested")


def _undecided(reason: str) -> Verdict:
    return Verdict("undecided", reason)


def _hidden(e: Evidence) -> str:
    if not e.hidden_layers:
        return ""
    names = ", ".join(repr(name) if name else "the network's own code" for name in e.hidden_names)
    return (
        f"; but inside, {names or 'a layer'} couples the batch, its effect multiplied by zero at these weights: it "
        "appears as soon as training moves them"
    )


def _bonferroni(tests: int, units: int) -> float:
    """How many times longer the arms of a Student interval over `units` get at 1 − 0.05/tests than at 0.95."""
    from scipy import stats

    freedom = max(units - 1, 1)
    return float(stats.t.ppf(1 - 0.025 / tests, freedom) / stats.t.ppf(0.975, freedom))


def _shared(kind: str, runs: Sequence[Evidence], verdicts: Sequence[Verdict]) -> Verdict:
    reasons = Counter(verdict.reason for verdict in verdicts)
    count = f"{len(runs)} of {len(runs)} runs"
    if len(reasons) == 1:
        return Verdict(kind, f"{count}: {verdicts[0].reason}")
    if kind == "undecided":
        reason, n = reasons.most_common(1)[0]
        return Verdict(kind, f"{count}, {n} of them since {reason}")
    pooled = _pooled(runs)  # for its numbers; the kind is the runs' own
    pure, conflict = (pooled.curve[share] for share in (PURE, CONFLICT))
    return Verdict(kind, f"{count}: {_SENTENCES[kind]} (mean AUC {pure} in pure batches, {conflict} in conflict)")


_SENTENCES = {
    "judges images": "its judgement of an image does not depend on the other images of the batch",
    "learns from batches": "it judges images, but its gradients depend on the other images of the batch",
    "judges by contrast": "it ranks better where real and fake images share a batch",
    "judges both": "the other images of the batch weaken its judgement, but do not reverse it",
    "judges batches": "a real image among fakes is ranked below a fake among real images",
}


def _pooled(runs: Sequence[Evidence]) -> Evidence:
    """The evidence of several runs: Student's intervals over their means, cut at the limits of an AUC."""
    shares = [share for share in runs[0].curve if all(share in run.curve for run in runs)]
    changed = [share for share in runs[0].changes if all(share in run.changes for run in runs)]
    same_batch = [run.same_batch.mean for run in runs if run.same_batch is not None]
    over_images = [(run.auc_images or run.curve[PURE]).mean for run in runs]
    return replace(
        runs[0],
        forward_coupled=any(run.forward_coupled for run in runs),
        gradient_coupled=any(run.gradient_coupled for run in runs),
        gradient_tested=all(run.gradient_tested for run in runs),
        units=len(runs),
        curve={share: _student([run.curve[share].mean for run in runs], 0.0, 1.0) for share in shares},
        changes={share: _student([run.changes[share].mean for run in runs], -1.0, 1.0) for share in changed},
        auc_images=_student(over_images, 0.0, 1.0),
        same_batch=_student(same_batch, 0.0, 1.0) if len(same_batch) == len(runs) else None,
        hidden_layers=max(run.hidden_layers for run in runs),
        hidden_names=max((run.hidden_names for run in runs), key=len),
    )


def _student(values: Sequence[float], least: float, most: float) -> Estimate:
    """The mean of one value a run, with Student's interval cut at the limits; no interval of fewer than RUNS."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < RUNS:
        return Estimate(mean)
    from scipy import stats

    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Estimate(mean, max(mean - half, least), min(mean + half, most))


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {}
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _estimate(values: Mapping[str, float], name: str) -> Estimate | None:
    if name not in values:
        return None
    return Estimate(values[name], values.get(f"{name}_low"), values.get(f"{name}_high"))


def _by_share(values: Mapping[str, float], head: str) -> dict[float, Estimate]:
    """The estimates that metrics name by a share after `head`, the largest share first."""
    shares = {share for share in SHARES if head + share_name(share) in values}
    rests = (name.removeprefix(f"{head}share_") for name in values if name.startswith(f"{head}share_"))
    shares |= {float(rest) for rest in rests if not rest.endswith(("_low", "_high"))}
    estimates = {share: _estimate(values, head + share_name(share)) for share in sorted(shares, reverse=True)}
    return {share: estimate for share, estimate in estimates.items() if estimate is not None}


def _with_slash(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
