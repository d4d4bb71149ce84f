"""Two processes with a part of the batch each: what local statistics cost, and what synchronizing them costs."""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from claims.common import GUESS, TITLES, Result, claim, curves_panel
from claims.criteria import Values, above, alike, learned, shown
from claims.steps import SMALL
from gannorm.rundir import RunDir

NAMES = ("batch", "sync", "group")
IMAGES = (2, 8)  # on each device
MARGIN = 0.02  # of test accuracy: a smaller difference is none
COSTS = 1.5  # times the duration of a step
UNTRAINED = "not every network has learned here"


def data_parallel(options: argparse.Namespace) -> Result:
    """A classifier of the digits of 8×8 in two processes (gloo), 2 and 8 images on each, 400 steps at the rate 0.02.

    Claims: below about eight images a device local BatchNorm degrades, and synchronization restores it. Criteria, of
    test accuracies paired by seed, by 95 % intervals: with 2 images a device synchronized BatchNorm is above local, and
    has learned (accuracy above 0.5 in every seed); with 8 the interval of the difference lies between −0.02 and 0.02,
    and both have learned; and from 8 to 2 images local BatchNorm loses more than GroupNorm, whose loss is that of the
    smaller batch alone, where both have learned with 8. Equal conditions and guesses have differences of 0, and show
    nothing. Costs: a step takes less than 1.5 times as long with synchronized BatchNorm as with local, shown by the
    interval of the logarithm over seeds and sizes. The processes share this machine's cores, so the cost is that of
    waiting, not of a network.
    """
    numbers: dict[str, Any] = {"steps": 400, "rate": 0.02, "processes": 2, "seeds": options.seeds}
    accuracy: dict[tuple[str, int], list[float]] = {}
    seconds: dict[tuple[str, int], list[float]] = {}
    for name, images, seed in itertools.product(NAMES, IMAGES, range(options.seeds)):
        row = _in_two_processes(options, name, images, seed)
        numbers.setdefault(name, []).append({"images": images, "seed": seed} | row)
        accuracy.setdefault((name, images), []).append(row["accuracy"])
        seconds.setdefault((name, images), []).append(row["seconds_a_step"])
    curves = [
        curves_panel(title, {n: [(k, float(np.mean(values[n, k]))) for k in IMAGES] for n in NAMES}, "images a device")
        for title, values in (("test accuracy", accuracy), ("seconds a step", seconds))
    ]
    return numbers, claims_on_devices(accuracy, seconds), curves


def claims_on_devices(
    accuracy: Mapping[tuple[str, int], Values], seconds: Mapping[tuple[str, int], Values]
) -> dict[str, Any]:
    """Of accuracies and seconds a step, by normalizer and images a device, one a seed."""
    few, more = IMAGES
    a, s = ({k: np.asarray(v, dtype=float) for k, v in values.items()} for values in (accuracy, seconds))
    gain = {k: a["sync", k] - a["batch", k] for k in IMAGES}
    loss = {n: a[n, more] - a[n, few] for n in NAMES}
    slower = np.concatenate([np.log(s["sync", k] / s["batch", k]) for k in IMAGES])
    means = "; ".join(f"{TITLES[n]} {', '.join(f'{a[n, k].mean():.3g}' for k in IMAGES)}" for n in NAMES)
    measured = f"test accuracy with {few} and {more} images a device: {means}"
    costly = above(slower, float(np.log(COSTS)))
    trained = {k: learned(a["sync", k]) for k in IMAGES}
    compared = learned(a["batch", more], a["group", more])
    same = alike(a["sync", more], a["batch", more], MARGIN)
    return {
        f"with {few} images a device synchronized BatchNorm trains better than local": claim(
            above(gain[few]) if trained[few] else None,
            f"{measured}; gain of synchronization with {few}: {shown(gain[few])}",
            "" if trained[few] else UNTRAINED,
        ),
        f"with {more} images a device it makes no difference": claim(
            same,
            f"difference with {more}: {shown(gain[more])}, margin {MARGIN}",
            "" if learned(a["sync", more], a["batch", more]) else UNTRAINED,
        ),
        f"from {more} to {few} images local BatchNorm loses more than GroupNorm": claim(
            above(loss["batch"] - loss["group"]) if compared else None,
            f"loss of BatchNorm less GroupNorm's: {shown(loss['batch'] - loss['group'])}",
            "" if compared else UNTRAINED,
        ),
        f"synchronizing costs less than {COSTS - 1:.0%} of a step": claim(
            None if costly is None else not costly,
            "milliseconds a step, synchronized and local: "
            + "; ".join(
                f"{1e3 * s['sync', k].mean():.3g} and {1e3 * s['batch', k].mean():.3g} with {k}" for k in IMAGES
            )
            + f"; logarithm of their ratio: {shown(slower)}",
            "" if costly is None else "each layer waits for the other process twice a step, and these layers are small",
        ),
    }


def _in_two_processes(options: argparse.Namespace, norm: str, images: int, seed: int) -> dict[str, Any]:
    """Accuracy on held-out images and seconds a step of one run of `gannorm train`."""
    folder = Path(options.scratch) / f"{norm}_{images}_{seed}"
    command = [sys.executable, "-m", "gannorm", "train", "--config", "classifier", "--wandb", "off"]
    command += ["--progress", "false", "--checkpoint_every", "0", "--optimization_every", "0", "--steps", "400"]
    command += ["--test_every", "400", "--log_every", "20", *SMALL, "--data.batch_size", str(images)]
    command += ["--model.classifier.norm", norm, "--model.learning_rate", "0.02", "--seed", str(seed)]
    command += ["--output", str(folder), "--name", "run", "--study", "devices"]
    command += ["--trainer", "{devices: 2, strategy: ddp, accelerator: cpu}"]
    subprocess.run(command, check=True, capture_output=True)
    run = RunDir.open(folder / "devices" / "run")
    finished = run.status()["state"] == "finished"
    rate = float(np.median(run.series("images_per_second")[1]))  # of both processes together
    accuracy = run.series("test/accuracy")[1][-1] if finished else GUESS
    loss = (run.series("loss")[1] or [None])[-1]
    return {"accuracy": accuracy, "loss": loss, "seconds_a_step": 2 * images / rate}
