#!/usr/bin/env python
"""Do the papers' claims on why normalization helps hold here? Small experiments, a minute or a few each on one core.

    python scripts/why.py deep_linear        # covariate shift in the deep linear network
    python scripts/why.py training           # shift, landscape and noisy BatchNorm while a classifier trains
    python scripts/why.py rates              # the largest learning rate, and equal small ones
    python scripts/why.py moments            # channel moments by depth, 20 and 50 layers
    python scripts/why.py gradients --root path/to/cifar10      # tails, coherence and alignment at initialization

Each writes NAME.json (settings, versions, hardware, every number, and per claim whether it holds) and NAME.png. The
last two take the digits, or with --root a folder of images with class folders.

Claims: Santurkar et al. 2018 (1805.11604) on covariate shift, landscape and noisy BatchNorm; Bjorck et al. 2018
(1806.02375) on gradients, moments and learning rates.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
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
from gannorm.arguments import parse, plain, train_parser
from gannorm.data import load_images
from gannorm.models import Discriminator, ResidualDiscriminator, initialize
from gannorm.rundir import RunDir, atomic_write, write_json, write_text
from gannorm.seeds import stream
from gannorm.studies.plots import COLOURS, Panel, Plot, png
from gannorm.training import train
from gannorm.training.classifier import cross_entropy

REPOSITORY = Path(__file__).resolve().parent.parent
TITLES = {"batch": "BatchNorm", "noisy": "noisy BatchNorm", "group": "GroupNorm", "none": "none"}
COLOUR = dict(zip(TITLES, COLOURS, strict=False))
Curves = Mapping[str, Sequence[tuple[float, float]]]  # label → points
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

    def told(key: str, rate: float, last: bool = False) -> dict[str, float]:
        found = {n: [r[key] for r in chosen(rate, n) if not last or r["step"] == steps] for n in ("none", "batch")}
        return {n: float(np.median(values)) for n, values in found.items()}

    cosine, loss = told("cosine", 1e-7), told("loss", 1e-7, last=True)
    fast, edge = told("cosine", 1e-6), told("effective_beta", 1e-6)
    claims = {
        "BatchNorm raises the covariate shift of the deep linear network": _claim(
            cosine["batch"] < cosine["none"], f"learning rate 1e-7: median cosine of G and G': {_told(cosine)}"
        ),
        "the plain deep linear network has almost no covariate shift": _claim(
            cosine["none"] > 0.95, f"learning rate 1e-7: median cosine: {_told(cosine)}"
        ),
        "the plain one has almost none at the published rate, 1e-6, too": _claim(
            fast["none"] > 0.95,
            f"median cosine: {_told(fast)}; learning rate times effective β: "
            f"{_told({n: 1e-6 * beta for n, beta in edge.items()})} (2 is the edge of stability)",
            "at this rate, for a loss summed over the samples, both networks bounce at the edge of stability, where no "
            "gradient survives a step; the direction shows below it",
        ),
        "BatchNorm reaches the better loss nevertheless": _claim(
            loss["batch"] < loss["none"], f"learning rate 1e-7, loss at step {steps}: {_told(loss)}"
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
    names, every = ("batch", "noisy", "group", "none"), 25
    flags = (
        "--steps",
        "200",
        "--why_every",
        str(every),
        "--why_budget",
        "1",
        "--test_every",
        "25",
        "--log_every",
        "25",
    )
    numbers: dict[str, Any] = {"flags": " ".join(flags), "seeds": options.seeds}
    for name in names:
        numbers[name] = []
        for seed in range(options.seeds):
            run = _classifier(*flags, *("--model.classifier.norm", name, "--seed", str(seed)))
            for record in run.metrics():
                values = {k.removeprefix("why/classifier/"): v for k, v in record.items() if k.startswith("why/c")}
                values |= {k: record[k] for k in ("test/accuracy", "step") if k in record}
                if len(values) > 1:
                    numbers[name].append({"seed": seed} | values)

    def mean(name: str, key: str) -> float:
        return float(np.median([r[key] for r in numbers[name] if r.get(key) is not None]))

    bands = {
        "loss band": lambda r: r["loss_high"] - r["loss_low"],
        "gradient predictiveness (worst)": lambda r: r["predictiveness_high"],
        "effective β": lambda r: r["effective_beta"],
    }
    widths = {
        title: {n: float(np.median([measure(r) for r in numbers[n] if r.get("loss_low") is not None])) for n in names}
        for title, measure in bands.items()
    }
    numbers["medians"] = widths
    accuracy = {
        n: float(np.mean([r["test/accuracy"] for r in numbers[n] if r.get("test/accuracy") and r["step"] == 200]))
        for n in names
    }
    cosines = {n: mean(n, "covariate_shift_cosine") for n in names}
    relative = {n: mean(n, "covariate_shift_relative") for n in names}
    claims = {
        "BatchNorm does not lower the internal covariate shift": _claim(
            cosines["batch"] <= cosines["none"] + 0.01,
            f"median cosine {_told(cosines)}; ‖G−G'‖/‖G‖ {_told(relative)}",
        ),
        **{
            f"the {title} is smaller with BatchNorm than without": _claim(
                found["batch"] < found["none"], f"medians over steps and seeds: {_told(found)}"
            )
            for title, found in widths.items()
        },
        "noisy BatchNorm trains about as well as BatchNorm": _claim(
            accuracy["noisy"] > accuracy["batch"] - 0.05, f"test accuracy after 200 steps: {_told(accuracy)}"
        ),
    }
    shown = {key: {n: _mean_by(numbers[n], "step", key) for n in names} for key in (
        "test/accuracy", "covariate_shift_cosine", "effective_beta", "predictiveness_high"
    )}  # fmt: skip
    spans = {
        n: _mean_by(
            [{"step": r["step"], "w": bands["loss band"](r)} for r in numbers[n] if r.get("loss_low") is not None],
            "step",
            "w",
        )
        for n in names
    }
    panels = [
        _lines("test accuracy", shown["test/accuracy"], "step"),
        _lines("cosine of G and G'", shown["covariate_shift_cosine"], "step"),
        _lines("width of the loss band", spans, "step", log=True),
        _lines("gradient predictiveness, worst of 8 steps", shown["predictiveness_high"], "step", log=True),
        _lines("effective β", shown["effective_beta"], "step", log=True),
    ]
    return numbers, claims, panels


def rates(options: argparse.Namespace) -> Result:
    """A classifier of the digits at learning rates over three orders of magnitude, and longer at the smallest."""
    sweep, steps, longer = [0.001 * 4**k for k in range(7)], 150, 1500
    numbers: dict[str, Any] = {"learning_rates": sweep, "steps": steps, "longer": longer, "seeds": options.seeds}
    for name in ("batch", "none"):
        seeds = range(options.seeds)
        numbers[name] = [_at_rate(name, rate, seed, steps) for rate in sweep for seed in seeds]
        numbers[f"{name}_longer"] = [_at_rate(name, sweep[0], seed, longer) for seed in seeds]
    accuracy = {n: dict(_mean_by(numbers[n], "rate", "accuracy")) for n in ("batch", "none")}
    largest = {n: max((r for r, a in found.items() if a > 0.5), default=0.0) for n, found in accuracy.items()}
    best = {n: max(found.values()) for n, found in accuracy.items()}
    small = sweep[0]
    at_small = {n: accuracy[n][small] for n in accuracy}
    at_the_end = {n: float(np.mean([r["accuracy"] for r in numbers[f"{n}_longer"]])) for n in accuracy}
    numbers |= {"largest_rate": largest, "best_accuracy": best, "accuracy_at_the_smallest_rate": at_small}
    claims = {
        "BatchNorm allows a larger learning rate": _claim(
            largest["batch"] > largest["none"], f"largest that passes an accuracy of 0.5: {_told(largest)}"
        ),
        f"BatchNorm gives no gain at an equal small rate, after {steps} steps": _claim(
            at_small["batch"] <= at_small["none"] + 0.05,
            f"test accuracy at {small:g}: {_told(at_small)}",
            f"the papers compare trained networks; these have not converged, see {longer} steps",
        ),
        f"BatchNorm gives no gain at an equal small rate, after {longer} steps": _claim(
            at_the_end["batch"] <= at_the_end["none"] + 0.05, f"test accuracy at {small:g}: {_told(at_the_end)}"
        ),
    }
    return (
        numbers,
        claims,
        [_lines("test accuracy", {n: list(f.items()) for n, f in accuracy.items()}, "learning rate", log_x=True)],
    )


def _at_rate(norm: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """Accuracy on held-out images after so many steps; that of a guess where the run diverged."""
    flags = ("--steps", str(steps), "--why_every", "0", "--test_every", str(steps), "--model.max_loss", "1000")
    factors = ("--model.classifier.norm", norm, "--model.learning_rate", str(rate), "--seed", str(seed))
    run = _classifier(*flags, *factors)
    finished = run.status()["state"] == "finished"
    accuracy = run.series("test/accuracy")[1][-1] if finished else 0.1
    return {"rate": rate, "seed": seed, "accuracy": accuracy, "loss": (run.series("loss")[1] or [None])[-1]}


def moments(options: argparse.Namespace) -> Result:
    """Channel means and variances at the input of every layer at initialization, 20 and 50 layers."""
    batch = _batch(options, 64)
    numbers: dict[str, Any] = {"batch": 64, "width": 16, "data": options.data, "initialization": "kaiming"}
    curves: dict[str, dict[str, Any]] = {}
    claims: dict[str, Any] = {}
    for depth in (20, 50):
        for kind in ("plain", "residual"):
            growth: dict[str, float] = {}
            for name in ("batch", "none"):
                found = probes.signal_propagation(_network(kind, depth, name, batch), _loss, batch)
                hidden = slice(1, -2)  # between the images and the last linear layer
                means, variances = found.means[hidden], found.variances[hidden]
                numbers[f"{kind}_{depth}_{name}"] = {
                    "means": means.tolist(),
                    "variances": variances.tolist(),
                    "majority_by_activation": found.majority_by_activation,
                    "majority_by_gradient": found.majority_by_gradient,
                }
                growth[name] = float(max(means.max() / means[0], variances.max() / variances[0]))
                curves.setdefault(f"{kind}, {depth} layers", {})[name] = list(enumerate(means**2 + variances, start=1))
            claims[f"moments grow by orders of magnitude with depth only without norm ({kind}, {depth} layers)"] = (
                _claim(
                    growth["none"] > max(100, 10 * growth["batch"]),
                    f"largest mean or variance, over the first layer's: {_told(growth)}",
                    "Kaiming's initialization keeps the second moment from layer to layer; what grows is the sum of a "
                    "residual stream. In the plain network the variance falls, towards one output for all images",
                )
            )
    panels = [_lines(f"second moment, {title}", found, "layer", log=True) for title, found in curves.items()]
    return numbers, claims, panels


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

    def told(key: str, where: tuple[Any, ...]) -> str:
        return "; ".join(
            f"{TITLES[n]} {', '.join(f'{v:.3g}' for v in rows[(*where, n)][key])}" for n in ("none", "batch")
        )

    nearest = ("residual", 106, 16, 64, 0.0, True)
    bare, normed = rows[(*nearest, "none")], rows[(*nearest, "batch")]
    where = "residual, 106 layers, ReLU, pooled, at a tenth, half and nine tenths of the depth"
    claims = {
        "without norm a/b ≲ 3 in the last layers": _claim(
            bare["coherence"][-1] < 4, f"{where}: {told('coherence', nearest)}"
        ),
        "without norm a/b ≲ 3 in every layer": _claim(
            max(bare["coherence"]) < 4,
            f"{where}: {told('coherence', nearest)}",
            "early layers have 1024 pixels an image, over which summands of either sign cancel, with BatchNorm and "
            "without; the coherence falls with fewer images and with more channels, and it needs the paper's last "
            "layers: with one weight a pixel, as in a discriminator, the images do not favour one class (share of the "
            f"majority by output {rows[('residual', 50, 16, 64, 0.2, False, 'none')]['majority_by_activation']:.2f}), "
            "with the mean over pixels they do "
            f"({rows[('residual', 50, 16, 64, 0.2, True, 'none')]['majority_by_activation']:.2f}), and a/b at nine "
            f"tenths of 50 layers falls from {rows[('residual', 50, 16, 64, 0.2, False, 'none')]['coherence'][-1]:.3g} "
            f"to {rows[('residual', 50, 16, 64, 0.2, True, 'none')]['coherence'][-1]:.3g}, with BatchNorm from "
            f"{rows[('residual', 50, 16, 64, 0.2, False, 'batch')]['coherence'][-1]:.3g} to "
            f"{rows[('residual', 50, 16, 64, 0.2, True, 'batch')]['coherence'][-1]:.3g}",
        ),
        "with BatchNorm a/b ≳ 100 in deep layers": _claim(
            normed["coherence"][-1] > 100,
            f"{where}: {told('coherence', nearest)}",
            "summands without any order give √n, n images times pixels: 256 at the first of these layers, 32 at 4×4 "
            "pixels, where the deepest are",
        ),
        "without norm the gradients have heavier tails": _claim(
            np.median(bare["kurtosis"]) > np.median(normed["kurtosis"]),
            f"kurtosis, {where}: {told('kurtosis', nearest)}",
        ),
        "without norm the channels are aligned to lower rank": _claim(
            np.median(bare["effective_rank"]) < np.median(normed["effective_rank"]),
            f"effective rank, {where}: {told('effective_rank', nearest)}",
        ),
        "without norm all images pull at one class by gradient": _claim(
            bare["majority_by_gradient"] > normed["majority_by_gradient"],
            f"majority: {_told({n: r['majority_by_gradient'] for n, r in (('none', bare), ('batch', normed))})}",
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


def _classifier(*flags: str) -> RunDir:
    """One run of the product itself, as `gannorm train --config configs/classifier.yaml …`."""
    config_file = str(REPOSITORY / "configs" / "classifier.yaml")
    fixed = ("--progress", "false", "--wandb", "off", "--checkpoint_every", "0")
    config = plain(parse(train_parser("classifier"), ["--config", config_file, *fixed, *flags]))
    config.pop("config")
    return train(config, Path(tempfile.mkdtemp(prefix="gannorm_why_")) / "run")


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
    if kind == "plain":
        network: nn.Module = Discriminator(**settings, depth=depth)
    else:
        sizes = (size // 4).bit_length()
        network = ResidualDiscriminator(**settings, blocks=-(-(depth - 2) // (2 * sizes)))
    for module in network.modules():
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


def _claim(holds: Any, measured: str, otherwise: str = "the cause was not found") -> dict[str, Any]:
    """Whether a claim holds, what was measured, and, where it does not, the cause."""
    return {"holds": bool(holds), "measured": measured} | ({} if holds else {"cause": otherwise})


def _told(values: Mapping[str, float]) -> str:
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
            ax.plot(
                *zip(*points, strict=True),
                color=COLOUR[name],
                label=TITLES[name],
                marker="." if len(points) < 12 else "",
            )
        ax.set(title=title, xlabel=x, yscale="log" if log else "linear", xscale="log" if log_x else "linear")
        ax.legend(loc="best")

    return Panel(draw, title)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--root", default="", help="folder of images with class folders, in the place of the digits")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each condition, where there is training")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "why")
    options = parser.parse_args()
    options.data = "folder" if options.root else "digits"
    numbers, claims, panels = EXPERIMENTS[options.experiment](options)
    root = " --root path/to/images" if options.root else ""
    content = {
        "command": f"python scripts/why.py {options.experiment}{root} --seeds {options.seeds}",
        "claims": claims,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "lightning", "numpy", "gannorm")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "numbers": numbers,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / f"{options.experiment}.json", _rounded(content))
    plot = Plot(options.experiment, "", "", panels, (3.4, 2.5), (), ())
    picture = Image.open(io.BytesIO(png(plot))).convert("RGB").quantize(64)  # a third of the size
    with atomic_write(options.output / f"{options.experiment}.png") as file:
        picture.save(file, "PNG", optimize=True)
    write_text(options.output / "README.md", _summary(options.output))
    for claim, found in claims.items():
        print(f"{'holds' if found['holds'] else 'DOES NOT HOLD'}: {claim}: {found['measured']}")
    return 0


def _summary(folder: Path) -> str:
    """A page on all experiments whose results lie in the folder."""
    lines = [
        "# Why normalization helps: the papers' claims as small experiments",
        "",
        "Written by `scripts/why.py` from the JSON files here. Santurkar et al. 2018 (1805.11604) and Bjorck et al.",
        "2018 (1806.02375) measured deep networks on CIFAR-10; these are small ones, on one core, so a direction that",
        "does not show here is not refuted. The images behind `--root` were JPEG files of CIFAR-10.",
    ]
    for name in EXPERIMENTS:
        if (folder / f"{name}.json").exists():
            found = json.loads((folder / f"{name}.json").read_text())
            versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
            lines += ["", f"## {name}", "", f"`{found['command']}` ({versions}; {found['hardware']['machine']})", ""]
            for claim, result in found["claims"].items():
                cause = f" **Why:** {result['cause']}." if "cause" in result else ""
                lines.append(
                    f"- {'Holds' if result['holds'] else '**Does not hold**'}: {claim}. {result['measured']}.{cause}"
                )
            lines += ["", f"![{name}]({name}.png)"]
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    """Six figures, and null for what strict JSON has no word for."""
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


if __name__ == "__main__":
    sys.exit(main())
