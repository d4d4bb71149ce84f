"""Step by step: is the gradient consistent, how many weights change their sign, and who wins the tug of war?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from claims.common import (
    TITLES,
    Result,
    accuracy_of,
    claim,
    cross_entropy_of,
    curves_panel,
    descent,
    each,
    images_with_labels,
    mean_by,
    network_of,
)
from claims.criteria import Values, above, learned, only_with, shown
from gannorm import probes
from gannorm.isolate import hooked
from gannorm.probes.optimization.objective import norm

NAMES = ("batch", "group", "none")
CONSISTENT = 0.5  # cosine of 60 degrees; that of random directions is 0
BY_SEED = "mean over seeds with its interval"


def consistency(options: argparse.Namespace) -> Result:
    """Cosine of the gradients before and after each of 200 steps, on one batch that is not trained on, at two rates.

    Claim: gradients are fairly consistent throughout training. Criteria: with BatchNorm the median cosine of every
    tenth of the training is above 0.5 in every seed; not decided where none passes, too, or is not shown to be lower.
    And the mean cosine is higher with BatchNorm than without, and with GroupNorm than without, shown by the 95 %
    interval of the paired difference. Nothing is decided of a network that has not learned (accuracy under 0.5 in a
    seed), nor against one, since the gradients of a network that stands still are consistent.
    """
    steps, rates = 200, {"": 0.02, "_slow": 0.001}
    held_out, data = images_with_labels(options, 64), images_with_labels(options, 10_000, "train")
    numbers: dict[str, Any] = {"steps": steps, "rates": rates, "seeds": options.seeds}
    for slow, rate in rates.items():
        for name in NAMES:
            rows = numbers[name + slow] = []
            for seed in range(options.seeds):
                network = network_of("plain", 0, name, held_out, seed=seed)
                points = [probes.snapshot(network)]
                points += [probes.snapshot(network) for _ in descent(network, data, rate, steps, seed)]
                cosine = probes.gradient_consistency(network, cross_entropy_of, held_out, points).cosine
                tenths = np.nanmedian(cosine.reshape(10, -1), 1)
                rows.append({"seed": seed, "accuracy": accuracy_of(network, held_out), "tenths": tenths.tolist()})
                rows[-1]["mean"] = float(np.nanmean(cosine))
    claims: dict[str, Any] = {}
    panels = []
    for slow, rate in rates.items():
        rows = {n: numbers[n + slow] for n in NAMES}
        lowest = {n: [min(r["tenths"]) for r in rows[n]] for n in NAMES}
        means = {n: [r["mean"] for r in rows[n]] for n in NAMES}
        accuracy = {n: [r["accuracy"] for r in rows[n]] for n in NAMES}
        claims |= claims_on_consistency(lowest, means, accuracy, f"rate {rate:g}")
        curves = {
            n: [((k + 0.5) * steps / 10, float(v)) for k, v in enumerate(np.mean([r["tenths"] for r in rows[n]], 0))]
            for n in NAMES
        }
        panels.append(curves_panel(f"cosine of successive gradients, rate {rate:g}", curves, "step"))
    return numbers, claims, panels


def claims_on_consistency(
    lowest: Mapping[str, Values], means: Mapping[str, Values], accuracy: Mapping[str, Values], where: str
) -> dict[str, Any]:
    """Of the lowest tenth's cosine, the mean cosine and the accuracy, one a seed."""
    untrained = "not every network has learned here, and one that stands still is consistent"
    trained = {name: learned(accuracy[name], accuracy["none"]) for name in ("batch", "group")}
    holds = only_with(lowest["batch"], lowest["none"], CONSISTENT) if trained["batch"] else None
    reason = "with BatchNorm the gradients turn by more than 60 degrees in some part of the training"
    if holds is None:
        reason = "without norm they are as consistent, or the seeds do not decide" if trained["batch"] else untrained
    measured = "median cosine of the least consistent tenth, lowest seed: "
    claims = {
        f"with BatchNorm gradients are fairly consistent throughout training, {where}": claim(
            holds, measured + each({n: float(min(v)) for n, v in lowest.items()}), reason
        )
    }
    for name in ("batch", "group"):
        more = np.asarray(means[name]) - np.asarray(means["none"])
        both = each({n: float(np.mean(means[n])) for n in (name, "none")})
        claims[f"gradients are more consistent with {TITLES[name]} than without norm, {where}"] = claim(
            above(more) if trained[name] else None,
            f"mean cosine: {both}; difference, {BY_SEED}: {shown(more)}",
            "" if trained[name] else untrained,
        )
    return claims


