"""Where activations vary, and whether they are Gaussian: networks with and without BatchNorm."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from claims.common import (
    Result,
    claim,
    classifier,
    cross_entropy_of,
    curves_panel,
    each,
    images_with_labels,
    network_of,
)
from gannorm import probes
from gannorm.models import load_classifier
from gannorm.probes.optimization.variance_by_dimension import DIMENSIONS

DEPTHS = (8, 20, 50)
NEAR = 0.02  # a share that differs by less from one of another network is the scatter of 64 images


def variance(options: argparse.Namespace) -> Result:
    """Shares of the variance of every layer's input, after one step and after training, without a normalizer.

    Question: is there one dimension with wide variance, across which a normalizer could take its mean and leave the
    batch alone? Criterion: inside an image (along channels or positions) the inputs of the convolutions vary at least
    half as much as along the samples, in every hidden layer, in every seed. Inputs that are constant in an image fail.
    """
    images, _ = images_with_labels(options, 64)
    numbers: dict[str, Any] = {"images": 64, "seeds": options.seeds}
    curves: dict[str, list[tuple[float, float]]] = {}
    least: dict[str, float] = {}
    for moment, steps in (("after one step", 1), ("trained", 300)):
        rows = []
        for seed in range(options.seeds):
            flags = ("--steps", str(steps), "--optimization_every", "0", "--test_every", "0")
            run = classifier(options, "none", 0.02, seed, *flags, "--checkpoint_every", str(steps))
            network, _ = load_classifier(run.path)
            result = probes.variance_by_dimension(network.train(), images)
            hidden = list(result.layers.values())[1:-1]  # neither the images nor the flat features
            rows += [{"seed": seed, "layer": i, **layer.along} for i, layer in enumerate(hidden)]
        numbers[moment] = rows
        least[moment] = min(max(row["channel"], row["position"]) / row["sample"] for row in rows)
        for name in DIMENSIONS:
            points = [(i, float(np.mean([r[name] for r in rows if r["layer"] == i]))) for i in range(len(hidden))]
            curves[f"{name}, {moment}"] = points
    measured = ", ".join(f"{moment} {value:.3g}" for moment, value in least.items())
    claims = {
        "the inputs of every hidden layer vary inside an image at least half as much as between images": claim(
            min(least.values()) > 0.5,
            "variance along channels or positions, whichever is wider, over that along the samples, smallest of all "
            f"layers and seeds: {measured}",
        )
    }
    return numbers, claims, [curves_panel(title, {"none": points}, "layer") for title, points in curves.items()]


def gaussian(options: argparse.Namespace) -> Result:
    """Skewness, excess kurtosis and saturation of the layers' inputs at initialization, by depth, over seeds.

    Question: are the inputs of the layers closer to a Gaussian with BatchNorm than without? Criterion: the median over
    layers of |skewness|, and that of |excess kurtosis|, are smaller with BatchNorm in every seed and at every depth,
    for ReLU as for tanh: of n networks two equal conditions pass with a chance of 2^−n. Saturation of sigmoids: less
    with BatchNorm in every seed and depth, and by more than 0.02 of the units, or there is nothing to compare.
    """
    images = images_with_labels(options, 64)
    numbers: dict[str, Any] = {"images": 64, "depths": DEPTHS, "seeds": options.seeds, "rows": []}
    for activation in ("relu", "tanh", "sigmoid"):
        initialization = "kaiming" if activation == "relu" else "xavier"
        for depth in DEPTHS:
            for seed in range(options.seeds):
                for norm in ("batch", "none"):
                    network = network_of(
                        "plain", depth, norm, images, initialization=initialization, activation=activation, seed=seed
                    )
                    result = probes.signal_propagation(network, cross_entropy_of, images)
                    shapes = {"skewness": result.channel_skewness, "kurtosis": result.channel_kurtosis}
                    row = {
                        name: float(np.nanmedian([np.nanmedian(np.abs(layer)) for layer in layers[1:-1]]))
                        for name, layers in shapes.items()
                    }
                    row["saturated"] = float(np.mean(list(result.saturated.values()) or [0.0]))
                    setting = {"activation": activation, "depth": depth, "seed": seed, "norm": norm}
                    numbers["rows"].append(setting | row)

    def rows(activation: str, norm: str, key: str) -> np.ndarray:
        return np.array(
            [r[key] for r in numbers["rows"] if r["activation"] == activation and r["norm"] == norm]
        )  # depths, then seeds

    claims: dict[str, Any] = {}
    for activation in ("relu", "tanh"):
        for key, title in (("skewness", "skewness"), ("kurtosis", "excess kurtosis")):
            values = {norm: rows(activation, norm, key) for norm in ("batch", "none")}
            medians = {norm: float(np.median(of_norm)) for norm, of_norm in values.items()}
            smaller = int((values["batch"] < values["none"]).sum())
            claims[f"BatchNorm makes the inputs of the layers more Gaussian: {title}, {activation}"] = claim(
                smaller == len(values["batch"]),
                f"median |{title}| over layers, then networks: {each(medians)}; "
                f"smaller with BatchNorm in {smaller} of {len(values['batch'])} networks of depth 8, 20 and 50",
                "an affine map of a channel changes neither; what differs is what the layer before received",
            )
    saturated = {norm: rows("sigmoid", norm, "saturated") for norm in ("batch", "none")}
    mean = {norm: float(values.mean()) for norm, values in saturated.items()}
    seen = max(mean.values()) > NEAR
    claims["sigmoids saturate less with BatchNorm, at initialization"] = claim(
        bool((saturated["batch"] < saturated["none"]).all()) if seen else None,
        f"share of the outputs within 1 % of an end, mean over networks: {each(mean)}",
        "the cause was not found" if seen else "no sigmoid is driven to its ends, with BatchNorm or without",
    )
    panels = []
    for activation in ("relu", "tanh"):
        for key in ("skewness", "kurtosis"):
            curves = {
                n: [
                    (depth, float(values))
                    for depth, values in zip(
                        DEPTHS, rows(activation, n, key).reshape(len(DEPTHS), -1).mean(1), strict=True
                    )
                ]
                for n in ("batch", "none")
            }
            panels.append(curves_panel(f"|{key}|, {activation}", curves, "layers", log_x=True))
    return numbers, claims, panels
