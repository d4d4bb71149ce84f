"""What trained classifiers reach: sigmoids, regularization, Fixup, one layer of BatchNorm, and two processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from claims.common import (
    GUESS,
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
)
from claims.criteria import USABLE, Values, above, keeps_half, needed, shown, superfluous
from claims.steps import SMALL
from gannorm import probes

ENOUGH = 0.8
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
    `none` in both places, or a network that does not train at all, cannot pass. That it needs a normalizer over the
    batch holds if, further, GroupNorm's seeds stay under 0.5, and not if they all pass 0.8.
    """
    rates, names = (0.02, 0.1, 0.5, 2.5), ("batch", "group", "none")
    flags = (*SMALL, "--model.classifier.depth", "8", "--model.classifier.activation", "sigmoid")
    flags += ("--model.initialization", "xavier")
    numbers: dict[str, Any] = {"flags": " ".join(flags), "steps": 400}
    best, _ = at_rates(
        numbers, names, rates, options.seeds, lambda n, rate, seed: accuracy_at(options, n, rate, seed, 400, *flags)
    )
    return numbers, claims_on_sigmoids(best), [_by_rate(numbers, names)]


def claims_on_sigmoids(best: Mapping[str, Values]) -> dict[str, Any]:
    """Of test accuracies at each condition's best rate, one a seed."""
    needs, over_the_batch = needed(best["batch"], best["none"], ENOUGH), needed(best["batch"], best["group"], ENOUGH)
    if over_the_batch is True and needs is not True:
        over_the_batch = None
    measured = f"test accuracy at the best of the rates: {means(best)}"
    return {
        "training with sigmoids needs BatchNorm or another normalizer": claim(
            needs, measured, "without norm they train, too" if needs is False else "the seeds lie between the bounds"
        ),
        "it needs one over the batch": claim(
            over_the_batch,
            measured,
            "with GroupNorm they train, too" if over_the_batch is False else "the seeds lie between the bounds",
        ),
    }


def regularization(options: argparse.Namespace) -> Result:
    """Training less held-out accuracy on 200 digits of 8×8, 600 steps: BatchNorm, weight decay 0.03 and dropout 0.5.

    Claims: BatchNorm narrows the gap between training and held-out accuracy; more than weight decay, or dropout, does
    without it; and it makes them superfluous. Criteria: differences of the gap, paired by seed, are shown above 0 by
    their 95 % interval (below 0: fails; `none` has 0 exactly). Superfluous: with BatchNorm a regularizer gains less
    than half of the held-out accuracy that it gains without; not decided unless it is shown to gain without.
    """
    steps, rate, decay, dropout = 600, 0.02, 0.03, 0.5
    few, held_out = images_with_labels(options, 200, "train", 8), images_with_labels(options, 359, "test", 8)
    numbers: dict[str, Any] = {"steps": steps, "rate": rate, "weight_decay": decay, "dropout": dropout, "images": 200}
    gap: dict[str, list[float]] = {}
    accuracy: dict[str, list[float]] = {}
    for norm in ("batch", "none"):
        for kind in ("", "_decay", "_dropout"):
            name = norm + kind
            for seed in range(options.seeds):
                drop = {"dropout": dropout} if kind == "_dropout" else {}
                network = network_of("plain", 0, norm, few, seed=seed, **drop)
                for _ in descent(network, few, rate, steps, seed, decay if kind == "_decay" else 0.0):
                    pass
                accuracy.setdefault(name, []).append(accuracy_of(network, held_out))
                gap.setdefault(name, []).append(accuracy_of(network, few) - accuracy[name][-1])
    numbers |= {"seeds": options.seeds, "gap": gap, "accuracy": accuracy}
    panels = [
        curves_panel(
            title, {n: list(enumerate(values[n])) for n in values if n not in ("batch_decay", "batch_dropout")}, "seed"
        )
        for title, values in (("training less held-out accuracy", gap), ("held-out accuracy", accuracy))
    ]
    return numbers, claims_on_regularization(gap, accuracy), panels