def sign_changes(options: argparse.Namespace) -> Result:
    """The share of the weights whose sign a step changes, over 200 steps at the rate 0.02.

    Question: does BatchNorm make fewer weights change their sign? Criterion: ln(none/BatchNorm) of the mean share is
    shown above 0 by its 95 % interval over seeds; shown below 0 it fails. The same for the share over the relative
    length of the step, ‖Δw‖/‖w‖, since a longer step changes more signs of the same weights. `none` has 0 exactly.
    """
    steps, rate = 200, 0.02
    batch, data = images_with_labels(options, 64), images_with_labels(options, 10_000, "train")
    numbers: dict[str, Any] = {"steps": steps, "rate": rate, "seeds": options.seeds}
    for name in NAMES:
        rows = numbers[name] = []
        for seed in range(options.seeds):
            network = network_of("plain", 0, name, batch, seed=seed)
            before = probes.snapshot(network)
            for step in descent(network, data, rate, steps, seed):
                after = probes.snapshot(network)
                kernels = [key for key, value in after.items() if value.dim() > 1]
                length = norm(after[k] - before[k] for k in kernels) / norm(before[k] for k in kernels)
                share = float(np.mean(list(probes.sign_changes(network, before, after).values())))
                rows.append({"seed": seed, "step": step, "share": share, "length": length})
                before = after

    def by_seed(name: str, key: str) -> list[float]:
        return [float(np.mean([r[key] for r in numbers[name] if r["seed"] == s])) for s in range(options.seeds)]

    shares, lengths = ({n: by_seed(n, key) for n in NAMES} for key in ("share", "length"))
    panels = [
        curves_panel(title, {n: _smoothed(mean_by(numbers[n], "step", key)) for n in NAMES}, "step", log=True)
        for key, title in (("share", "share of signs that change"), ("length", "‖Δw‖/‖w‖ of a step"))
    ]
    return numbers, claims_on_signs(shares, lengths), panels


def claims_on_signs(shares: Mapping[str, Values], lengths: Mapping[str, Values]) -> dict[str, Any]:
    """Of the mean share and the mean relative length of a step, one a seed."""
    share = {n: np.asarray(v, dtype=float) for n, v in shares.items()}
    relative = {n: share[n] / np.asarray(lengths[n], dtype=float) for n in share}
    claims = {}
    for values, words, what in (
        (share, "fewer weights change their sign in a step with BatchNorm than without", "share of the weights"),
        (relative, "fewer do so for the length of the step", "share over ‖Δw‖/‖w‖"),
    ):
        ratio = np.log(values["none"] / values["batch"])
        means = each({n: float(v.mean()) for n, v in values.items()})
        claims[words] = claim(above(ratio), f"{what}: {means}; ln(none/BatchNorm), {BY_SEED}: {shown(ratio)}")
    return claims


