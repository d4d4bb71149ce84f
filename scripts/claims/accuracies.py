"""What trained classifiers reach: sigmoids, regularization, Fixup, one layer of BatchNorm, and two processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from claims.common import (
    TITLES,
    Result,
    accuracy_at,
    accuracy_of,
    claim,
    cross_entropy_of,
    curves_panel,
    descent,
    each,
    images_with_labels,
    mean_by,
    network_of,
    seeds_panel,
)
from claims.criteria import USABLE, Values, above, keeps_half, learned, narrower, needed, shown, superfluous
from claims.steps import SMALL
from gannorm import probes
from gannorm.seeds import stream

ENOUGH = 0.8
WORSE = 0.02  # of held-out accuracy: what a narrower gap may cost
Measure = Callable[[str, float, int], dict[str, Any]]  # condition, rate, seed → a row with "rate" and "accuracy"


def at_rates(
    numbers: dict[str, Any], names: Sequence[str], rates: Sequence[float], seeds: int, measure: Measure
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Per condition the accuracies at its own best rate (by the mean), and the largest usable rates, one a seed."""
    best, largest = {}, {}
    for name in names:
        numbers[name] = [measure(name, rate, seed) for rate in rates for seed in range(seeds)]
        table = np.array([r["accuracy"] for r in numbers[name]]).reshape(len(rates), seeds)
        best[name] = table[int(table.mean(1).argmax())]
        usable = np.where(table > USABLE, np.array(rates)[:, None], rates[0] / 4)  # a step below the smallest: none
        largest[name] = usable.max(0)
    numbers |= {"rates": rates, "seeds": seeds, "largest_rate": {n: v.tolist() for n, v in largest.items()}}
    return best, largest


def means(values: Mapping[str, Values]) -> str:
    return each({name: float(np.mean(v)) for name, v in values.items()})


def sigmoid(options: argparse.Namespace) -> Result:
    """Eight layers with sigmoids, 400 steps at four rates, with BatchNorm, GroupNorm and none.

    Claim: training with sigmoids needs BatchNorm. Criteria, of test accuracy, each condition at its own best rate: with
    BatchNorm every seed is above 0.8, and without norm none is above 0.5; false where every seed passes 0.8 without.
    Training for longer is not tried, so that the claim is one on 400 steps.
    `none` in both places, or a network that does not train at all, cannot pass. That it needs a normalizer over the
    batch holds if, further, GroupNorm's seeds stay under 0.5, and not if they all pass 0.8.
    """
    rates, names = (0.02, 0.1, 0.5, 2.5), ("batch", "group", "none")
    flags = (*SMALL, "--model.classifier.depth", "8", "--model.classifier.activation", "sigmoid")
    flags += ("--model.initialization", "xavier")
    numbers: dict[str, Any] = {"flags": " ".join(flags), "steps": 400}
    seeds = range(options.seeds)
    best, _ = at_rates(
        numbers, names, rates, options.seeds, lambda n, rate, seed: accuracy_at(options, n, rate, seed, 400, *flags)
    )
    batch = images_with_labels(options, 64, size=8)
    setting: dict[str, Any] = {"activation": "sigmoid", "initialization": "xavier", "width": 8}
    numbers["variance_between_images"] = {
        name: [_between_images(network_of("plain", 8, name, batch, seed=seed, **setting), batch[0]) for seed in seeds]
        for name in names
    }
    return numbers, claims_on_sigmoids(best), [_by_rate(numbers, names)]


def _between_images(network: nn.Module, images: Tensor) -> float:
    """The share of the variance of the last layer's input that is along the images."""
    return list(probes.variance_by_dimension(network, images).layers.values())[-1].along["sample"]


def claims_on_sigmoids(best: Mapping[str, Values]) -> dict[str, Any]:
    """Of test accuracies at each condition's best rate, one a seed."""
    needs, over_the_batch = needed(best["batch"], best["none"], ENOUGH), needed(best["batch"], best["group"], ENOUGH)
    if over_the_batch is True and needs is not True:
        over_the_batch = None
    measured = f"test accuracy at the best of the rates: {means(best)}"
    return {
        "400 steps of training with sigmoids need BatchNorm or another normalizer": claim(
            needs, measured, "without norm they train, too" if needs is False else "the seeds lie between the bounds"
        ),
        "they need one over the batch": claim(
            over_the_batch,
            measured,
            "with GroupNorm they train, too" if over_the_batch is False else "the seeds lie between the bounds",
        ),
    }


