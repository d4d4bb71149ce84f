"""What a comparison reads from one run: accuracies, leak, coupling and scores, each reduced to one number.

A probe sees a few hundred images, so a run's value is the mean of its last probes; a companion swap is a proof, so its
value is the worst of all probes; a score, and a classifier's accuracy on all held-out images, is given as last, best
and mean level, since a run may peak and then fall.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from gannorm.comparison.conditions import STATISTICS, WEIGHTS, Run, score_values, text
from gannorm.comparison.intervals import ANY, Effect, Estimate, Limits, mean_level
from gannorm.errors import UserError

FINAL_PROBES = 5  # as many as make up the end of a run
MODES = ("train", "eval")
TOLD = 8  # runs that a remark names
DIVERGED = 2  # times the best FID, and the floor

# Facts of an evaluation that may differ between runs without making their scores incomparable.
PROTOCOL_DETAILS = ("seed", "versions", "device", "extractor_batch_dependence")
MODE = ("statistics", "standing_samples", "ema")  # of a protocol: how the generator was sampled

SHARE, SIGNED_SHARE, POSITIVE, FROM_ONE = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (1.0, math.inf)

NETWORKS = ("discriminator", "generator", "classifier")  # of which the optimization is measured
WHY = {  # its quantities, as the records name them: title and limits
    "covariate_shift_cosine": ("Cosine of G and G′", SIGNED_SHARE),
    "covariate_shift_relative": ("‖G−G′‖/‖G‖", POSITIVE),
    "loss_band": ("Width of the loss along the gradient", POSITIVE),
    "predictiveness_high": ("Largest change of the gradient", POSITIVE),
    "effective_beta": ("Effective β", POSITIVE),
    "kurtosis": ("Kurtosis of the gradient", FROM_ONE),
    "coherence": ("Coherence a/b", FROM_ONE),
    "alignment": ("Channel alignment σ₁²/Σσ²", SHARE),
    "effective_rank": ("Effective rank of the channels", FROM_ONE),
    "noise_to_signal": ("Noise to signal of the gradient", POSITIVE),
    "input_mean": ("Size of the inputs' means", POSITIVE),
    "input_variance": ("Variance of the inputs", POSITIVE),
    "majority_by_activation": ("Share of the majority, by output", SHARE),
    "majority_by_gradient": ("Share of the majority, by gradient", SHARE),
}

Measure = Callable[[Run], float | None]
CurveOfRun = Mapping[int, float]  # step → value


@dataclass(frozen=True)
class Quantity:
    """One number a run: its name in the files, its title for people, how it is read from a run, and its limits."""

    name: str
    title: str
    measure: Measure
    limits: Limits


@dataclass(frozen=True)
class Score:
    """A score of a network, over checkpoints or tests.

    Attributes:
        name: in the files.
        title: for people.
        better: "higher" or "lower".
        limits: of its values.
        real: name of real images' own score beside it; "" without.
        whose: the network, as a sentence goes on after the title.
        relative: whether a change is told in per cent.
    """

    name: str
    title: str
    better: str
    limits: Limits
    real: str = ""
    whose: str = " of the generator"
    relative: bool = True

    def change(self, effect: Effect) -> tuple[Estimate, str]:
        """How far a condition lies from the baseline, and its unit: per cent where they are told and mean something."""
        return (effect.percent, " %") if self.relative and effect.percent else (effect.difference, "")


SCORES = (
    Score("inception_score", "Inception score", "higher", FROM_ONE, "inception_score_real"),
    Score("fid", "FID", "lower", POSITIVE, "fid_floor"),
    Score("kid", "KID", "lower", ANY),  # its estimator is unbiased, and so takes negative values
    Score("precision", "Precision", "higher", SHARE),
    Score("recall", "Recall", "higher", SHARE),
    Score("reconstruction", "Reconstruction error", "lower", POSITIVE),
)
ACCURACY = Score("test/accuracy", "Accuracy on held-out images", "higher", SHARE, whose="", relative=False)


def final(name: str) -> Measure:
    """The mean of a metric's last FINAL_PROBES records in a run."""
    return _reduced(name, lambda curve: fmean(list(curve.values())[-FINAL_PROBES:]))


def score_curves(records: Sequence[Mapping[str, Any]]) -> str:
    """Each score over a run's checkpoints in a line: its best, its last, its mean level, and whether it diverged.

    The mean level is the area under the curve divided by its length. A run's scores have diverged where a generator's
    images were not finite, or where FID ends above twice its best and twice the floor of real images, so that the noise
    of a good score is none. Defined here.

    >>> records = [{"step": s, "fid": fid, "fid_floor": 2.0} for s, fid in ((0, 90.0), (10, 40.0), (20, 130.0))]
    >>> print(score_curves(records))
    FID               best 40 at step 10, last 130 at step 20, mean level 75
    diverged: FID ends above 2 times its best and the floor
    """
    records, lines, reasons = [score_values(record) for record in records], [], []
    for score in SCORES:
        curve = {record["step"]: record[score.name] for record in records if record.get(score.name) is not None}
        if not curve:
            continue
        best, last = _best(score)(curve), _last(curve)
        at = next(step for step, value in curve.items() if value == best)
        parts = (f"best {best:.4g} at step {at}", f"last {last:.4g} at step {max(curve)}")
        lines.append(f"{score.title:<17} {', '.join(parts)}, mean level {_level(curve):.4g}")
        floors = [r[score.real] for r in records if r.get(score.real) is not None]
        if score.name == "fid" and last > DIVERGED * max(best, *floors):
            reasons.append(f"FID ends above {DIVERGED} times its best and the floor")
    reasons += [f"images of step {record['step']} are not finite" for record in records if record.get("diverged")]
    return "\n".join(lines + ([f"diverged: {'; '.join(reasons)}"] if reasons else []))