def tug_of_war(options: argparse.Namespace) -> Result:
    """After each step the weights are rescaled so that every convolution's output has mean 0 and variance 1 a channel.

    Claim: the gradient step and such a normalization pull against each other, while BatchNorm, which the gradient goes
    through, ends this. Measured on 256 fixed images, of the moments (mean over standard deviation, and the logarithm of
    the standard deviation, of all channels): the drift in one step over the drift that the last rescaling removed, and
    their cosine; without rescaling (BatchNorm, none) the drift of the step before takes its place. Criterion: the mean
    cosine is shown above 0, so that a step pushes back in the direction that was just removed, and shown above
    BatchNorm's; one shown to be the other way fails. Steps in random directions have a cosine of 0.
    """
    steps, rate = 200, 0.02
    images, labels = images_with_labels(options, 256)
    data = images_with_labels(options, 10_000, "train")
    numbers: dict[str, Any] = {"steps": steps, "rate": rate, "images": len(labels), "seeds": options.seeds}
    names = ("rescaled", "batch", "none")
    for name in names:
        rows = numbers[name] = []
        for seed in range(options.seeds):
            network = network_of("plain", 0, "batch" if name == "batch" else "none", (images, labels), seed=seed)
            if name == "rescaled":
                rescale(network, images)
            at, last = moments_of(network, images), None
            for step in descent(network, data, rate, steps, seed):
                now = moments_of(network, images)
                drift = _drift(at, now)
                if last is not None:
                    size = float(drift.norm() / last.norm())
                    cosine = float(drift @ last / (drift.norm() * last.norm()))
                    rows.append({"seed": seed, "step": step, "ratio": size, "cosine": cosine})
                    rows[-1]["drift"] = float(drift.norm())
                last = drift
                if name == "rescaled":
                    rescale(network, images)
                    now = moments_of(network, images)
                at = now

    def by_seed(name: str, key: str) -> list[float]:
        return [float(np.mean([r[key] for r in numbers[name] if r["seed"] == s])) for s in range(options.seeds)]

    cosine = {n: by_seed(n, "cosine") for n in names}
    ratio = {n: float(np.median([r["ratio"] for r in numbers[n]])) for n in names}
    panels = [
        curves_panel(
            title, {n: _smoothed(mean_by(numbers[n], "step", key)) for n in names}, "step", log=key != "cosine"
        )
        for key, title in (("cosine", "cosine of drift and removed drift"), ("drift", "drift of the moments in a step"))
    ]
    return numbers, claims_on_the_tug_of_war(cosine, ratio), panels


def claims_on_the_tug_of_war(cosine: Mapping[str, Values], ratio: Mapping[str, float]) -> dict[str, Any]:
    """Of the mean cosine of the drift and the drift removed before it, one a seed; the ratio is stated beside it."""
    pushed = np.asarray(cosine["rescaled"], dtype=float)
    more = pushed - np.asarray(cosine["batch"], dtype=float)
    outcomes, means = (above(pushed), above(more)), each({n: float(np.mean(v)) for n, v in cosine.items()})
    holds = None if None in outcomes else all(outcomes)
    if False in outcomes:
        holds = False
    reason = "the seeds do not separate rescaled weights from BatchNorm, so that the measure is not used further"
    if holds is False:
        reason = (
            "with rescaled weights a step does not push the moments back, or with BatchNorm, where nothing is removed, "
            "successive steps drift alike even more; so the measure shows no tug of war and is not used further"
        )
    return {
        "steps push the moments back to where rescaling removed them from, more than with BatchNorm": claim(
            holds,
            f"cosine of a step's drift and the drift removed before: {means}; "
            f"with rescaled weights, {BY_SEED}: {shown(pushed)}; more than with BatchNorm: {shown(more)}; drift over "
            f"removed drift, median: {each(ratio)}",
            reason,
        )
    }


@torch.no_grad()
def rescale(network: nn.Module, images: Tensor) -> None:
    """Rescale each convolution, the first before the next: every channel of its output has mean 0 and variance 1."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions:
        outputs: list[Tensor] = []
        with hooked([convolution.register_forward_hook(lambda _, __, out, to=outputs: to.append(out))]):
            network(images)
        std, mean = torch.std_mean(outputs[0], (0, 2, 3), correction=0)
        assert convolution.bias is not None
        std = std.clamp_min(1e-6)
        convolution.weight /= std[:, None, None, None]
        convolution.bias.sub_(mean).div_(std)


@torch.no_grad()
def moments_of(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of every channel of every convolution's output, joined."""
    outputs: list[Tensor] = []
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    with hooked(m.register_forward_hook(lambda _, __, out: outputs.append(out)) for m in convolutions):
        network(images)
    moments = [torch.std_mean(out, (0, 2, 3), correction=0) for out in outputs]
    return torch.cat([mean for _, mean in moments]), torch.cat([std for std, _ in moments]).clamp_min(1e-6)


def _drift(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
    (mean, std), (new_mean, new_std) = before, after
    return torch.cat([(new_mean - mean) / std, (new_std / std).log()]).double()


def _smoothed(points: list[tuple[float, float]], of: int = 10) -> list[tuple[float, float]]:
    """Means of every ten points."""
    groups = [points[k : k + of] for k in range(0, len(points), of)]
    return [(float(np.mean([x for x, _ in g])), float(np.mean([y for _, y in g]))) for g in groups]
