#!/usr/bin/env python
"""Do the papers' claims on why normalization helps hold here? Small experiments, a minute or a few each on one core.

    python scripts/paper_claims.py deep_linear        # covariate shift in the deep linear network
    python scripts/paper_claims.py training           # shift, landscape and noisy BatchNorm while a classifier trains
    python scripts/paper_claims.py rates              # the largest learning rate, and equal small ones
    python scripts/paper_claims.py moments            # channel moments by depth, 20 and 50 layers
    python scripts/paper_claims.py gradients --root DIR      # tails, coherence and alignment at initialization
    python scripts/paper_claims.py variance           # along which dimension the layers' inputs vary
    python scripts/paper_claims.py mean_gradient      # is the gradient that all batches share radial?
    python scripts/paper_claims.py units              # does a gradient differ between units, or between images?
    python scripts/paper_claims.py conditioning       # singular values of the Jacobian by depth, 5 to 50 layers
    python scripts/paper_claims.py gaussian           # skewness, kurtosis and saturation with and without BatchNorm
    python scripts/paper_claims.py noisy --seeds 5    # steps to a fixed accuracy with noisy BatchNorm
    python scripts/paper_claims.py affine --seeds 5         # the same without γ and β
    python scripts/paper_claims.py small_batch --seeds 5    # batches of 4 at a small rate, 20 layers
    python scripts/paper_claims.py consistency --seeds 5    # the cosine of successive gradients over training
    python scripts/paper_claims.py sign_changes --seeds 5   # how many weights change their sign in a step
    python scripts/paper_claims.py tug_of_war --seeds 5     # do steps undo what rescaling the weights has done?
    python scripts/paper_claims.py surface --seeds 5        # a slice of the loss, a picture of each network
    python scripts/paper_claims.py sigmoid --seeds 3        # does training with sigmoids need BatchNorm?
    python scripts/paper_claims.py regularization --seeds 5     # BatchNorm against weight decay and dropout
    python scripts/paper_claims.py fixup --seeds 5          # Fixup against BatchNorm in a residual network
    python scripts/paper_claims.py one_layer --seeds 5      # one BatchNorm before the output only
    python scripts/paper_claims.py data_parallel --seeds 3  # 2 and 8 images a device, and what synchronizing costs

Each writes NAME.json (settings, versions, hardware, every number, and per claim whether it holds) and NAME.png. They
take the digits, or with --root a folder of images with class folders. The experiments are in scripts/claims.

Claims: Santurkar et al. 2018 (1805.11604) on covariate shift, landscape and noisy BatchNorm; Bjorck et al. 2018
(1806.02375) on gradients, moments and learning rates, and the questions of its reviewers.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from claims.accuracies import fixup, one_layer, regularization, sigmoid
from claims.along import consistency, sign_changes, tug_of_war
from claims.at_initialization import gradients, moments
from claims.common import COLOUR, OUTCOMES, TITLES, Result
from claims.dimensions import gaussian, variance
from claims.directions import conditioning, mean_gradient, units
from claims.processes import data_parallel
from claims.steps import affine, noisy, small_batch
from claims.surfaces import surface
from claims.while_training import deep_linear, rates, training
from PIL import Image

import gannorm
from gannorm.files import atomic_write, write_json, write_text
from gannorm.report.plots import Plot, png

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    f.__name__: f
    for f in (
        *(deep_linear, training, rates, moments, gradients),
        *(variance, mean_gradient, units, conditioning, gaussian, noisy, affine, small_batch),
        *(consistency, sign_changes, tug_of_war, surface),
        *(sigmoid, regularization, fixup, one_layer, data_parallel),
    )
}
SHOWN = {"training": ("batch", "noisy", "group", "none"), "noisy": ("batch", "noisy", "none")}
SHOWN |= {"rates": ("batch", "group", "renorm", "running", "none"), "affine": ("batch", "bare", "none")}
SHOWN |= {"small_batch": ("batch", "batch_small", "none_small"), "consistency": ("batch", "group", "none")}
SHOWN |= {"sign_changes": ("batch", "group", "none"), "tug_of_war": ("rescaled", "batch", "none"), "surface": ()}
SHOWN |= {"sigmoid": ("batch", "group", "none"), "fixup": ("batch", "fixup", "none")}
SHOWN |= {"one_layer": ("batch", "last", "none"), "data_parallel": ("batch", "sync", "group")}
SHOWN |= {"regularization": ("batch", "none", "none_decay", "none_dropout")}
SHOWN |= {"conditioning": ("batch", "group", "fixup", "delta", "none"), "variance": ()}

SURFACE = (
    "Near the centre the pictures are alike. The steepest slopes are at the edge, where the filters of all layers have "
    "grown together: without norm the logits grow with the product of their lengths, with either normalizer not. "
    "GroupNorm's slice is as flat as BatchNorm's, so that it is not the batch that flattens it. Reasoned, not tested."
)
NOTES = {
    "surface": SURFACE,
    "consistency": "At the rate 0.001 no step turns the gradient of any network by much. At 0.02 the network without "
    "norm is near the edge of stability (see `training`), so the difference is one of the rate.",
    "tug_of_war": "It separates rescaled weights from BatchNorm, so it stays. With BatchNorm and with none nothing is "
    "removed, and the drift of the step before takes its place.",
    "fixup": "A run whose loss passes 1000 ends and counts as a guess; so ends every network at 0.32 and above but "
    "four with Fixup. The network with BatchNorm has nothing else against the growth of the residual stream.",
    "one_layer": "One layer lies between BatchNorm everywhere and none, near the middle, so five seeds do not decide.",
    "sigmoid": "With GroupNorm one seed of three trains, at one rate. At initialization 4 to 5 % of the variance of "
    "the last layer's input is between images with BatchNorm, at most 0.006 % with GroupNorm and 0.000002 % with none. "
    "Sigmoids make images alike, and centring over the batch removes what they share. That this is the cause was not "
    "tested.",
    "regularization": "Each seed has 200 training images of its own and the same 359 held-out ones, of which one is "
    "0.003 of the accuracy. Every network fits all of its training images, so that the gap and the held-out accuracy "
    "say the same.",
    "data_parallel": "Other programs shared the two cores, by turns, so the times of a step are rough. A map of 8×8 "
    "pixels gives 128 values a channel from 2 images, which may be why little is lost; this was not tested.",
    "small_batch": "Of the 12,000 images planned 4,000 are taken, to save time; this was decided before the run.",
    "rates": "Two seeds. A run whose loss passes 1000 ends and counts as a guess.",
    "mean_gradient": "Two seeds, at initialization. With BatchNorm a radial share near 0 is an identity, no finding.",
    "units": "Two seeds. The causes were not tested on their own.",
    "conditioning": "Two seeds. That an infinite ratio cannot pass was in the criterion from the start and in the code "
    "only after a first look at one seed, in which delta-orthogonal weights had passed by it. Fixup's branches are "
    "zero at initialization, so that its Jacobian is that of the shortcuts: it says little of a trained network. The "
    "causes were reasoned, not tested.",
    "gaussian": "Two seeds: two equal conditions would pass a claim with a chance of 1/64. The causes were reasoned, "
    "not tested.",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--root", default="", help="folder of images with class folders, in the place of the digits")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each condition, where there is training")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "paper_claims")
    options = parser.parse_args()
    options.data = "folder" if options.root else "digits"
    start = processor_seconds()
    with tempfile.TemporaryDirectory(prefix="gannorm_claims_") as options.scratch:
        numbers, claims, panels = EXPERIMENTS[options.experiment](options)
    seconds = round(processor_seconds() - start)
    root = " --root path/to/images" if options.root else ""
    content = {
        "command": f"python scripts/paper_claims.py {options.experiment}{root} --seeds {options.seeds}",
        "claims": claims,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "lightning", "numpy")}
        | {"gannorm": gannorm.__version__},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "seconds": seconds,
        "numbers": numbers,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / f"{options.experiment}.json", _rounded(content))
    legend = [(TITLES[name], COLOUR[name]) for name in SHOWN.get(options.experiment, ("batch", "none"))]
    plot = Plot(options.experiment, "", "", panels, (3.4, 2.5), (), (), legend)
    picture = Image.open(io.BytesIO(png(plot))).convert("RGB").quantize(64)  # a third of the size
    with atomic_write(options.output / f"{options.experiment}.png") as file:
        picture.save(file, "PNG", optimize=True)
    write_text(options.output / "README.md", _summary(options.output))
    for claim, result in claims.items():
        print(f"{OUTCOMES[result['holds']]}: {claim}: {result['measured']}")
    return 0


def processor_seconds() -> float:
    """Seconds of processor time of this process and of those it has started: the minutes that it takes on one core.

    Unlike the clock's, they do not grow when something else runs on the machine.
    """
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _summary(folder: Path) -> str:
    """A page on all experiments whose results lie in the folder."""
    lines = [
        "# Why normalization helps: the papers' claims as small experiments",
        "",
        "Written by `scripts/paper_claims.py` from the JSON files here; the criteria stand in",
        "`scripts/claims`. Santurkar et al. 2018 (1805.11604) and",
        "Bjorck et al. 2018 (1806.02375) measured deep networks on CIFAR-10; these are small",
        "ones, on one core, so a claim that fails here is not refuted. The images behind",
        "`--root` were JPEG files of CIFAR-10.",
    ]
    contents = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in EXPERIMENTS
        if (folder / f"{name}.json").exists()
    }
    lines += ["", _cost([content.get("seconds") for content in contents.values()])]
    for name, content in contents.items():
        versions = ", ".join(f"{k} {v}" for k, v in content["versions"].items())
        machine, cost = content["hardware"]["machine"], ""
        if "seconds" in content:
            cost = f"; {_minutes(content['seconds'])} on one core"
        lines += ["", f"## {name}", "", f"`{content['command']}` ({versions}; {machine}{cost})", ""]
        lines += [NOTES[name], ""] if name in NOTES else []
        for claim, result in content["claims"].items():
            cause = f" **Cause:** {result['cause']}." if "cause" in result else ""
            lines.append(f"- {OUTCOMES[result['holds']]}: {claim}. {result['measured']}.{cause}")
        lines += ["", f"![{name}]({name}.png)"]
    return "\n".join(lines) + "\n"


def _cost(seconds: Sequence[float | None]) -> str:
    """What the experiments cost together, of those whose time was taken; at most, as some were timed by the clock."""
    known = [value for value in seconds if value is not None]
    total = f"The {len(seconds)} experiments together: at most {_minutes(sum(known))} on one core"
    if len(known) < len(seconds):
        total += f", without {len(seconds) - len(known)} whose time was not taken"
    return f"{total}."


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes >= 9.5 else f"{minutes:.1f} minutes"


def _rounded(value: Any) -> Any:
    """Six figures, and null for what strict JSON has no word for."""
    return json.loads(
        json.dumps(value, default=float),  # of NumPy's
        parse_float=lambda number: float(f"{float(number):.6g}"),
        parse_constant=lambda _: None,
    )


if __name__ == "__main__":
    sys.exit(main())