def under_one_protocol(runs: Sequence[Run]) -> tuple[list[Run], dict[str, Any] | None, list[str]]:
    """The runs with the score records of the commonest protocol only, and of as common ones the newest.

    Scores compare only under one. A study that asks for others leaves as many old records as it adds.

    A reconstruction has a protocol of its own, such as how many images were sought; the same holds for it.

    Returns:
        The runs; the protocol, None if there are no scores; a remark when records were left out.
    """
    keys = [_protocol_key(record) for run in runs for record in run.scores]
    if not keys:
        return list(runs), None, []
    key, count = Counter(reversed(keys)).most_common(1)[0]  # ties go to what is met first: the newest
    kept = [replace(run, scores=[record for record in run.scores if _protocol_key(record) == key]) for run in runs]
    protocol = dict(next(record.get("protocol", {}) for run in kept for record in run.scores))
    others = len(keys) - count
    remarks = [f"{others} of {len(keys)} score records are left out: scores compare only under one protocol."]
    kept, sought, unlike = _under_one_reconstruction(kept)
    more = [f"{unlike} reconstructions are left out: they too compare only under one protocol."]
    return kept, protocol | sought, remarks * bool(others) + more * bool(unlike)


def _under_one_reconstruction(runs: list[Run]) -> tuple[list[Run], dict[str, Any], int]:
    """The runs with reconstructions of the commonest protocol only; that protocol; how many were left out."""
    name = "reconstruction_protocol"
    found = [_details(record[name]) for run in runs for record in run.scores if name in record]
    if not found:
        return runs, {}, 0
    key, count = Counter(reversed(found)).most_common(1)[0]
    kept = []
    for run in runs:
        records = [
            record if name not in record or _details(record[name]) == key else {**record, "reconstruction": None}
            for record in run.scores
        ]
        kept.append(replace(run, scores=records))
    return kept, {f"reconstruction.{k}": v for k, v in json.loads(key).items()}, len(found) - count


def scored_early(runs: Sequence[Run]) -> list[str]:
    """A remark where the last score of some runs lies further from their end than that of the others.

    Of each score apart: a reconstruction may be missing where the others are not.
    """
    early: list[str] = []
    for score in SCORES:
        kept = [run for run in runs if not run.ends_without_images]
        before = [(run.name, run.step - max(curve)) for run in kept if (curve := run.score(score.name))]
        least = min((steps for _, steps in before), default=0)
        early += [f"{name} ({steps} steps before its end)" for name, steps in before if steps > least]
    return [f"last scored earlier than the others, is a checkpoint damaged? {_listed(early)}."] * bool(early)


def scored_without_images(runs: Sequence[Run]) -> list[str]:
    """A remark on the runs whose generator had diverged when it was scored last: their condition's means lack them."""
    lost = [run.name for run in runs if run.ends_without_images]
    return [
        f"the last images of these generators are not finite: {_listed(lost)}. They have no last score and no mean "
        "level, and their conditions' means are over other runs, if any."
    ] * bool(lost)


def scored_unevenly(runs: Sequence[Run]) -> list[str]:
    """A remark where some runs were scored, or tested, at other steps than the others."""
    read = [(score, Run.series if score is ACCURACY else Run.score) for score in (*SCORES, ACCURACY)]
    uneven = [s.title for s, curve in read if len({frozenset(curve(run, s.name)) for run in runs} - {frozenset()}) > 1]
    return [
        f"not all runs were scored at the same steps ({', '.join(uneven)}): the best of more steps is better by chance "
        "alone, and a mean level is of other steps; compare the last ones."
    ] * bool(uneven)


def measured_unevenly(runs: Sequence[Run]) -> list[str]:
    """A remark for each kind of probe whose spacing differs between runs, and so what a run's value is the mean of."""
    remarks = []
    for key in ("probe_every", "optimization_every"):
        given = [run.config.get(key) for run in runs]
        spacings = sorted({every for every in given if isinstance(every, int)} - {0})
        if len(spacings) > 1:
            remarks.append(
                f"{key} is {' or '.join(map(str, spacings))}: a run's value is the mean of its last {FINAL_PROBES} "
                "probes, which lie closer together in some runs; curves show the steps that all seeds share."
            )
    return remarks


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:TOLD]) + (f" and {len(names) - TOLD} more" if len(names) > TOLD else "")


