"""Directions at initialization: the mean gradient, gradients by unit, and the Jacobian's singular values by depth."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from torch.nn import functional as F

from claims.common import TITLES, Result, claim, cross_entropy_of, curves_panel, each, images_with_labels, network_of
from gannorm import probes

LAYERS = (8, 20)
LOST = 1e30  # σ_max/σ_median where half of the directions are lost


def mean_gradient(options: argparse.Namespace) -> Result:
    """The mean gradient over eight batches of 32, by kernel, with BatchNorm and without.

    Question of a reviewer: is the part of the gradient that does not depend on the data radial (along the weights)?
    Criteria: without norm, more than half of ‖ḡ‖² of the median convolution is along w in every network; a random
    direction would have 1/d, under 0.01. With BatchNorm it is below 0.001 in every convolution, which counts only if
    the network without norm has a median ten times as large: a random direction would pass otherwise.
    """
    images, labels = images_with_labels(options, 256)
    batches = list(zip(images.split(32), labels.split(32), strict=True))
    numbers: dict[str, Any] = {"batches": len(batches), "batch": 32, "seeds": options.seeds, "rows": []}
    for depth in LAYERS:
        for seed in range(options.seeds):
            for norm in ("batch", "none"):
                network = network_of("plain", depth, norm, batches[0], seed=seed)
                result = probes.mean_gradient(network, cross_entropy_of, batches, steps=(0.03,))
                hidden = slice(0, -1)  # the last linear layer has no normalizer behind it
                noise = result.batch_variance / len(batches)
                row = {
                    "radial": result.radial_share[hidden].tolist(),
                    "signal_to_noise": (result.signal / result.batch_variance)[hidden].tolist(),
                    "noise_in_the_mean": (noise / result.mean_norm**2)[hidden].tolist(),
                    "fall_along": (result.loss - result.losses_along[hidden, 0]).tolist(),
                    "fall_across": (result.loss - result.losses_across[hidden, 0]).tolist(),
                }
                numbers["rows"].append({"depth": depth, "seed": seed, "norm": norm} | row)

    def values(norm: str, key: str, reduce: Any) -> np.ndarray:
        return np.array([reduce(r[key]) for r in numbers["rows"] if r["norm"] == norm])

    median = {n: float(np.median(values(n, "radial", np.median))) for n in ("batch", "none")}
    highest = float(values("batch", "radial", np.max).max())
    lowest = float(values("none", "radial", np.median).min())
    signal = {n: float(np.median(values(n, "signal_to_noise", np.median))) for n in ("batch", "none")}
    claims = {
        "without norm the data-independent gradient is radial": claim(
            lowest > 0.5,
            f"share of the mean gradient along w, median over convolutions, then networks: {each(median)}",
            "it points across the weights nearly as a random direction does",
        ),
        "with BatchNorm the data-independent gradient has no radial part": claim(
            highest < 1e-3 if median["none"] > 10 * median["batch"] else None,
            f"largest share along w in any convolution with BatchNorm {highest:.2g}; medians: {each(median)}",
            "without norm the share is as small as that of a random direction, so that BatchNorm's says little",
        ),
        "without norm the data-independent part is the larger part of a batch's gradient": claim(
            bool((values("none", "signal_to_noise", np.median) > 1).all()),
            "‖E∇‖² without its noise over the variance between batches, median over convolutions, then networks: "
            f"{each(signal)}",
            "with 32 images a batch and ten classes, what the batches do not share is larger",
        ),
    }
    deepest = [r for r in numbers["rows"] if r["depth"] == LAYERS[-1]]
    panels = []
    for key, title in (("radial", "share along w"), ("signal_to_noise", "signal to noise")):
        curves = {
            n: list(enumerate(np.mean([r[key] for r in deepest if r["norm"] == n], 0).tolist(), start=1))
            for n in ("batch", "none")
        }
        panels.append(curves_panel(f"{title}, {LAYERS[-1]} layers", curves, "layer"))
    return numbers, claims, panels


def units(options: argparse.Namespace) -> Result:
    """Variance of the gradient by a layer's output, between its units and between the images within a unit.

    Question of a reviewer: do the published figures show gradients that differ between units, or between images?
    Criterion: the median over the convolutions of variance between units over variance within them is above 1 without
    norm in every network, and larger without norm than with GroupNorm in every network. BatchNorm is no contrast: the
    gradient by what it normalizes has mean 0 over the batch in each unit, so that nothing is left between units.
    """
    images = images_with_labels(options, 128)
    numbers: dict[str, Any] = {"images": 128, "seeds": options.seeds, "rows": []}
    for depth in LAYERS:
        for seed in range(options.seeds):
            for norm in ("batch", "group", "none"):
                network = network_of("plain", depth, norm, images, seed=seed)
                result = probes.unit_variance(network, cross_entropy_of, images)
                row = {"ratio": result.ratio[:-1].tolist(), "layers": result.layers[:-1]}
                numbers["rows"].append({"depth": depth, "seed": seed, "norm": norm} | row)
    names = ("batch", "group", "none")
    ratio = {n: np.array([np.median(r["ratio"]) for r in numbers["rows"] if r["norm"] == n]) for n in names}
    measured = (
        "variance between units over within them, median over convolutions, then networks: "
        f"{each({n: float(np.median(v)) for n, v in ratio.items()})}"
    )
    larger = int((ratio["none"] > ratio["group"]).sum())
    claims = {
        "without norm gradients differ more between units than between the images within a unit": claim(
            bool((ratio["none"] > 1).all()), measured, "most of the variance is between images, in every network"
        ),
        "a normalizer that centres no batch lowers the share of the units, too": claim(
            larger == len(ratio["none"]),
            f"larger without norm than with GroupNorm in {larger} of {len(ratio['none'])} networks; {measured}",
        ),
    }
    deepest = [r for r in numbers["rows"] if r["depth"] == LAYERS[-1]]
    curves = {
        n: list(enumerate(np.mean([r["ratio"] for r in deepest if r["norm"] == n], 0).tolist(), start=1))
        for n in ("batch", "group", "none")
    }
    return numbers, claims, [curves_panel(f"between over within, {LAYERS[-1]} layers", curves, "layer")]


def conditioning(options: argparse.Namespace) -> Result:
    """σ_max/σ_median of the Jacobian from an image of 8×8 to the last hidden map at initialization, by depth.

    Criteria, of the growth ln κ(deepest) − ln κ(shallowest): without norm and with He's initialization it is above ln 2
    in every seed; with BatchNorm, with GroupNorm, with Fixup and with delta-orthogonal weights it is smaller than that
    in every seed. The network without norm is the contrast, and cannot pass; nor can an infinite κ, written as 1e30.
    """
    images, labels = images_with_labels(options, 16)
    small = (F.avg_pool2d(images, images.shape[2] // 8), labels)
    depths = (5, 10, 20, 50)
    conditions: dict[str, dict[str, Any]] = {
        "batch": {"norm": "batch"},
        "group": {"norm": "group"},
        "fixup": {"norm": "none", "kind": "residual", "initialization": "fixup"},
        "delta": {"norm": "none", "initialization": "delta_orthogonal"},
        "none": {"norm": "none"},
    }
    numbers: dict[str, Any] = {"depths": depths, "width": 8, "seeds": options.seeds, "rows": []}
    for name, setting in conditions.items():
        for depth in depths:
            for seed in range(options.seeds):
                network = network_of(
                    **{"kind": "plain", "depth": depth, "batch": small, "width": 8} | setting, seed=seed
                )
                last = "activation" if name == "fixup" else f"features.{len(network.features) - 2}"  # type: ignore[arg-type]
                result = probes.condition_number(network, small[0], layers=[last], images=1)
                numbers["rows"].append(
                    {"condition": name, "depth": depth, "seed": seed, "kappa": float(result.condition[0])}
                )

    def kappa(name: str, depth: int) -> np.ndarray:
        rows = [r for r in numbers["rows"] if r["condition"] == name and r["depth"] == depth]
        return np.nan_to_num(np.array([r["kappa"] for r in rows]), nan=LOST, posinf=LOST)

    growth = {n: np.log(kappa(n, depths[-1]) / kappa(n, depths[0])) for n in conditions}
    medians = {n: tuple(float(np.median(kappa(n, d))) for d in (depths[0], depths[-1])) for n in conditions}

    def measured(*names: str) -> str:
        values = "; ".join(f"{TITLES[n]} {medians[n][0]:.3g} and {medians[n][1]:.3g}" for n in names)
        return f"σ_max/σ_median, median over seeds, {depths[0]} and {depths[-1]} layers: {values}"

    grows = bool((growth["none"] > np.log(2)).all())
    claims = {
        "without norm the Jacobian's singular values spread with depth": claim(grows, measured("none")),
        **{
            f"with {TITLES[n]} they spread less": claim(
                bool((growth[n] < growth["none"]).all() and (kappa(n, depths[-1]) < LOST).all()) if grows else None,
                measured(n, "none"),
                "a strided delta kernel takes one pixel of each stride and drops the others, and their directions"
                if n == "delta"
                else "the cause was not found",
            )
            for n in ("batch", "group", "fixup", "delta")
        },
    }
    curves = {n: [(float(d), float(np.median(kappa(n, d)))) for d in depths] for n in conditions}
    return numbers, claims, [curves_panel("σ_max/σ_median", curves, "layers", log=True, log_x=True)]
