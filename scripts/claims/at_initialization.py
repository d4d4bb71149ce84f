"""Moments by depth and kernel gradients, at initialization."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from claims.common import TITLES, Result, claim, cross_entropy_of, curves_panel, each, images_with_labels, network_of
from gannorm import probes
from gannorm.isolate import hooked


def moments(options: argparse.Namespace) -> Result:
    """Channel means and variances at the input of every layer at initialization, 20 and 50 layers."""
    batch = images_with_labels(options, 64)
    numbers: dict[str, Any] = {"batch": 64, "width": 16, "data": options.data, "initialization": "kaiming"}
    curves: dict[str, dict[str, Any]] = {}
    claims: dict[str, Any] = {}
    kinds = {"plain": "plain", "plain_wrapped": "circular padding", "residual": "residual"}
    last: dict[tuple[str, int, str], float] = {}  # second moment before the last convolution, over that of the first
    largest: dict[tuple[str, int, str], float] = {}
    for depth, kind, name in itertools.product((20, 50), kinds, ("batch", "none")):
        network = network_of(kind, depth, name, batch)
        found = probes.signal_propagation(network, cross_entropy_of, batch)
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
    numbers["share_left_by_padding"] = padded = _share_left_by_padding(network_of("plain", 50, "none", batch), batch[0])
    for kind in ("plain", "residual"):
        grown = {n: largest[kind, 50, n] / largest[kind, 20, n] for n in ("none", "batch")}
        measured = "; ".join(
            f"{TITLES[n]} {largest[kind, 20, n]:.3g} and {largest[kind, 50, n]:.3g}" for n in ("none", "batch")
        )
        claims[f"moments grow by orders of magnitude with depth only without norm ({kind})"] = claim(
            grown["none"] > 10 and grown["batch"] < 50 / 20,  # no faster than the sum of the branches, which is linear
            f"largest second moment over the first layer's, 20 and 50 layers: {measured}",
            "Kaiming's initialization keeps the second moment inside a map, and what explodes is the sum of a residual "
            "stream. Here it drops without norm, since zero padding takes (1−2/(3s))² at s×s pixels and most layers "
            f"see small maps: over 50 layers that leaves {padded:.2g}, measured {last['plain', 50, 'none']:.2g}, and "
            f"{last['plain_wrapped', 50, 'none']:.2g} with circular padding",
        )
    panels = [
        curves_panel(f"{title} layers: second moment", found, "layer", log=True) for title, found in curves.items()
    ]
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
            batch = images_with_labels(options, setting["images"])
            shape = {key: setting[key] for key in ("width", "leak", "pooled")}
            network = network_of(setting["kind"], setting["depth"], name, batch, **shape)
            convolutions = [
                n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
            ]
            places = {share: convolutions[int(share * (len(convolutions) - 1))] for share in (0.1, 0.5, 0.9)}
            found = probes.gradient_statistics(
                network, cross_entropy_of, batch, layers=list(dict.fromkeys(places.values()))
            )
            class_bias = probes.signal_propagation(network, cross_entropy_of, batch)
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

    def stated(key: str, where: tuple[Any, ...]) -> str:
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
        "without norm a/b ≲ 3 in the last layers": claim(
            bare["coherence"][-1] < 4, f"{where}: {stated('coherence', nearest)}"
        ),
        "without norm a/b ≲ 3 in every layer": claim(
            max(bare["coherence"]) < 4,
            f"{where}: {stated('coherence', nearest)}",
            "early layers have 1024 pixels an image, over which summands of either sign cancel, with BatchNorm and "
            "without; the coherence drops with fewer images and with more channels, and it needs the paper's last "
            "layers: with one weight a pixel, as in a discriminator, the images do not favour one class (share of the "
            f"majority by output {at_50['none'][0]['majority_by_activation']:.2f}), with the mean over pixels they do "
            f"({at_50['none'][1]['majority_by_activation']:.2f}), and a/b at nine tenths of 50 layers drops from "
            f"{at_50['none'][0]['coherence'][-1]:.3g} to {at_50['none'][1]['coherence'][-1]:.3g}, with BatchNorm from "
            f"{at_50['batch'][0]['coherence'][-1]:.3g} to {at_50['batch'][1]['coherence'][-1]:.3g}",
        ),
        "with BatchNorm a/b ≳ 100 in deep layers": claim(
            normed["coherence"][-1] > 100,
            f"{where}: {stated('coherence', nearest)}",
            "summands without any order give √n, n images times pixels: 256 at the first of these layers, 32 at 4×4 "
            "pixels, where the deepest are; with 16 images for 64 it is "
            f"{', '.join(f'{v:.3g}' for v in rows[('residual', 106, 16, 16, 0.0, True, 'batch')]['coherence'])}",
        ),
        "without norm the gradients have heavier tails": claim(
            np.median(bare["kurtosis"]) > np.median(normed["kurtosis"]),
            f"kurtosis, {where}: {stated('kurtosis', nearest)}",
        ),
        "without norm the channels are aligned to lower rank": claim(
            np.median(bare["effective_rank"]) < np.median(normed["effective_rank"]),
            f"effective rank, {where}: {stated('effective_rank', nearest)}",
        ),
        "without norm more images pull at one class by gradient than with BatchNorm": claim(
            more > 2 / 3 * len(cases),
            f"in {more} of the {len(cases)} networks; mean share of the majority: {each(share)}",
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
                curves_panel(
                    f"{title}, {kind} (median of 3 layers)", curves, "layers", log=key != "effective_rank", log_x=True
                )
            )
    return numbers, claims, panels
