"""A slice of the loss around the weights, one picture a network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from claims.common import TITLES, Result, claim, cross_entropy_of, descent, each, images_with_labels, network_of
from claims.criteria import Values, above, shown
from gannorm import probes
from gannorm.report.plots import Panel
from gannorm.seeds import stream

NAMES = ("batch", "group", "none")
HIGHEST = 1e6  # a larger or overflowing loss counts as this one


def surface(options: argparse.Namespace) -> Result:
    """The loss on a batch along the gradient and a random orthogonal direction, initially and after 100 steps at 0.02.

    Both directions are filter-normalized: a step of 1 is as long as each filter. Claim: the landscape is smoother with
    BatchNorm. Criterion: the steepest slope between neighbours of the 11×11 grid (|ΔL| a tenth of the filters' length)
    is smaller than without norm: ln(none/BatchNorm) is shown above 0 by its 95 % interval over seeds; shown below 0 it
    fails. The same for GroupNorm, which no batch couples. `none` in their place has 0 exactly.
    """
    batch, data = images_with_labels(options, 64), images_with_labels(options, 10_000, "train")
    numbers: dict[str, Any] = {
        "rate": 0.02,
        "grid": list(probes.optimization.loss_surface.GRID),
        "seeds": options.seeds,
    }
    claims: dict[str, Any] = {}
    panels = []
    for moment, steps in (("at initialization", 0), ("after 100 steps", 100)):
        steepest: dict[str, list[float]] = {}
        for name in NAMES:
            numbers[f"{name}, {moment}"] = rows = []
            for seed in range(options.seeds):
                network = network_of("plain", 0, name, batch, seed=seed)
                for _ in descent(network, data, 0.02, steps, seed):
                    pass
                draws = stream(seed, "surface")
                result = probes.loss_surface(network, cross_entropy_of, batch, generator=draws)
                losses = np.minimum(result.losses, HIGHEST)
                steepest.setdefault(name, []).append(steepest_slope(losses, result.along))
                rows.append({"seed": seed, "loss": result.loss, "steepest": steepest[name][-1]})
                if seed == 0:
                    rows[-1]["losses"] = losses.tolist()
                    panels.append(_picture(f"{TITLES[name]}, {moment}", losses, result.along, result.across))
        claims |= claims_on_surfaces(steepest, moment)
    return numbers, claims, panels


def steepest_slope(losses: np.ndarray, along: np.ndarray) -> float:
    """The largest |ΔL| between neighbours of a square grid, over their distance."""
    spacing = float(np.diff(along)[0])
    return float(max(np.abs(np.diff(losses, axis=axis)).max() for axis in (0, 1))) / spacing


def claims_on_surfaces(steepest: Mapping[str, Values], moment: str) -> dict[str, Any]:
    """Of the steepest slope of each condition, one a seed."""
    claims = {}
    for name in ("batch", "group"):
        ratio = np.log(np.asarray(steepest["none"], dtype=float) / np.asarray(steepest[name], dtype=float))
        medians = {n: float(np.median(steepest[n])) for n in (name, "none")}
        claims[f"the slice of the loss is less steep with {TITLES[name]} than without norm, {moment}"] = claim(
            above(ratio),
            f"steepest slope, median over seeds: {each(medians)}; ln(none/{TITLES[name]}), mean over seeds with its "
            f"interval: {shown(ratio)}",
        )
    return claims


def _picture(title: str, losses: np.ndarray, along: np.ndarray, across: np.ndarray) -> Panel:
    def draw(ax: Axes) -> None:
        levels = np.linspace(-2.5, 4, 14)  # of log₁₀ of the loss, the same in all pictures
        values = np.log10(np.clip(losses, 10**-2.5, 10**4)).T
        lines = ax.contourf(along, across, values, levels=levels, cmap="viridis", extend="both")
        ax.figure.colorbar(lines, ax=ax, label="log₁₀ loss")
        ax.plot(0, 0, "+", color="white")
        ax.set(title=title, xlabel="along −gradient", ylabel="across")

    return Panel(draw, title)
