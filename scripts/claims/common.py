"""What the experiments share: networks, runs, images, and a claim with what was measured."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from gannorm.commands.inputs.arguments import train_config
from gannorm.data import load_images
from gannorm.models import Discriminator, ResidualDiscriminator, initialize
from gannorm.report.plots import COLOURS, Panel, logarithmic
from gannorm.rundir import RunDir
from gannorm.seeds import stream
from gannorm.training import train
from gannorm.training.classifier import cross_entropy

TITLES = {
    "batch": "BatchNorm",
    "noisy": "noisy BatchNorm",
    "group": "GroupNorm",
    "none": "none",
    "fixup": "Fixup",
    "delta": "delta-orthogonal",
    "renorm": "Batch Renorm",
    "running": "running statistics",
    "bare": "BatchNorm without γ and β",
    "last": "one BatchNorm before the output",
    "rescaled": "rescaled weights",
    "sync": "synchronized BatchNorm",
    "batch_small": "BatchNorm, batch 4",
    "none_small": "none, batch 4",
    "batch_dropout": "BatchNorm and dropout",
    "none_dropout": "none, dropout",
    "batch_decay": "BatchNorm and weight decay",
    "none_decay": "none, weight decay",
}
LIKE = {"bare": "noisy", "last": "noisy", "rescaled": "noisy", "sync": "noisy", "batch_small": "noisy"}
LIKE |= {"none_small": "group", "none_dropout": "fixup", "none_decay": "delta"}  # never in one figure with it
LIKE |= {"batch_dropout": "renorm", "batch_decay": "running"}
COLOUR = dict(zip((name for name in TITLES if name not in LIKE), COLOURS, strict=True))
COLOUR |= {name: COLOUR[other] for name, other in LIKE.items()}
Curves = Mapping[str, Sequence[tuple[float, float]]]  # label → points
OUTCOMES = {True: "Holds", False: "**Does not hold**", None: "**Not decided**"}
GUESS = 0.1  # accuracy by chance, of ten classes
Result = tuple[dict[str, Any], dict[str, Any], list[Panel]]  # numbers; claim → {"holds", "measured"}; figure


def classifier(options: argparse.Namespace, norm: str, rate: float, seed: int, *flags: str) -> RunDir:
    """One run of the product itself, as `gannorm train --config classifier …`."""
    fixed = ("--progress", "false", "--wandb", "off", "--checkpoint_every", "0", "--optimization_every", "0")
    factors = ("--model.classifier.norm", norm, "--model.learning_rate", str(rate), "--seed", str(seed))
    config = train_config(["--config", "classifier", *fixed, *flags, *factors]).to_dict()
    return train(config, Path(tempfile.mkdtemp(dir=options.scratch)) / "run")


def accuracy_at(
    options: argparse.Namespace, norm: str, rate: float, seed: int, steps: int, *flags: str
) -> dict[str, Any]:
    """Accuracy on held-out images after so many steps; that of a guess where the run's loss exploded."""
    flags = ("--steps", str(steps), "--test_every", str(steps), "--model.max_loss", "1000", *flags)
    run = classifier(options, norm, rate, seed, *flags)
    finished = run.status()["state"] == "finished"
    accuracy = run.series("test/accuracy")[1][-1] if finished else GUESS
    return {"rate": rate, "seed": seed, "accuracy": accuracy, "loss": (run.series("loss")[1] or [None])[-1]}


def images_with_labels(
    options: argparse.Namespace, images: int, split: Literal["train", "test"] = "test", size: int = 0
) -> tuple[Tensor, Tensor]:
    size = size or (16 if options.data == "digits" else 32)
    data = load_images(options.data, split, image_size=size, **({"root": options.root} if options.root else {}))
    order = torch.randperm(len(data), generator=stream(0, "why"))[:images]
    assert data.labels is not None
    return data.pixels[order].float() / 127.5 - 1, data.labels[order]


def network_of(
    kind: str,
    depth: int,
    norm: str,
    batch: tuple[Tensor, Tensor],
    width: int = 16,
    leak: float = 0.2,
    pooled: bool = False,
    initialization: str = "kaiming",
    activation: str = "leaky_relu",
    seed: int = 0,
    **more: Any,
) -> nn.Module:
    """The classifier with at least `depth` layers with weights, at initialization, in train mode."""
    size, channels = batch[0].shape[2], batch[0].shape[1]
    settings: dict[str, Any] = {"image_size": size, "channels": channels, "width": width, "norm": norm, "outputs": 10}
    settings |= {"activation": activation, **more}
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
    initialize(network, initialization, generator=stream(seed, "why"))
    return network


def descent(
    network: nn.Module, data: tuple[Tensor, Tensor], rate: float, steps: int, seed: int, weight_decay: float = 0.0
) -> Iterator[int]:
    """Plain gradient descent on batches of 64 in an order of the seed; yields the number of steps, after each one."""
    images, labels = data
    optimizer = torch.optim.SGD(network.parameters(), rate, weight_decay=weight_decay)
    draws = stream(seed, "plain descent")
    for step in range(1, steps + 1):
        chosen = torch.randint(len(labels), (64,), generator=draws)
        optimizer.zero_grad()
        cross_entropy_of(network, (images[chosen], labels[chosen])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield step


@torch.no_grad()
def accuracy_of(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """In eval mode; the network is left in train mode."""
    answers = network.eval()(data[0]).argmax(1)
    network.train()
    return float((answers == data[1]).double().mean())


def cross_entropy_of(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(network(batch[0]), batch[1])


def claim(holds: bool | None, measured: str, otherwise: str = "") -> dict[str, Any]:
    """Whether a claim holds (None: not decided), what was measured, and, where it does not hold, the cause."""
    if holds is None:
        return {"holds": None, "measured": measured, "cause": otherwise or "the seeds do not decide"}
    cause = {} if holds else {"cause": otherwise or "the cause was not found"}
    return {"holds": bool(holds), "measured": measured} | cause


def each(values: Mapping[str, float]) -> str:
    return ", ".join(f"{TITLES[name]} {three_digits(value)}" for name, value in values.items())


def three_digits(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def mean_by(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    points: dict[float, list[float]] = {}
    for row in rows:
        if row.get(y) is not None:
            points.setdefault(row[x], []).append(row[y])
    return [(at, float(np.mean(values))) for at, values in sorted(points.items())]


def seeds_panel(title: str, values: Mapping[str, Sequence[float] | np.ndarray]) -> Panel:
    """One value a seed of each condition, as dots: seeds have no order."""

    def draw(ax: Axes) -> None:
        for name, of_seeds in values.items():
            ax.plot(range(len(of_seeds)), of_seeds, "o", markersize=4, color=COLOUR[name], label=TITLES[name])
        ax.set(title=title, xlabel="seed")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))

    return Panel(draw, title)


def curves_panel(title: str, curves: Curves, x: str, log: bool = False, log_x: bool = False) -> Panel:
    def draw(ax: Axes) -> None:
        for name, points in curves.items():
            marker = "." if len(points) < 12 else ""
            ax.plot(*zip(*points, strict=True), color=COLOUR[name], label=TITLES[name], marker=marker)
        ax.set(title=title, xlabel=x)
        if log:
            logarithmic(ax)
        if log_x:
            logarithmic(ax, "x")
            ax.set_xticks(sorted({at for points in curves.values() for at, _ in points}))
            ax.minorticks_off()

    return Panel(draw, title)
