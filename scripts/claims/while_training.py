"""Covariate shift, landscape, noisy BatchNorm and learning rates: while networks train."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from claims.common import TITLES, Result, accuracy_at, claim, classifier, curves_panel, each, mean_by
from claims.criteria import USABLE, learned
from gannorm import probes
from gannorm.models import Discriminator
from gannorm.probes.optimization.internal_covariate_shift import layers_of
from gannorm.seeds import stream

LEAST_GAIN = 0.05  # of test accuracy: a smaller gain of BatchNorm over no normalizer is noise of two or three seeds
# Batch Renorm as published is BatchNorm for its first 5000 passes; these runs have 150.
OPEN_EARLY = "{start: 20, r_end: 60, d_end: 60, momentum: 0.1}"
TOO_CLOSE = "BatchNorm and no normalizer are too close here for the claim to fail"


def deep_linear(options: argparse.Namespace) -> Result:
    """25 layers of 10×10, 1000 Gaussian samples, full-batch gradient descent: covariate shift at two learning rates."""
    steps, every = 200, 40
    numbers: dict[str, Any] = {"steps": steps, "depth": 25, "width": 10, "samples": 1000, "seeds": options.seeds}
    rows = numbers["rows"] = []
    for rate in (1e-7, 1e-6):
        for name, norm in (("none", None), ("batch", nn.BatchNorm1d)):
            for seed in range(options.seeds):
                problem = probes.deep_linear_network(normalizer=norm, generator=stream(seed, "deep linear"))
                rows += [
                    {"rate": rate, "norm": name, "seed": seed} | row for row in _descend(problem, rate, steps, every)
                ]

    def chosen(rate: float, name: str) -> list[dict[str, Any]]:
        return [r for r in rows if r["rate"] == rate and r["norm"] == name]

    def measured(key: str, rate: float, last: bool = False) -> dict[str, float]:
        found = {n: [r[key] for r in chosen(rate, n) if not last or r["step"] == steps] for n in ("none", "batch")}
        return {n: float(np.median(values)) for n, values in found.items()}

    cosine, loss = measured("cosine", 1e-7), measured("loss", 1e-7, last=True)
    fast, edge = measured("cosine", 1e-6), measured("effective_beta", 1e-6)
    claims = {
        "BatchNorm raises the covariate shift of the deep linear network": claim(
            cosine["batch"] < cosine["none"], f"learning rate 1e-7: median cosine of G and G': {each(cosine)}"
        ),
        "the plain deep linear network has almost no covariate shift": claim(
            cosine["none"] > 0.95, f"learning rate 1e-7: median cosine: {each(cosine)}"
        ),
        "the plain one has almost none at the published rate, 1e-6, too": claim(
            fast["none"] > 0.95,
            f"median cosine: {each(fast)}; learning rate times effective β: "
            f"{each({n: 1e-6 * beta for n, beta in edge.items()})} (2 is the edge of stability)",
            "at this rate, for a loss summed over the samples, both networks bounce at the edge of stability, where no "
            "gradient survives a step; the direction shows below it",
        ),
        "BatchNorm reaches the better loss nevertheless": claim(
            loss["batch"] < loss["none"], f"learning rate 1e-7, loss at step {steps}: {each(loss)}"
        ),
    }
    panels = []
    for key, title in (("loss", "loss"), ("cosine", "cosine of G and G'"), ("relative_distance", "‖G−G'‖/‖G‖")):
        for rate in (1e-7, 1e-6):
            curves = {n: mean_by(chosen(rate, n), "step", key) for n in ("none", "batch")}
            panels.append(curves_panel(f"{title}, rate {rate:g}", curves, "step", log=key != "cosine"))
    return numbers, claims, panels


def _descend(problem: probes.Problem, rate: float, steps: int, every: int) -> list[dict[str, Any]]:
    """Gradient descent; at every n-th step the shift of that step, medians over the layers that can have one."""
    network, loss, batch = problem
    rows = []
    for step in range(steps + 1):
        value = loss(network, batch)
        gradients = torch.autograd.grad(value, list(network.parameters()))
        if step % every == 0:
            before = probes.snapshot(network)
            after = {k: p - rate * g for (k, p), g in zip(before.items(), gradients, strict=True)}
            shift = probes.internal_covariate_shift(*problem, before, after)
            smooth = probes.landscape(*problem, rate)
            rows.append(
                {
                    "step": step,
                    "loss": value.item(),
                    "cosine": float(np.median(shift.cosine[1:])),  # the first layer has no layers before it
                    "relative_distance": float(np.median((shift.distance / shift.gradient_norm)[1:])),
                    "effective_beta": smooth.effective_beta,
                }
            )
        with torch.no_grad():
            for p, g in zip(network.parameters(), gradients, strict=True):
                p -= rate * g
    return rows


def training(options: argparse.Namespace) -> Result:
    """A classifier of the digits with BatchNorm, noisy BatchNorm, GroupNorm and none, at one learning rate."""
    names, steps = ("batch", "noisy", "group", "none"), 200
    layers = layers_of(Discriminator(image_size=16, channels=1))[1:]  # the first has none before it that could shift
    flags = (
        *(
            "--steps",
            str(steps),
            "--optimization_every",
            "25",
            "--test_every",
            "25",
            "--log_every",
            "25",
            "--optimization_budget",
            "1",
        ),
        f"--optimization_layers=[{','.join(f'classifier.{layer}' for layer in layers)}]",
    )
    rates = {"": 0.02, "_slow": 0.001}
    numbers: dict[str, Any] = {"flags": " ".join(flags), "rates": rates, "seeds": options.seeds}
    for name, slow in (*((name, "") for name in names), ("batch", "_slow"), ("none", "_slow")):
        prefix, rows = "optimization/classifier/", numbers.setdefault(name + slow, [])
        for seed in range(options.seeds):
            for record in classifier(options, name, rates[slow], seed, *flags).metrics():
                values = {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}
                values |= {k: record[k] for k in ("test/accuracy", "step") if k in record}
                if len(values) > 1:
                    rows.append({"seed": seed} | values)

    def by_seed(rows: str, key: str) -> list[float]:
        measured = [r for r in numbers[rows] if r.get(key) is not None]
        return [float(np.median([r[key] for r in measured if r["seed"] == seed])) for seed in range(options.seeds)]

    def median(key: str, slow: str = "", of: Sequence[str] = names) -> dict[str, float]:
        return {n: float(np.median(by_seed(n + slow, key))) for n in of}

    def shift(slow: str, of: Sequence[str]) -> tuple[bool, str]:
        """Whether it is lower with BatchNorm than without, in every seed and both measures; and the measures."""
        cosine, relative = "covariate_shift_cosine", "covariate_shift_relative"
        lower = [b > n for b, n in zip(*(by_seed(n + slow, cosine) for n in ("batch", "none")), strict=True)]
        lower += [b < n for b, n in zip(*(by_seed(n + slow, relative) for n in ("batch", "none")), strict=True)]
        edge = {n: rates[slow] * beta for n, beta in median("effective_beta", slow, of).items()}
        return all(lower), (
            f"learning rate {rates[slow]:g}, medians over steps, then seeds: cosine {each(median(cosine, slow, of))}; "
            f"‖G−G'‖/‖G‖ {each(median(relative, slow, of))}; learning rate times effective β {each(edge)}; lower "
            f"with BatchNorm than without in {sum(lower)} of {len(lower)} pairs of seeds and measures"
        )

    def wander(name: str, seed: int) -> float:
        """How far the moments move: their standard deviation over time, over their mean."""
        means = [r["input_mean"] for r in numbers[name] if r["seed"] == seed and r.get("input_mean") is not None]
        return float(np.std(means) / np.mean(means))

    drift = {n: float(np.median([wander(n, seed) for seed in range(options.seeds)])) for n in names}
    at_the_rate, slowly = shift("", names), shift("_slow", ("batch", "none"))
    widths = {
        title: median(key)
        for title, key in (
            ("loss band", "loss_band"),
            ("gradient predictiveness (worst)", "predictiveness_high"),
            ("effective β", "effective_beta"),
        )
    }
    last = {n: [r["test/accuracy"] for r in numbers[n] if "test/accuracy" in r and r["step"] == steps] for n in names}
    accuracy = {n: float(np.mean(values)) for n, values in last.items()}
    claims = {
        "BatchNorm does not lower the internal covariate shift, at a small rate": claim(not slowly[0], slowly[1]),
        "BatchNorm does not lower the internal covariate shift, at the rate of the training": claim(
            not at_the_rate[0],
            at_the_rate[1],
            "at this rate the network without norm is near the edge of stability (learning rate times β of 2), where "
            "every step turns the gradients; with BatchNorm it is far from it, and at a rate that is small for both "
            "the shift is no lower",
        ),
        **{
            f"the {title} is smaller with BatchNorm than without": claim(
                found["batch"] < found["none"], f"medians over steps, then seeds: {each(found)}"
            )
            for title, found in widths.items()
        },
        "noisy BatchNorm trains about as well as BatchNorm": claim(
            _keeps_half_of_the_gain(accuracy), f"test accuracy after {steps} steps: {each(accuracy)}", TOO_CLOSE
        ),
        "the moments of the layers' inputs move more with noisy BatchNorm than with BatchNorm": claim(
            drift["noisy"] > drift["batch"],
            "standard deviation over time over the mean, of the mean size of the channels' means, median over seeds: "
            f"{each(drift)}",
        ),
    }
    panels = []
    for key, title, log in (
        ("test/accuracy", "test accuracy", False),
        ("covariate_shift_cosine", "cosine of G and G'", False),
        ("covariate_shift_relative", "‖G−G'‖/‖G‖", True),
        ("loss_band", "width of the loss band", True),
        ("predictiveness_high", "gradient predictiveness, worst", True),
        ("effective_beta", "effective β", True),
    ):
        panels.append(curves_panel(title, {n: mean_by(numbers[n], "step", key) for n in names}, "step", log=log))
    return numbers, claims, panels


def rates(options: argparse.Namespace) -> Result:
    """A classifier of the digits at learning rates over three orders of magnitude, and longer at the smallest.

    A seed's largest usable rate is its largest with an accuracy above 0.5. Question of the reviewers: do GroupNorm,
    Batch Renorm and running statistics allow rates as large as BatchNorm? Criterion: their largest usable rate is no
    smaller in every seed (smaller in every seed: fails); not decided where BatchNorm's is not larger than that without
    norm in every seed, so that `none` cannot pass. Each rate is four times the one before; no less can be seen.

    No gain at an equal small rate: in every seed BatchNorm gains less than a fifth of what it gains with each network
    at its own best rate, and both have learned, since two guesses are equal; a fifth or more in every seed fails.
    """
    sweep, steps, longer = [0.001 * 4**k for k in range(7)], 150, 1500
    numbers: dict[str, Any] = {"learning_rates": sweep, "steps": steps, "longer": longer, "seeds": options.seeds}
    numbers["renorm_options"] = OPEN_EARLY
    names, seeds = ("batch", "group", "renorm", "running", "none"), range(options.seeds)
    for name in names:
        flags = ("--model.classifier.norm_options", OPEN_EARLY) if name == "renorm" else ()
        numbers[name] = [accuracy_at(options, name, rate, seed, steps, *flags) for rate in sweep for seed in seeds]
    for name in ("batch", "none"):
        numbers[f"{name}_longer"] = [accuracy_at(options, name, sweep[0], seed, longer) for seed in seeds]
    accuracy = {n: dict(mean_by(numbers[n], "rate", "accuracy")) for n in names}
    table = {n: np.array([r["accuracy"] for r in numbers[n]]).reshape(len(sweep), -1) for n in names}  # rates, seeds
    largest = {n: np.where(t > USABLE, np.array(sweep)[:, None], 0.0).max(0).tolist() for n, t in table.items()}
    best = {n: max(found.values()) for n, found in accuracy.items()}
    largest_gain = best["batch"] - best["none"]  # each at its own best rate
    small = sweep[0]
    at_small = {n: table[n][0].tolist() for n in ("batch", "none")}
    at_the_end = {n: [r["accuracy"] for r in numbers[f"{n}_longer"]] for n in ("batch", "none")}
    numbers |= {"largest_rate": largest, "best_accuracy": best, "accuracy_at_the_smallest_rate": at_small}

    def usable(*chosen: str) -> str:
        rates_of = (f"{TITLES[n]} {' and '.join(f'{rate:.3g}' for rate in largest[n])}" for n in chosen)
        return f"largest that passes an accuracy of 0.5, by seed: {'; '.join(rates_of)}"

    claims = {
        "BatchNorm allows a larger learning rate": claim(
            larger(largest["batch"], largest["none"]), usable("batch", "none"), "it does not in every seed"
        ),
        **{
            f"{TITLES[n]} allows a learning rate as large as BatchNorm's": claim(
                equally_large(largest, n), usable(n, "batch", "none")
            )
            for n in names[1:-1]
        },
        f"BatchNorm gives no gain at an equal small rate, after {steps} steps": claim(
            no_gain_at_small_rates(at_small, largest_gain),
            f"test accuracy at {small:g}: {_means(at_small)}; at the best rates: {each(best)}",
            f"the papers compare trained networks; these have not converged, see {longer} steps",
        ),
        f"BatchNorm gives no gain at an equal small rate, after {longer} steps": claim(
            no_gain_at_small_rates(at_the_end, largest_gain),
            f"test accuracy at {small:g}: {_means(at_the_end)}",
            TOO_CLOSE,
        ),
    }
    return (
        numbers,
        claims,
        [curves_panel("test accuracy", {n: list(f.items()) for n, f in accuracy.items()}, "learning rate", log_x=True)],
    )


def larger(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether the first is larger in every seed; False: in no seed."""
    more = [a > b for a, b in zip(one, other, strict=True)]
    if all(more):
        return True
    return None if any(more) else False


