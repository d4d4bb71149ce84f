"""How many steps a network needs to a fixed accuracy."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from claims.common import Result, claim, classifier, curves_panel, each, mean_by
from gannorm.comparison.intervals import mean_interval

ACCURACY = 0.8


def noisy(options: argparse.Namespace) -> Result:
    """Steps until 80 % of the held-out digits of 8×8 pixels are right, with BatchNorm, noisy BatchNorm and none.

    Question: does BatchNorm still help when noise makes its moments unstable? Criterion: noisy BatchNorm keeps half of
    the steps that BatchNorm saves over none, the mean over seeds of (batch + none)/2 − noisy being shown above 0 by its
    95 % interval; shown below 0 it fails; otherwise, or where BatchNorm is not shown to save steps, it is not decided.
    `none` in the place of noisy BatchNorm would fail. A run that never gets there counts as the number of its steps.
    """
    steps, every = 200, 5
    names = ("batch", "noisy", "none")
    flags = ("--steps", str(steps), "--test_every", str(every), "--optimization_every", "0", "--data.image_size", "8")
    flags += ("--model.classifier.width", "8")
    numbers: dict[str, Any] = {"accuracy": ACCURACY, "flags": " ".join(flags), "rate": 0.02, "seeds": options.seeds}
    needed: dict[str, np.ndarray] = {}
    for name in names:
        rows = []
        for seed in range(options.seeds):
            at, accuracy = classifier(options, name, 0.02, seed, *flags).series("test/accuracy")
            rows += [{"seed": seed, "step": s, "accuracy": a} for s, a in zip(at, accuracy, strict=True)]
        numbers[name] = rows
        reached = [
            min([r["step"] for r in rows if r["seed"] == seed and r["accuracy"] >= ACCURACY], default=steps)
            for seed in range(options.seeds)
        ]
        needed[name] = np.array(reached, dtype=float)
    numbers["needed"] = {n: v.tolist() for n, v in needed.items()}
    saved = mean_interval((needed["none"] - needed["batch"]).tolist())
    kept = mean_interval(((needed["batch"] + needed["none"]) / 2 - needed["noisy"]).tolist())
    holds = True if kept.low > 0 else False if kept.high < 0 else None
    claims = {
        "BatchNorm needs fewer steps than no normalizer": claim(
            True if saved.low > 0 else False if saved.high < 0 else None, f"steps saved, mean over seeds: {saved}"
        ),
        "noisy BatchNorm keeps half of the steps that BatchNorm saves": claim(
            holds if saved.low > 0 else None,
            f"mean steps to {ACCURACY:.0%}: {each({n: float(v.mean()) for n, v in needed.items()})}; half-way between "
            f"BatchNorm and none, less noisy BatchNorm: {kept}",
            "BatchNorm saves no steps here that noise could cost" if not saved.low > 0 else "the interval holds 0",
        ),
    }
    return (
        numbers,
        claims,
        [curves_panel("test accuracy", {n: mean_by(numbers[n], "step", "accuracy") for n in names}, "step")],
    )