def regularization(options: argparse.Namespace) -> Result:
    """Training less held-out accuracy on 200 digits of 8×8, 600 steps: BatchNorm, weight decay 0.03 and dropout 0.5.

    Every seed draws its own 200 training images. Claims: BatchNorm narrows the gap between training and held-out
    accuracy; more than weight decay, or dropout, does without it; and it makes them superfluous. Criteria: differences
    of the gap, paired by seed, are shown above 0 by their 95 % interval (below 0: fails; `none` has 0 exactly). A
    network that fits less has a narrow gap, too: it counts only if it is shown to be at most 0.02 worse on held-out
    images. Superfluous: with BatchNorm a regularizer gains less than half of the held-out accuracy that it gains
    without; not decided unless it is shown to gain without. Nothing is decided unless every seed of the networks that
    are compared has learned (held-out accuracy above 0.5).
    """
    steps, rate, decay, dropout = 600, 0.02, 0.03, 0.5
    images, labels = images_with_labels(options, 10_000, "train", 8)
    held_out = images_with_labels(options, 359, "test", 8)
    numbers: dict[str, Any] = {"steps": steps, "rate": rate, "weight_decay": decay, "dropout": dropout, "images": 200}
    gap: dict[str, list[float]] = {}
    accuracy: dict[str, list[float]] = {}
    for norm in ("batch", "none"):
        for kind in ("", "_decay", "_dropout"):
            name = norm + kind
            for seed in range(options.seeds):
                chosen = torch.randperm(len(labels), generator=stream(seed, "few images"))[:200]
                few = images[chosen], labels[chosen]
                drop = {"dropout": dropout} if kind == "_dropout" else {}
                network = network_of("plain", 0, norm, few, seed=seed, **drop)
                for _ in descent(network, few, rate, steps, seed, decay if kind == "_decay" else 0.0):
                    pass
                accuracy.setdefault(name, []).append(accuracy_of(network, held_out))
                gap.setdefault(name, []).append(accuracy_of(network, few) - accuracy[name][-1])
    numbers |= {"seeds": options.seeds, "gap": gap, "accuracy": accuracy}
    panels = [
        seeds_panel(title, {n: values[n] for n in values if n not in ("batch_decay", "batch_dropout")})
        for title, values in (("training less held-out accuracy", gap), ("held-out accuracy", accuracy))
    ]
    return numbers, claims_on_regularization(gap, accuracy), panels


def claims_on_regularization(gap: Mapping[str, Values], accuracy: Mapping[str, Values]) -> dict[str, Any]:
    """Of gaps and held-out accuracies by condition, one a seed."""
    g, a = ({n: np.asarray(v, dtype=float) for n, v in values.items()} for values in (gap, accuracy))
    kinds = {"decay": "weight decay", "dropout": "dropout"}
    claims = {}
    contrasts = {"none": "BatchNorm narrows the gap between training and held-out accuracy"}
    contrasts |= {
        f"none_{kind}": f"it narrows the gap more than {title} does without it" for kind, title in kinds.items()
    }
    for other, words in contrasts.items():
        pair = ("batch", other)
        holds, reason = narrower((g["batch"], g[other]), (a["batch"], a[other]), WORSE)
        claims[words] = claim(
            holds,
            f"gap: {means({n: g[n] for n in pair})}; difference over seeds: {shown(g[other] - g['batch'])}; held-out "
            f"accuracy: {means({n: a[n] for n in pair})}, BatchNorm's less the other's: {shown(a['batch'] - a[other])}",
            reason,
        )
    for kind, title in kinds.items():
        gains = {n: a[f"{n}_{kind}"] - a[n] for n in ("batch", "none")}
        trained = learned(a["batch"], a[f"batch_{kind}"], a["none"])
        holds = superfluous(gains["batch"], gains["none"]) if trained else None
        reason = "" if holds is None else f"with BatchNorm {title} gains as well"
        if above(gains["none"]) is not True:
            reason = f"{title} is not shown to help without BatchNorm here"
        if not trained:
            reason = "not every network has learned here"
        claims[f"with BatchNorm {title} is superfluous"] = claim(
            holds,
            f"held-out accuracy gained by {title}: with BatchNorm {shown(gains['batch'])}, without "
            f"{shown(gains['none'])}",
            reason,
        )
    return claims


def fixup(options: argparse.Namespace) -> Result:
    """The residual classifier of 26 layers with BatchNorm, with Fixup and with neither, 200 steps at five rates.

    Claim: Fixup trains as well as BatchNorm. Criterion, of test accuracy at each condition's own best rate, then of the
    logarithm of the largest usable rate (accuracy above 0.5): Fixup keeps half of what BatchNorm gains over neither,
    shown by the 95 % interval over seeds. Neither in the place of Fixup fails; not decided where BatchNorm gains
    nothing that is shown, nor of the largest rate where BatchNorm's is the largest one tried, since it may be larger.
    """
    rates, names = (0.005, 0.02, 0.08, 0.32, 1.28), ("batch", "fixup", "none")
    flags = (*SMALL, "--model.residual_blocks", "6")
    numbers: dict[str, Any] = {"flags": " ".join(flags), "steps": 200}

    def measure(name: str, rate: float, seed: int) -> dict[str, Any]:
        initialization = ("--model.initialization", "fixup") if name == "fixup" else ()
        norm = "batch" if name == "batch" else "none"
        return accuracy_at(options, norm, rate, seed, 200, *flags, *initialization)

    best, largest = at_rates(numbers, names, rates, options.seeds, measure)
    return numbers, claims_on_half(best, largest, "fixup", max(rates)), [_by_rate(numbers, names)]