def by_sampling_mode(runs: Sequence[Run]) -> list[Run]:
    """Each run once a sampling mode of G under which it was scored, as if the mode were a part of its config.

    The probes are left out: the modes of a run have one discriminator.
    """
    modes = list(dict.fromkeys(mode for run in runs for record in run.scores if (mode := _mode(record))))
    if not modes:
        raise UserError("a comparison by mode needs scores: the runs have none; `gannorm evaluate --statistics all`.")
    split = []
    for run in runs:
        for statistics, weights in modes:
            records = [
                {**record, "protocol": {k: v for k, v in record["protocol"].items() if k not in MODE}}
                for record in run.scores
                if _mode(record) == (statistics, weights)
            ]
            if records or run.state != "finished":  # a diverged run has diverged in every mode
                config = {**run.config, STATISTICS: statistics, WEIGHTS: weights}
                split.append(replace(run, config=config, metrics={}, scores=records))
    return split


def _mode(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """(statistics, weights) under which a record was made; None where it does not say."""
    protocol = record.get("protocol", {})
    if "statistics" not in protocol:
        return None
    return text(protocol["statistics"]), "averaged" if protocol.get("ema") else "raw"


def _protocol_key(record: Mapping[str, Any]) -> str:
    return _details(record.get("protocol"))


def _details(protocol: Mapping[str, Any] | None) -> str:
    """A protocol as a key: equal where scores are comparable."""
    kept = {k: v for k, v in (protocol or {}).items() if k not in PROTOCOL_DETAILS}
    return json.dumps(kept, sort_keys=True, default=str)


# -- the list ---------------------------------------------------------------------------------------------------------


def _quantities() -> Iterator[Quantity]:
    for mode in MODES:
        p, where = f"probe/{mode}", f"({mode} mode)"
        for name, title, limits, measure in (
            ("accuracy_pure", "Accuracy in pure batches", SHARE, final),
            ("accuracy_mixed", "Accuracy in mixed batches", SHARE, final),
            ("accuracy_fall", "Accuracy, pure minus mixed", SIGNED_SHARE, _fall),
            ("auc_pure", "AUC in pure batches", SHARE, final),
            ("auc_mixed", "AUC in mixed batches", SHARE, final),
            ("auc_fall", "AUC, pure minus mixed", SIGNED_SHARE, _fall),
            ("leak_ratio", "Leak ratio", POSITIVE, final),
            ("icc_real", "ICC of logits among real images", SIGNED_SHARE, final),
            ("icc_fake", "ICC of logits among fakes", SIGNED_SHARE, final),
            ("coupling_ratio", "Coupling ratio", POSITIVE, final),
            ("common_mode_gain", "Common-mode gain", ANY, final),
            ("swap_max_change", "Largest logit change by a companion swap", POSITIVE, _over(max)),
            ("swap_bitwise_equal", "Bitwise equal in every companion swap", SHARE, _over(min)),
        ):
            yield Quantity(f"{mode}/{name}", f"{title} {where}", measure(f"{p}/{name}"), limits)
    for score in (*SCORES, ACCURACY):
        read = Run.series if score is ACCURACY else Run.score
        for name, title, reduce in (
            ("final", "last", _last),
            ("best", "best", _best(score)),
            ("level", "mean level over training", _level),
        ):
            measured = _reduced(score.name, reduce, read)
            if name != "best":
                measured = _of_the_end(measured)
            yield Quantity(f"{score.name}/{name}", f"{score.title}, {title}", measured, score.limits)
    for network in NETWORKS:
        for name, (title, limits) in WHY.items():
            yield Quantity(f"why/{network}/{name}", f"{title} ({network})", final(f"why/{network}/{name}"), limits)
    rate = "images_per_second"
    yield Quantity(rate, "Images per second in training, median", _over(median)(rate), POSITIVE)


def _reduced(
    name: str, reduce: Callable[[CurveOfRun], float], read: Callable[[Run, str], CurveOfRun] = Run.series
) -> Measure:
    """One number of a metric's curve over a run; None where there is none."""

    def measure(run: Run) -> float | None:
        curve = read(run, name)
        return reduce(curve) if curve else None

    return measure


def _of_the_end(measure: Measure) -> Measure:
    """None of a run whose generator had diverged at the end: what it scored before says nothing of where it ended."""
    return lambda run: None if run.ends_without_images else measure(run)


def _over(reduce: Callable[[Sequence[float]], float]) -> Callable[[str], Measure]:
    return lambda name: _reduced(name, lambda curve: reduce(list(curve.values())))


def _fall(name: str) -> Measure:
    kind = name.removesuffix("_fall")

    def measure(run: Run) -> float | None:
        pure, mixed = final(f"{kind}_pure")(run), final(f"{kind}_mixed")(run)
        return None if pure is None or mixed is None else pure - mixed

    return measure


def _last(curve: CurveOfRun) -> float:
    return curve[max(curve)]


def _best(score: Score) -> Callable[[CurveOfRun], float]:
    return lambda curve: max(curve.values()) if score.better == "higher" else min(curve.values())


def _level(curve: CurveOfRun) -> float:
    return mean_level(sorted(curve), [curve[step] for step in sorted(curve)])


QUANTITIES = tuple(_quantities())