def claims_on_regularization(gap: Mapping[str, Values], accuracy: Mapping[str, Values]) -> dict[str, Any]:
    """Of gaps and held-out accuracies by condition, one a seed."""
    g, a = ({n: np.asarray(v, dtype=float) for n, v in values.items()} for values in (gap, accuracy))
    kinds = {"decay": "weight decay", "dropout": "dropout"}
    claims = {}
    narrower = {"none": "BatchNorm narrows the gap between training and held-out accuracy"}
    narrower |= {
        f"none_{kind}": f"it narrows the gap more than {title} does without it" for kind, title in kinds.items()
    }
    for other, words in narrower.items():
        less = g[other] - g["batch"]
        claims[words] = claim(
            above(less), f"gap: {means({n: g[n] for n in ('batch', other)})}; difference over seeds: {shown(less)}"
        )
    for kind, title in kinds.items():
        gains = {n: a[f"{n}_{kind}"] - a[n] for n in ("batch", "none")}
        holds = superfluous(gains["batch"], gains["none"])
        helps = above(gains["none"]) is True
        claims[f"with BatchNorm {title} is superfluous"] = claim(
            holds,
            f"held-out accuracy gained by {title}: with BatchNorm {shown(gains['batch'])}, without "
            f"{shown(gains['none'])}",
            "the seeds do not decide" if helps else f"{title} is not shown to help without BatchNorm here",
        )
    return claims


def fixup(options: argparse.Namespace) -> Result:
    """The residual classifier of 26 layers with BatchNorm, with Fixup and with neither, 200 steps at three rates.

    Claim: Fixup trains as well as BatchNorm. Criterion, of test accuracy at each condition's own best rate, then of the
    logarithm of the largest usable rate (accuracy above 0.5): Fixup keeps half of what BatchNorm gains over neither,
    shown by the 95 % interval over seeds. Neither in the place of Fixup fails; not decided where BatchNorm gains
    nothing that is shown.
    """
    rates, names = (0.005, 0.02, 0.08, 0.32), ("batch", "fixup", "none")
    flags = (*SMALL, "--model.residual_blocks", "6")
    numbers: dict[str, Any] = {"flags": " ".join(flags), "steps": 200}

    def measure(name: str, rate: float, seed: int) -> dict[str, Any]:
        initialization = ("--model.initialization", "fixup") if name == "fixup" else ()
        norm = "batch" if name == "batch" else "none"
        return accuracy_at(options, norm, rate, seed, 200, *flags, *initialization)

    best, largest = at_rates(numbers, names, rates, options.seeds, measure)
    return numbers, claims_on_half(best, largest, "fixup"), [_by_rate(numbers, names)]


def claims_on_half(best: Mapping[str, Values], largest: Mapping[str, Values], name: str) -> dict[str, Any]:
    """Whether a condition keeps half of BatchNorm's accuracy, and of its largest rate, one a seed."""
    claims = {}
    rates = {n: np.log(np.asarray(v, dtype=float)) for n, v in largest.items()}
    for values, words, measured in (
        (best, "accuracy", f"test accuracy at the best of the rates: {means(best)}"),
        (rates, "largest usable rate (logarithm)", f"largest usable rate, mean over seeds: {means(largest)}"),
    ):
        v = {n: np.asarray(of_seed, dtype=float) for n, of_seed in values.items()}
        gains = above(v["batch"] - v["none"]) is True
        claims[f"{TITLES[name]} keeps half of BatchNorm's gain in {words}"] = claim(
            keeps_half(v["batch"], v[name], v["none"]),
            f"{measured}; less half-way between BatchNorm and none: {shown(v[name] - (v['batch'] + v['none']) / 2)}",
            "the seeds do not decide" if gains else "BatchNorm is not shown to gain here, so that nothing can be kept",
        )
    return claims


def one_layer(options: argparse.Namespace) -> Result:
    """20 layers with BatchNorm behind every convolution, behind the last one only, or none; 150 steps at four rates.

    Claim: one BatchNorm before the output gives much of the gain. Criteria: those of `fixup`, for the accuracy and for
    the largest usable rate. And at initialization of a plain network of 50 layers with ReLU and a mean over pixels,
    fewer images are given to the commonest class with one layer than with none, shown by the 95 % interval.
    """
    rates, names = (0.02, 0.08, 0.32, 1.28), ("batch", "last", "none")
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
            majority[name].append(GUESS if share is None else share)
    numbers["majority"] = majority
    claims = claims_on_half(best, largest, "last") | claims_on_the_majority(majority)
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
