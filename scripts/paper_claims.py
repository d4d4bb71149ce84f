#!/usr/bin/env python
"""Do the papers' claims on why normalization helps hold here? Small experiments, a minute or a few each on one core.

    python scripts/paper_claims.py deep_linear        # covariate shift in the deep linear network
    python scripts/paper_claims.py training           # shift, landscape and noisy BatchNorm while a classifier trains
    python scripts/paper_claims.py rates              # the largest learning rate, and equal small ones
    python scripts/paper_claims.py moments            # channel moments by depth, 20 and 50 layers
    python scripts/paper_claims.py gradients --root DIR      # tails, coherence and alignment at initialization

Each writes NAME.json (settings, versions, hardware, every number, and per claim whether it holds) and NAME.png. The
last two take the digits, or with --root a folder of images with class folders.

Claims: Santurkar et al. 2018 (1805.11604) on covariate shift, landscape and noisy BatchNorm; Bjorck et al. 2018
(1806.02375) on gradients, moments and learning rates.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor, nn

from gannorm import probes
from gannorm.arguments import train_config
from gannorm.data import load_images
from gannorm.files import atomic_write, write_json, write_text
from gannorm.isolate import hooked
from gannorm.models import Discriminator, ResidualDiscriminator, initialize
from gannorm.probes.optimization.internal_covariate_shift import layers_of
from gannorm.report.plots import COLOURS, Panel, Plot, logarithmic, png
from gannorm.rundir import RunDir
from gannorm.seeds import stream
from gannorm.training import train
from gannorm.training.classifier import cross_entropy

REPOSITORY = Path(__file__).resolve().parent.parent
TITLES = {"batch": "BatchNorm", "noisy": "noisy BatchNorm", "group": "GroupNorm", "none": "none"}
COLOUR = dict(zip(TITLES, COLOURS, strict=False))
Curves = Mapping[str, Sequence[tuple[float, float]]]  # label → points
LEAST_GAIN = 0.05  # of test accuracy: a smaller gain of BatchNorm over no normalizer is noise of two or three seeds
TOO_CLOSE = "BatchNorm and no normalizer are too close here for the claim to fail"
OUTCOMES = {True: "Holds", False: "**Does not hold**", None: "**Not decided**"}
Result = tuple[dict[str, Any], dict[str, Any], list[Panel]]  # numbers; claim → {"holds", "measured"}; figure


# -- experiments ------------------------------------------------------------------------------------------------------


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

    def medians(key: str, rate: float, last: bool = False) -> dict[str, float]:
        values_of = {n: [r[key] for r in chosen(rate, n) if not last or r["step"] == steps] for n in ("none", "batch")}
        return {n: float(np.median(values)) for n, values in values_of.items()}

    cosine, loss = medians("cosine", 1e-7), medians("loss", 1e-7, last=True)
    fast, edge = medians("cosine", 1e-6), medians("effective_beta", 1e-6)
    claims = {
        "BatchNorm raises the covariate shift of the deep linear network": _claim(
            cosine["batch"] < cosine["none"], f"learning rate 1e-7: median cosine of G and G': {_listed(cosine)}"
        ),
        "the plain deep linear network has almost no covariate shift": _claim(
            cosine["none"] > 0.95, f"learning rate 1e-7: median cosine: {_listed(cosine)}"
        ),
        "the plain one has almost none at the published rate, 1e-6, too": _claim(
            fast["none"] > 0.95,
            f"median cosine: {_listed(fast)}; learning rate times effective β: "
            f"{_listed({n: 1e-6 * beta for n, beta in edge.items()})} (2 is the edge of stability)",
            "at this rate, for a loss summed over the samples, both networks oscillate at the edge of stability, where "
            "no gradient persists over a step; below it the claim holds",
        ),
        "BatchNorm reaches the better loss nevertheless": _claim(
            loss["batch"] < loss["none"], f"learning rate 1e-7, loss at step {steps}: {_listed(loss)}"
        ),
    }
    panels = []
    for key, title in (("loss", "loss"), ("cosine", "cosine of G and G'"), ("relative_distance", "‖G−G'‖/‖G‖")):
        for rate in (1e-7, 1e-6):
            curves = {n: _mean_by(chosen(rate, n), "step", key) for n in ("none", "batch")}
            panels.append(_lines(f"{title}, rate {rate:g}", curves, "step", log=key != "cosine"))
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
        rows = numbers[name + slow] = []
        for seed in range(options.seeds):
            for record in _classifier(options, name, rates[slow], seed, *flags).metrics():
                values = {
                    k.removeprefix("optimization/classifier/"): v
                    for k, v in record.items()
                    if k.startswith("optimization/c")
                }
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
            f"learning rate {rates[slow]:g}, medians over steps, then seeds: cosine "
            f"{_listed(median(cosine, slow, of))}; ‖G−G'‖/‖G‖ {_listed(median(relative, slow, of))}; "
            f"learning rate times effective β {_listed(edge)}; "
            f"lower with BatchNorm than without in {sum(lower)} of {len(lower)} pairs of seeds and measures"
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
        "BatchNorm does not lower the internal covariate shift, at a small rate": _claim(not slowly[0], slowly[1]),
        "BatchNorm does not lower the internal covariate shift, at the rate of the training": _claim(
            not at_the_rate[0],
            at_the_rate[1],
            "at this rate the network without norm is near the edge of stability (learning rate times β of 2), where "
            "every step turns the gradients; with BatchNorm it is far from it, and at a rate that is small for both "
            "the shift is no lower",
        ),
        **{
            f"the {title} is smaller with BatchNorm than without": _claim(
                found["batch"] < found["none"], f"medians over steps, then seeds: {_listed(found)}"
            )
            for title, found in widths.items()
        },
        "noisy BatchNorm trains about as well as BatchNorm": _claim(
            _keeps_half_of_the_gain(accuracy), f"test accuracy after {steps} steps: {_listed(accuracy)}", TOO_CLOSE
        ),
        "the moments of the layers' inputs move more with noisy BatchNorm than with BatchNorm": _claim(
            drift["noisy"] > drift["batch"],
            "standard deviation over time over the mean, of the mean size of the channels' means, median over seeds: "
            f"{_listed(drift)}",
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
        panels.append(_lines(title, {n: _mean_by(numbers[n], "step", key) for n in names}, "step", log=log))
    return numbers, claims, panels


def rates(options: argparse.Namespace) -> Result:
    """A classifier of the digits at learning rates over three orders of magnitude, and longer at the smallest."""
    sweep, steps, longer = [0.001 * 4**k for k in range(7)], 150, 1500
    numbers: dict[str, Any] = {"learning_rates": sweep, "steps": steps, "longer": longer, "seeds": options.seeds}
    for name in ("batch", "none"):
        seeds = range(options.seeds)
        numbers[name] = [_at_rate(options, name, rate, seed, steps) for rate in sweep for seed in seeds]
        numbers[f"{name}_longer"] = [_at_rate(options, name, sweep[0], seed, longer) for seed in seeds]
    accuracy = {n: dict(_mean_by(numbers[n], "rate", "accuracy")) for n in ("batch", "none")}
    largest = {n: max((r for r, a in found.items() if a > 0.5), default=0.0) for n, found in accuracy.items()}
    best = {n: max(found.values()) for n, found in accuracy.items()}
    largest_gain = best["batch"] - best["none"]  # each at its own best rate
    small = sweep[0]
    at_small = {n: accuracy[n][small] for n in accuracy}
    at_the_end = {n: float(np.mean([r["accuracy"] for r in numbers[f"{n}_longer"]])) for n in accuracy}
    numbers |= {"largest_rate": largest, "best_accuracy": best, "accuracy_at_the_smallest_rate": at_small}
    claims = {
        "BatchNorm allows a larger learning rate": _claim(
            largest["batch"] > largest["none"], f"largest that passes an accuracy of 0.5: {_listed(largest)}"
        ),
        f"BatchNorm gives no gain at an equal small rate, after {steps} steps": _claim(
            _no_gain(at_small, largest_gain),
            f"test accuracy at {small:g}: {_listed(at_small)}",
            f"the papers compare trained networks; these have not converged, see {longer} steps",
        ),
        f"BatchNorm gives no gain at an equal small rate, after {longer} steps": _claim(
            _no_gain(at_the_end, largest_gain), f"test accuracy at {small:g}: {_listed(at_the_end)}", TOO_CLOSE
        ),
    }
    return (
        numbers,
        claims,
        [_lines("test accuracy", {n: list(f.items()) for n, f in accuracy.items()}, "learning rate", log_x=True)],
    )


def _at_rate(options: argparse.Namespace, norm: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """Accuracy on held-out images after so many steps; that of a guess where the run diverged."""
    flags = ("--steps", str(steps), "--optimization_every", "0", "--test_every", str(steps), "--model.max_loss", "1000")
    run = _classifier(options, norm, rate, seed, *flags)
    finished = run.status()["state"] == "finished"
    accuracy = run.series("test/accuracy")[1][-1] if finished else 0.1
    return {"rate": rate, "seed": seed, "accuracy": accuracy, "loss": (run.series("loss")[1] or [None])[-1]}


def moments(options: argparse.Namespace) -> Result:
    """Channel means and variances at the input of every layer at initialization, 20 and 50 layers."""
    batch = _batch(options, 64)
    numbers: dict[str, Any] = {"batch": 64, "width": 16, "data": options.data, "initialization": "kaiming"}
    curves: dict[str, dict[str, Any]] = {}
    claims: dict[str, Any] = {}
    kinds = {"plain": "plain", "plain_wrapped": "circular padding", "residual": "residual"}
    last: dict[tuple[str, int, str], float] = {}  # second moment before the last convolution, over that of the first
    largest: dict[tuple[str, int, str], float] = {}
    for depth, kind, name in itertools.product((20, 50), kinds, ("batch", "none")):
        network = _network(kind, depth, name, batch)
        found = probes.signal_propagation(network, _loss, batch)
        hidden = slice(1, -2)  # from the first convolution's output to the last one's input
        second = np.array(
            [np.mean(m**2 + v) for m, v in zip(found.channel_means, found.channel_variances, strict=True)]
        )
        numbers[f"{kind}_{depth}_{name}"] = {
            "means": found.means[hidden].tolist(),
            "variances": found.variances[hidden].tolist(),
            "second_moments": second[hidden].tolist(),
            "majority_by_activation": found.majority_by_activation,
            "majority_by_gradient": found.majority_by_gradient,
        }
        relative = second[hidden] / second[1]
        last[kind, depth, name], largest[kind, depth, name] = float(relative[-1]), float(relative.max())
        curves.setdefault(f"{kinds[kind]}, {depth}", {})[name] = list(enumerate(second[hidden].tolist(), start=1))
    numbers["share_left_by_padding"] = padded = _share_left_by_padding(_network("plain", 50, "none", batch), batch[0])
    for kind in ("plain", "residual"):
        grown = {n: largest[kind, 50, n] / largest[kind, 20, n] for n in ("none", "batch")}
        measured = "; ".join(
            f"{TITLES[n]} {largest[kind, 20, n]:.3g} and {largest[kind, 50, n]:.3g}" for n in ("none", "batch")
        )
        claims[f"moments grow by orders of magnitude with depth only without norm ({kind})"] = _claim(
            grown["none"] > 10 and grown["batch"] < 50 / 20,  # no faster than the sum of the branches, which is linear
            f"largest second moment over the first layer's, 20 and 50 layers: {measured}",
            "Kaiming's initialization keeps the second moment inside a map, and what explodes is the sum of a residual "
            "stream. Here it decreases without norm, since zero padding takes (1−2/(3s))² at s×s pixels and most "
            f"layers see small maps: over 50 layers that leaves {padded:.2g}, measured "
            f"{last['plain', 50, 'none']:.2g}, and {last['plain_wrapped', 50, 'none']:.2g} with circular padding",
        )
    panels = [_lines(f"{title} layers: second moment", found, "layer", log=True) for title, found in curves.items()]
    return numbers, claims, panels


def _share_left_by_padding(network: nn.Module, images: Tensor) -> float:
    """What zero padding leaves of the second moment, from the first convolution's output to the last one's input."""
    shares: list[float] = []

    def count(module: Any, args: Any) -> None:
        size, k, stride = args[0].shape[2], module.kernel_size[0], module.stride[0]
        shares.append((1 - 2 / (k * size / stride)) ** 2)  # of k taps a position, one is missing at either end

    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    with hooked(m.register_forward_pre_hook(count) for m in convolutions), torch.no_grad():
        network(images)
    return float(np.prod(shares[1:-1]))


def gradients(options: argparse.Namespace) -> Result:
    """Kernel gradients at initialization: where do the published directions begin to show?"""
    papers = {"leak": 0.0, "pooled": True}  # ReLU, and the mean over the pixels before the last layer
    deep = {"kind": "residual", "depth": 50}
    changes: tuple[dict[str, Any], ...] = ({"width": 32}, {"images": 16}, {"leak": 0.0}, {"pooled": True}, papers)
    cases: list[dict[str, Any]] = [
        *({"kind": "plain", "depth": depth} for depth in (8, 20, 50)),
        *({"kind": "residual", "depth": depth} for depth in (10, 50, 106)),
        *(deep | change for change in changes),
        *({"kind": "residual", "depth": 106} | papers | change for change in ({}, {"images": 16}, {"width": 32})),
        {"kind": "plain", "depth": 50} | papers,
    ]
    default = {"width": 16, "images": 64, "leak": 0.2, "pooled": False}
    numbers: dict[str, Any] = {"data": options.data, "default": default, "rows": []}
    for case in cases:
        setting = default | case
        for name in ("batch", "none"):
            batch = _batch(options, setting["images"])
            shape = {key: setting[key] for key in ("width", "leak", "pooled")}
            network = _network(setting["kind"], setting["depth"], name, batch, **shape)
            convolutions = [
                n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
            ]
            places = {share: convolutions[int(share * (len(convolutions) - 1))] for share in (0.1, 0.5, 0.9)}
            found = probes.gradient_statistics(network, _loss, batch, layers=list(dict.fromkeys(places.values())))
            class_bias = probes.signal_propagation(network, _loss, batch)
            row = setting | {
                "norm": name,
                "layers": found.layers,
                "majority_by_gradient": class_bias.majority_by_gradient,
                "majority_by_activation": class_bias.majority_by_activation,
            }
            for key in ("coherence", "kurtosis", "range_ratio", "alignment", "effective_rank"):
                row[key] = getattr(found, key).tolist()
            numbers["rows"].append(row)
            print({k: np.round(v, 2) if isinstance(v, list) else v for k, v in row.items()}, flush=True)
    keys = ("kind", "depth", *default, "norm")
    rows = {tuple(r[key] for key in keys): r for r in numbers["rows"]}

    def by_norm(key: str, where: tuple[Any, ...]) -> str:
        return "; ".join(
            f"{TITLES[n]} {', '.join(f'{v:.3g}' for v in rows[(*where, n)][key])}" for n in ("none", "batch")
        )

    nearest = ("residual", 106, 16, 64, 0.0, True)
    bare, normed = rows[(*nearest, "none")], rows[(*nearest, "batch")]
    pulling = {n: [r["majority_by_gradient"] for r in numbers["rows"] if r["norm"] == n] for n in ("none", "batch")}
    share = {n: float(np.mean(values)) for n, values in pulling.items()}
    more = sum(none > batch for none, batch in zip(pulling["none"], pulling["batch"], strict=True))
    at_50 = {n: [rows["residual", 50, 16, 64, 0.2, pooled, n] for pooled in (False, True)] for n in ("none", "batch")}
    where = "residual, 106 layers, ReLU, pooled, at a tenth, half and nine tenths of the depth"
    claims = {
        "without norm a/b ≲ 3 in the last layers": _claim(
            bare["coherence"][-1] < 4, f"{where}: {by_norm('coherence', nearest)}"
        ),
        "without norm a/b ≲ 3 in every layer": _claim(
            max(bare["coherence"]) < 4,
            f"{where}: {by_norm('coherence', nearest)}",
            "early layers have 1024 pixels an image, over which summands of either sign cancel, with BatchNorm and "
            "without; the coherence decreases with fewer images and with more channels, and it needs the paper's last "
            "layers: with one weight a pixel, as in a discriminator, the images do not favour one class (share of the "
            f"majority by output {at_50['none'][0]['majority_by_activation']:.2f}), with the mean over pixels they do "
            f"({at_50['none'][1]['majority_by_activation']:.2f}), and a/b at nine tenths of 50 layers decreases from "
            f"{at_50['none'][0]['coherence'][-1]:.3g} to {at_50['none'][1]['coherence'][-1]:.3g}, with BatchNorm from "
            f"{at_50['batch'][0]['coherence'][-1]:.3g} to {at_50['batch'][1]['coherence'][-1]:.3g}",
        ),
        "with BatchNorm a/b ≳ 100 in deep layers": _claim(
            normed["coherence"][-1] > 100,
            f"{where}: {by_norm('coherence', nearest)}",
            "summands without any order give √n, n images times pixels: 256 at the first of these layers, 32 at 4×4 "
            "pixels, where the deepest are; with 16 images for 64 it is "
            f"{', '.join(f'{v:.3g}' for v in rows[('residual', 106, 16, 16, 0.0, True, 'batch')]['coherence'])}",
        ),
        "without norm the gradients have heavier tails": _claim(
            np.median(bare["kurtosis"]) > np.median(normed["kurtosis"]),
            f"kurtosis, {where}: {by_norm('kurtosis', nearest)}",
        ),
        "without norm the channels are aligned to lower rank": _claim(
            np.median(bare["effective_rank"]) < np.median(normed["effective_rank"]),
            f"effective rank, {where}: {by_norm('effective_rank', nearest)}",
        ),
        "without norm more images pull at one class by gradient than with BatchNorm": _claim(
            more > 2 / 3 * len(cases),
            f"in {more} of the {len(cases)} networks; mean share of the majority: {_listed(share)}",
        ),
    }
    panels = []
    for kind in ("plain", "residual"):
        for key, title in (("coherence", "a/b"), ("kurtosis", "kurtosis"), ("effective_rank", "effective rank of M")):
            curves = {
                n: [
                    (k[1], float(np.median(r[key])))
                    for k, r in rows.items()
                    if k[0] == kind and k[2:] == (*default.values(), n)
                ]
                for n in ("batch", "none")
            }
            panels.append(
                _lines(
                    f"{title}, {kind} (median of 3 layers)", curves, "layers", log=key != "effective_rank", log_x=True
                )
            )
    return numbers, claims, panels


EXPERIMENTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    f.__name__: f for f in (deep_linear, training, rates, moments, gradients)
}


# -- parts ------------------------------------------------------------------------------------------------------------


def _classifier(options: argparse.Namespace, norm: str, rate: float, seed: int, *flags: str) -> RunDir:
    """One run of the product itself, as `gannorm train --config classifier …`."""
    fixed = ("--progress", "false", "--wandb", "off", "--checkpoint_every", "0")
    factors = ("--model.classifier.norm", norm, "--model.learning_rate", str(rate), "--seed", str(seed))
    config = train_config(["--config", "classifier", *fixed, *flags, *factors]).to_dict()
    return train(config, Path(tempfile.mkdtemp(dir=options.scratch)) / "run")


def _batch(options: argparse.Namespace, images: int) -> tuple[Tensor, Tensor]:
    size = 16 if options.data == "digits" else 32
    data = load_images(options.data, "test", image_size=size, root=options.root)
    order = torch.randperm(len(data), generator=stream(0, "why"))[:images]
    assert data.labels is not None
    return data.pixels[order].float() / 127.5 - 1, data.labels[order]


def _network(
    kind: str,
    depth: int,
    norm: str,
    batch: tuple[Tensor, Tensor],
    width: int = 16,
    leak: float = 0.2,
    pooled: bool = False,
) -> nn.Module:
    """The classifier with at least `depth` layers with weights, at initialization, in train mode."""
    size, channels = batch[0].shape[2], batch[0].shape[1]
    settings: dict[str, Any] = {"image_size": size, "channels": channels, "width": width, "norm": norm, "outputs": 10}
    if kind == "residual":
        sizes = (size // 4).bit_length()
        network: nn.Module = ResidualDiscriminator(**settings, blocks=-(-(depth - 2) // (2 * sizes)))
    else:
        network = Discriminator(**settings, depth=depth)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and kind == "plain_wrapped":
            module.padding_mode = "circular"
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = leak
    if pooled:
        classifier: Any = network.logit
        mean = nn.Sequential(nn.Unflatten(1, (-1, 4, 4)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network.logit = nn.Sequential(mean, nn.Linear(classifier.in_features // 16, classifier.out_features))
    initialize(network, "kaiming", generator=stream(0, "why"))
    return network


def _loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(network(batch[0]), batch[1])


def _claim(holds: bool | None, measured: str, otherwise: str = "the cause was not found") -> dict[str, Any]:
    """Whether a claim holds (None: not decided), what was measured, and, where it does not hold, the cause."""
    decided = None if holds is None else bool(holds)
    return {"holds": decided, "measured": measured} | ({} if holds else {"cause": otherwise})


def _keeps_half_of_the_gain(accuracy: Mapping[str, float]) -> bool | None:
    """Whether noisy BatchNorm keeps half of what BatchNorm gains over no normalizer, which `none` never does.

    Not decided where BatchNorm gains too little for the question to have an answer.
    """
    gain = accuracy["batch"] - accuracy["none"]
    if gain < LEAST_GAIN:
        return None
    return accuracy["noisy"] - accuracy["none"] >= gain / 2


def _no_gain(accuracy: Mapping[str, float], largest_gain: float) -> bool | None:
    """Whether BatchNorm's gain at this rate is below a fifth of its gain at each network's own best rate.

    Not decided where the gain at the best rates is too small for a fifth of it to be seen.
    """
    if largest_gain < LEAST_GAIN:
        return None
    return accuracy["batch"] - accuracy["none"] < largest_gain / 5


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{TITLES[name]} {value:.3g}" for name, value in values.items())


def _mean_by(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    points: dict[float, list[float]] = {}
    for row in rows:
        if row.get(y) is not None:
            points.setdefault(row[x], []).append(row[y])
    return [(at, float(np.mean(values))) for at, values in sorted(points.items())]


def _lines(title: str, curves: Curves, x: str, log: bool = False, log_x: bool = False) -> Panel:
    def draw(ax: Axes) -> None:
        for name, points in curves.items():
            marker = "." if len(points) < 12 else ""
            ax.plot(*zip(*points, strict=True), color=COLOUR[name], label=TITLES[name], marker=marker)
        ax.set(title=title, xlabel=x)
        if log:
            logarithmic(ax)
        if log_x:
            logarithmic(ax, "x")

    return Panel(draw, title)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--root", default="", help="folder of images with class folders, in the place of the digits")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each condition, where there is training")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "why")
    options = parser.parse_args()
    options.data = "folder" if options.root else "digits"
    with tempfile.TemporaryDirectory(prefix="gannorm_why_") as options.scratch:
        numbers, claims, panels = EXPERIMENTS[options.experiment](options)
    root = " --root path/to/images" if options.root else ""
    content = {
        "command": f"python scripts/paper_claims.py {options.experiment}{root} --seeds {options.seeds}",
        "claims": claims,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "lightning", "numpy", "gannorm")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "numbers": numbers,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / f"{options.experiment}.json", _rounded(content))
    drawn = TITLES if options.experiment == "training" else ("batch", "none")
    legend = [(TITLES[name], COLOUR[name]) for name in drawn]
    plot = Plot(options.experiment, "", "", panels, (3.4, 2.5), (), (), legend)
    picture = Image.open(io.BytesIO(png(plot))).convert("RGB").quantize(64)  # a third of the size
    with atomic_write(options.output / f"{options.experiment}.png") as file:
        picture.save(file, "PNG", optimize=True)
    write_text(options.output / "README.md", _summary(options.output))
    for claim, result in claims.items():
        print(f"{OUTCOMES[result['holds']]}: {claim}: {result['measured']}")
    return 0


def _summary(folder: Path) -> str:
    """A page on all experiments whose results lie in the folder."""
    lines = [
        "# Why normalization helps: the papers' claims as small experiments",
        "",
        "Written by `scripts/paper_claims.py` from the JSON files here. Santurkar et al. 2018 (1805.11604) and",
        "Bjorck et al. 2018 (1806.02375) measured deep networks on CIFAR-10; these are small",
        "ones, on one core, so a claim that fails here is not refuted. The images behind",
        "`--root` were JPEG files of CIFAR-10.",
    ]
    for name in EXPERIMENTS:
        if (folder / f"{name}.json").exists():
            content = json.loads((folder / f"{name}.json").read_text())
            versions = ", ".join(f"{k} {v}" for k, v in content["versions"].items())
            lines += [
                "",
                f"## {name}",
                "",
                f"`{content['command']}` ({versions}; {content['hardware']['machine']})",
                "",
            ]
            for claim, result in content["claims"].items():
                cause = f" **Cause:** {result['cause']}." if "cause" in result else ""
                lines.append(f"- {OUTCOMES[result['holds']]}: {claim}. {result['measured']}.{cause}")
            lines += ["", f"![{name}]({name}.png)"]
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    """Six figures, and null for what strict JSON has no word for."""
    return json.loads(
        json.dumps(value, default=float),  # of NumPy's
        parse_float=lambda number: float(f"{float(number):.6g}"),
        parse_constant=lambda _: None,
    )


if __name__ == "__main__":
    sys.exit(main())