def equally_large(largest: Mapping[str, Sequence[float]], name: str) -> bool | None:
    """Whether a normalizer's largest usable rate is BatchNorm's or more in every seed; False: in no seed.

    Not decided unless BatchNorm's is larger than `none`'s in every seed.
    """
    if not larger(largest["batch"], largest["none"]):
        return None
    smaller = larger(largest["batch"], largest[name])
    return None if smaller is None else not smaller


def _keeps_half_of_the_gain(accuracy: Mapping[str, float]) -> bool | None:
    """Whether noisy BatchNorm keeps half of what BatchNorm gains over no normalizer, which `none` never does.

    Not decided where BatchNorm gains too little for the question to have an answer.
    """
    gain = accuracy["batch"] - accuracy["none"]
    if gain < LEAST_GAIN:
        return None
    return accuracy["noisy"] - accuracy["none"] >= gain / 2


def no_gain_at_small_rates(accuracy: Mapping[str, Sequence[float]], largest_gain: float) -> bool | None:
    """Whether BatchNorm gains less than a fifth of its gain at the best rates, in every seed; False: in no seed.

    Not decided where the gain at the best rates is too small for a fifth of it to be seen. It holds only where every
    seed of both has learned, since two guesses are equal.
    """
    if largest_gain < LEAST_GAIN:
        return None
    gains = [batch - none for batch, none in zip(accuracy["batch"], accuracy["none"], strict=True)]
    more = larger(gains, [largest_gain / 5] * len(gains))
    if more is None:
        return None
    if more:
        return False
    return True if learned(accuracy["batch"], accuracy["none"]) else None


def _means(accuracy: Mapping[str, Sequence[float]]) -> str:
    return each({n: float(np.mean(values)) for n, values in accuracy.items()})