def claims_on_half(
    best: Mapping[str, Values], largest: Mapping[str, Values], name: str, highest: float
) -> dict[str, Any]:
    """Whether a condition keeps half of BatchNorm's accuracy, and of its largest rate of those up to `highest`.

    Where BatchNorm's largest rate is the highest one tried, it may be larger: a candidate can then fail, but not pass.
    """
    claims = {}
    rates = {n: np.log(np.asarray(v, dtype=float)) for n, v in largest.items()}
    for values, words, measured in (
        (best, "accuracy", f"test accuracy at the best of the rates: {means(best)}"),
        (rates, "largest usable rate (logarithm)", f"largest usable rate, mean over seeds: {means(largest)}"),
    ):
        v = {n: np.asarray(of_seed, dtype=float) for n, of_seed in values.items()}
        holds = keeps_half(v["batch"], v[name], v["none"])
        reason = "" if holds is None else "it loses more than half of it"
        if above(v["batch"] - v["none"]) is not True:
            reason = "BatchNorm is not shown to gain here, so that nothing can be kept"
        elif holds and values is rates and max(largest["batch"]) >= highest:
            holds, reason = None, "BatchNorm trains at the largest rate that was tried, and may at larger ones"
        claims[f"{TITLES[name]} keeps half of BatchNorm's gain in {words}"] = claim(
            holds,
            f"{measured}; less half-way between BatchNorm and none: {shown(v[name] - (v['batch'] + v['none']) / 2)}",
            reason,
        )
    return claims


def one_layer(options: argparse.Namespace) -> Result:
    """20 layers with BatchNorm behind every convolution, behind the last one only, or none; 150 steps at five rates.

    Claim: one BatchNorm before the output gives much of the gain. Criteria: those of `fixup`, for the accuracy and for
    the largest usable rate. And at initialization of a plain network of 50 layers with ReLU and a mean over pixels,
    fewer images are given to the commonest class with one layer than with none, shown by the 95 % interval.
    """
    rates, names = (0.02, 0.08, 0.32, 1.28, 5.12), ("batch", "last", "none")
    flags = (*SMALL, "--model.classifier.depth", "20")
    numbers: dict[str, Any] = {"flags": " ".join(flags), "steps": 150}

    def measure(name: str, rate: float, seed: int) -> dict[str, Any]:
        only = ("--model.classifier.norm_layers", "last") if name == "last" else ()
        norm = "none" if name == "none" else "batch"
        return accuracy_at(options, norm, rate, seed, 150, *flags, *only)

    best, largest = at_rates(numbers, names, rates, options.seeds, measure)
    batch = images_with_labels(options, 64)
    majority: dict[str, list[float]] = {n: [] for n in names}
    for name in names:
        norm, layers = ("none", "all") if name == "none" else ("batch", "last" if name == "last" else "all")
        for seed in range(options.seeds):
            network = network_of("plain", 50, norm, batch, leak=0.0, pooled=True, seed=seed, norm_layers=layers)
            share = probes.signal_propagation(network, cross_entropy_of, batch).majority_by_activation
            assert share is not None  # the outputs are classes
            majority[name].append(share)
    numbers["majority"] = majority
    claims = claims_on_half(best, largest, "last", max(rates)) | claims_on_the_majority(majority)
    return numbers, claims, [_by_rate(numbers, names)]


def claims_on_the_majority(majority: Mapping[str, Values]) -> dict[str, Any]:
    """Of the share of images whose largest output is that of the commonest class, one a seed."""
    fewer = np.asarray(majority["none"], dtype=float) - np.asarray(majority["last"], dtype=float)
    return {
        "with one BatchNorm before the output fewer images are given to one class at initialization": claim(
            above(fewer), f"share of the commonest class: {means(majority)}; none less one layer: {shown(fewer)}"
        )
    }


def _by_rate(numbers: Mapping[str, Any], names: Sequence[str]) -> Any:
    curves = {n: mean_by(numbers[n], "rate", "accuracy") for n in names}
    return curves_panel("test accuracy", curves, "learning rate", log_x=True)
