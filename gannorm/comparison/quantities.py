"""The quantities of a run that a comparison reads: each metric and score, reduced to one number.

A probe sees a few hundred images, so a run's value is the mean of its last probes. A swap of the other images
proves coupling, so its value is the worst of the same probes. A score is given as last, best and mean level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from gannorm.comparison.intervals import ANY, Limits
from gannorm.comparison.runs import Run
from gannorm.comparison.scores import ACCURACY, FROM_ONE, POSITIVE, SCORES, SHARE, SIGNED_SHARE, best, last, level

FINAL_PROBES = 5  # the number of probes that count as the end of a run
MODES = ("train", "eval")
DEPENDENCE = "batch_dependence"
TRAIN = f"{DEPENDENCE}/train/"  # the mode in which D is trained, which the verdict is about
RATE = "images_per_second"
WITHOUT_IMAGES = "ends_without_images"  # a run's value 1: the images of its last scored step were not finite

# A float32 sum of some hundred terms is exact to about this share of its terms: less is 0 within rounding.
ROUNDING = 1e-6

NETWORKS = ("discriminator", "generator", "classifier")  # whose optimization is measured
OPTIMIZATION = {  # its quantities, as the records name them: title and limits
    "covariate_shift_cosine": ("Cosine of G and G′", SIGNED_SHARE),
    "covariate_shift_relative": ("‖G−G′‖/‖G‖", POSITIVE),
    "loss_band": ("Width of the loss along the gradient", POSITIVE),
    "predictiveness_high": ("Largest change of the gradient", POSITIVE),
    "effective_beta": ("Effective β", POSITIVE),
    "gradient_consistency": ("Cosine of the gradients before and after a step", SIGNED_SHARE),
    "sign_changes": ("Share of weights that change sign in a step", SHARE),
    "kurtosis": ("Kurtosis of the gradient", FROM_ONE),
    "coherence": ("Coherence a/b", FROM_ONE),
    "alignment": ("Channel alignment σ₁²/Σσ²", SHARE),
    "effective_rank": ("Effective rank of the channels", FROM_ONE),
    "radial": ("Largest cosine of a weight and its gradient", SHARE),
    "unit_variance_ratio": ("Variance of the gradient, between units over within", ANY),  # unbiased, likewise
    "noise_to_signal": ("Noise to signal of the gradient", ANY),  # unbiased, and so takes negative values
    "input_mean": ("Size of the inputs' means", POSITIVE),
    "input_variance": ("Variance of the inputs", POSITIVE),
    "input_skewness": ("Size of the inputs' skewness", POSITIVE),
    "input_kurtosis": ("Size of the inputs' excess kurtosis", POSITIVE),
    "saturated": ("Share of saturated activations", SHARE),
    "majority_by_activation": ("Share of the majority, by output", SHARE),
    "majority_by_gradient": ("Share of the majority, by gradient", SHARE),
}


@dataclass(frozen=True)
class Quantity:
    """One number a run.

    Attributes:
        name: in the files: the metric's key, or "fid/final".
        title: for people.
        limits: of its values.
        over_runs: how the runs of a condition are combined. The worst of all runs ("max", "min") gets no interval and
            no effect: Student's t does not apply to an extreme. "ratio" is the absolute ratio of two means, by Fieller.
        rounding: smaller absolute values are 0 within rounding.
    """

    name: str
    title: str
    limits: Limits
    over_runs: Literal["mean", "max", "min", "ratio"] = "mean"
    rounding: float = 0.0


def measured(run: Run) -> dict[str, float]:
    """Quantity → the run's number: one line of runs.csv.

    Beside QUANTITIES, every other metric of batch dependence is kept, reduced in the same way: from these numbers alone
    the verdict can be computed again.
    """
    values: dict[str, float] = {}
    for key, curve in run.metrics.items():
        if key.startswith(f"{DEPENDENCE}/"):
            if _is_whole(key, run.metrics):
                values[key] = _dependence(key.rsplit("/", 1)[-1])(curve)
        elif key.startswith(tuple(f"optimization/{network}/" for network in NETWORKS)):
            values[key] = _end(curve)
    for mode in MODES:
        prefix = f"{DEPENDENCE}/{mode}/"
        for kind in ("auc", "accuracy"):
            pure, mixed = values.get(f"{prefix}{kind}_pure"), values.get(f"{prefix}{kind}_mixed")
            if pure is not None and mixed is not None:
                values[f"{prefix}{kind}_gap"] = pure - mixed
        values.pop(f"{prefix}leak_ratio", None)  # over seeds it is the ratio of the means, never the mean of ratios
    for score in (*SCORES, ACCURACY):
        curve = run.series(score.name) if score is ACCURACY else run.score(score.name)
        if curve:
            values[f"{score.name}/best"] = best(score)(curve)
            if not run.ends_without_images:  # earlier scores do not describe the end
                values |= {f"{score.name}/final": last(curve), f"{score.name}/level": level(curve)}
            else:
                values[f"{score.name}/last_finite"] = last(curve)
    if run.ends_without_images:
        values[WITHOUT_IMAGES] = 1.0
    if speed := run.series(RATE):
        values[RATE] = median(speed.values())
    return values


def _is_whole(key: str, metrics: Mapping[str, Mapping[int, float]]) -> bool:
    """Whether the last probes of a metric can be averaged: no index of a verdict, no interval that some probes lack."""
    value, _, end = key.rpartition("_")
    if end in ("low", "high"):
        return list(metrics.get(value, {}))[-FINAL_PROBES:] == list(metrics[key])[-FINAL_PROBES:]
    return not key.endswith("/verdict")


def _dependence(name: str) -> Callable[[Mapping[int, float]], float]:
    """How a run's probes of one quantity of batch dependence become one number.

    All describe the end of training, since a layer may couple at first and not later, as batch renormalization whose
    limits open. Numbers: the mean of the last probes; so are the two ends of their intervals. The standard deviation of
    a mean is at most the mean of the standard deviations, whether or not the probes share images, so the mean of the
    ends holds the mean of the values at least as often as the single intervals do. Facts: the worst case of the same
    probes. Coupling in one of them proves coupling, one failed repeat proves that answers do not repeat, and a network
    that was dead, or measured on fewer images, in one of them counts as such.
    """
    return _FACTS.get(name, _end)


def _end(curve: Mapping[int, float]) -> float:
    return fmean(list(curve.values())[-FINAL_PROBES:])


def _largest(curve: Mapping[int, float]) -> float:
    return max(list(curve.values())[-FINAL_PROBES:])


def _smallest(curve: Mapping[int, float]) -> float:
    return min(list(curve.values())[-FINAL_PROBES:])


_FACTS: dict[str, Callable[[Mapping[int, float]], float]] = {
    "swap_max_change": _largest,
    "swap_bitwise_equal": _smallest,
    "gradient_change": _largest,
    "forward_coupled": _largest,
    "gradient_coupled": _largest,
    "repeats": _smallest,
    "constant": _largest,
    "saturated": _largest,
    "hidden_layers": _largest,
    "images": _smallest,
    "batch_size": _smallest,
    "units": _smallest,
}


# -- the list ---------------------------------------------------------------------------------------------------------


def _quantities() -> Iterator[Quantity]:
    for mode in MODES:
        for name, title, limits, *more in (
            ("auc_pure", "AUC in pure batches", SHARE),
            ("auc_share_0.75", "AUC at own share 0.75", SHARE),
            ("auc_mixed", "AUC in mixed batches", SHARE),
            ("auc_share_0.25", "AUC at own share 0.25", SHARE),
            ("auc_conflict", "AUC in conflict: each image among images of the other class", SHARE),
            ("auc_one_own", "AUC at one own image: each image the only one of its class", SHARE),
            ("auc_gap", "AUC, pure minus mixed", SIGNED_SHARE),
            ("auc_same_batch", "AUC within one mixed batch", SHARE),
            ("auc_pure_training", "AUC in pure batches, on training images", SHARE),
            ("accuracy_pure", "Accuracy in pure batches", SHARE),
            ("accuracy_mixed", "Accuracy in mixed batches", SHARE),
            ("accuracy_conflict", "Accuracy in conflict", SHARE),
            ("accuracy_gap", "Accuracy, pure minus mixed", SIGNED_SHARE),
            ("decisions_follow_batch", "Share of decisions that follow the batch", SHARE),
            ("logit_real_among_real", "Logit of a real image among real ones", ANY),
            ("logit_real_among_fake", "Logit of a real image among fakes", ANY),
            ("logit_fake_among_real", "Logit of a fake among real images", ANY),
            ("logit_fake_among_fake", "Logit of a fake among fakes", ANY),
            ("leak_own", "Slope of the logit in the own class", ANY),
            ("leak_context", "Slope of the logit in the share of real images beside it", ANY, "mean", ROUNDING),
            ("leak_context_real", "The same slope, of real images", ANY, "mean", ROUNDING),
            ("leak_context_fake", "The same slope, of fakes", ANY, "mean", ROUNDING),
            ("leak_ratio", "Leak ratio, of the mean slopes", POSITIVE, "ratio", ROUNDING),
            ("companion_variance", "Share of variance from the other images", ANY, "mean", ROUNDING),
            ("uniformity_icc", "ICC of logits in batches of varied share", SIGNED_SHARE),
            ("uniformity_majority_share", "Share of a mixed batch on its majority side", SHARE),
            ("uniformity_sd_ratio", "SD within a batch over the distance of the classes", POSITIVE),
            ("coupling_ratio", "Coupling ratio", POSITIVE, "mean", ROUNDING),
            ("common_mode_gain", "Common-mode gain", ANY, "mean", ROUNDING),
            ("gradient_change", "Largest gradient change by other outputs' signs", POSITIVE, "max", ROUNDING),
            ("swap_max_change", "Largest logit change by a swap of the other images", POSITIVE, "max"),
            ("swap_bitwise_equal", "Bitwise equal in every swap", SHARE, "min"),
        ):
            yield Quantity(f"{DEPENDENCE}/{mode}/{name}", f"{title} ({mode} mode)", limits, *more)  # type: ignore[arg-type]
    yield Quantity(f"{DEPENDENCE}/generator/coupling_ratio", "Coupling ratio of G", POSITIVE, rounding=ROUNDING)
    yield Quantity(f"{DEPENDENCE}/generator/swap_max_change", "Largest change of G's images by a swap", POSITIVE, "max")
    for score in (*SCORES, ACCURACY):
        for name, title in (("final", "last"), ("best", "best"), ("level", "mean level over training")):
            yield Quantity(f"{score.name}/{name}", f"{score.title}, {title}", score.limits)
    for network in NETWORKS:
        for name, (title, limits) in OPTIMIZATION.items():
            yield Quantity(f"optimization/{network}/{name}", f"{title} ({network})", limits)
    yield Quantity(RATE, "Images per second in training, median", POSITIVE)


QUANTITIES = tuple(_quantities())
BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}
