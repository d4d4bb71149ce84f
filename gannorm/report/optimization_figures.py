"""The figures of the second page, one a probe, with the networks of a run (discriminator and generator, or classifier)
side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.comparison.quantities import NETWORKS, OPTIMIZATION
from gannorm.report.curves import SHOWN, Curve, arrays, draw_curve, legend, over_seeds
from gannorm.report.plots import Panel, Plot, logarithmic, palette

SIZE = (4.4, 2.7)  # of a panel, in inches
WIDEST = 46  # characters of a title's line
OVER_SEEDS = ("mean", "lowest", "highest", "n")  # columns of the CSV


@dataclass(frozen=True)
class Probe:
    """A figure: its name and words, and the quantities that it shows, by name; `logarithmic` ones on such a scale."""

    name: str
    title: str
    caption: str
    quantities: Sequence[str]
    logarithmic: Sequence[str] = ()


PROBES = (
    Probe(
        "optimization_covariate_shift",
        "Internal covariate shift",
        "Mean over the layers that were drawn at each measurement: their number and choice add to the scatter.",
        ("covariate_shift_cosine", "covariate_shift_relative"),
        ("covariate_shift_relative",),
    ),
    Probe(
        "optimization_step",
        "What a step changes",
        "On the batch of the step: the cosine of the gradients at the parameters before and after it, and the share of "
        "the kernels' weights whose sign it changes, mean over layers.",
        ("gradient_consistency", "sign_changes"),
    ),
    Probe(
        "optimization_gradients",
        "The gradients of the kernels",
        "Median over the layers with kernels; of the cosine along the weights the largest, the last layer left out: 0 "
        "where the loss ignores a weight's length. Between units over within: the variance of a layer's gradient "
        "between its units, the noise subtracted, over that between the images within a unit; −1/N before BatchNorm, "
        "whose gradient has no mean over the batch.",
        ("kurtosis", "coherence", "effective_rank", "radial", "unit_variance_ratio"),
        ("kurtosis", "coherence"),
    ),
    Probe(
        "optimization_noise",
        "Noise of the mini-batch",
        "C/(b‖∇‖²) for the batch size b of the training: above 1 the noise is longer than the gradient. C comes from "
        "quarters of the batch; with a normalizer over the batch, a quarter is another model than the whole batch.",
        ("noise_to_signal",),
        ("noise_to_signal",),
    ),
    Probe(
        "optimization_moments",
        "The inputs of the layers, in time",
        "Means over layers and channels: the older reading of internal covariate shift. The share of the majority is "
        "that of the commonest class by the network's output, and by the loss's gradient: ½ for a discriminator, half "
        "of whose images are real.",
        ("input_mean", "input_variance", "majority_by_activation", "majority_by_gradient"),
        ("input_mean", "input_variance"),
    ),
    Probe(
        "optimization_shape",
        "The shape of the layers' inputs, in time",
        "Median over channels: 0 for a Gaussian. Saturated: the outputs of a sigmoid or tanh within 1 % of an end of "
        "its range, mean over layers; there is none without such activations.",
        ("input_skewness", "input_kurtosis", "saturated"),
    ),
)


def measured(comparison: Comparison) -> list[str]:
    """The networks of which some finished run holds optimization probes."""
    names = {name for c in comparison.conditions for run in c.runs for name in (*run.metrics, *run.values)}
    return [network for network in NETWORKS if any(name.startswith(f"optimization/{network}/") for name in names)]


def within(title: str) -> str:
    """A title inside a sentence: G keeps its capital."""
    return title[0].lower() + title[1:]


def figures(comparison: Comparison) -> Iterator[Plot]:
    """The figures that the comparison has data for, in the order of the page."""
    conditions = comparison.finished[:SHOWN]
    colours = palette(c.label for c in conditions)
    networks = measured(comparison)
    shift, *others = (_over_time(probe, networks, conditions, colours) for probe in PROBES)
    plots = (shift, _landscape(networks, conditions, colours), *others, _by_depth(networks, conditions, colours))
    yield from (replace(plot, legend=legend(conditions, colours)) for plot in plots if plot is not None)


def _curves(name: str, conditions: Sequence[Condition]) -> dict[str, Curve]:
    curves = {c.label: over_seeds([run.series(name) for run in c.runs]) for c in conditions}
    return {label: curve for label, curve in curves.items() if curve}


def _over_time(
    probe: Probe, networks: Sequence[str], conditions: Sequence[Condition], colours: Mapping[str, str]
) -> Plot | None:
    panels, data = [], []
    for network in networks:
        for key in probe.quantities:
            curves = _curves(f"optimization/{network}/{key}", conditions)
            if curves:
                panels.append(
                    _lines(f"{network}: {within(OPTIMIZATION[key][0])}", curves, colours, key in probe.logarithmic)
                )
                data += [(network, key, label, *point) for label, curve in curves.items() for point in curve]
    header = ("network", "quantity", "condition", "step", *OVER_SEEDS)
    return Plot(probe.name, probe.title, probe.caption, panels, SIZE, header, data) if panels else None


def _landscape(networks: Sequence[str], conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    panels, data = [], []
    for network in networks:
        for key, title in (("loss", "loss along the gradient"), ("predictiveness", "change of the gradient")):
            low, high = (_curves(f"optimization/{network}/{key}_{end}", conditions) for end in ("low", "high"))
            if low and high:
                panels.append(_band(f"{network}: {title}", low, high, colours))
                for end, curves in (("low", low), ("high", high)):
                    data += [(network, f"{key}_{end}", label, *p) for label, curve in curves.items() for p in curve]
        beta = _curves(f"optimization/{network}/effective_beta", conditions)
        if beta:
            panels.append(_lines(f"{network}: effective β", beta, colours, log=True))
            data += [(network, "effective_beta", label, *p) for label, curve in beta.items() for p in curve]
    caption = (
        "Between two lines: from the lowest to the highest value over eight step sizes along −g, from ½ to 4 times as "
        "long as the real update, means over seeds. Effective β: line and band over seeds."
    )
    header = ("network", "quantity", "condition", "step", *OVER_SEEDS)
    title = "The landscape along the gradient"
    return Plot("optimization_landscape", title, caption, panels, SIZE, header, data) if panels else None


def _by_depth(networks: Sequence[str], conditions: Sequence[Condition], colours: Mapping[str, str]) -> Plot | None:
    """Moments by layer at the first measurement, each layer's second moment over seeds."""
    panels, data = [], []
    for network in networks:
        curves: dict[str, Curve] = {}
        for c in conditions:
            files = [run.directory.probes() for run in c.runs if run.directory]
            rows = [moments for probes in files if (moments := _first_moments(probes, network)) is not None]
            if rows and len({len(row) for row in rows}) == 1:
                curves[c.label] = over_seeds([dict(enumerate(row.tolist(), start=1)) for row in rows])
        if curves:
            panels.append(_lines(f"{network}: second moment of the inputs", curves, colours, log=True, x="layer"))
            data += [(network, label, *point) for label, curve in curves.items() for point in curve]
    caption = (
        "The first measurement of each run, which is of the initial network where the budget allowed it: mean² + "
        "variance, averaged over channels, from the first layer's input to the output."
    )
    header = ("network", "condition", "layer", *OVER_SEEDS)
    title = "The inputs of the layers, by depth"
    return Plot("optimization_depth", title, caption, panels, SIZE, header, data) if panels else None


def _first_moments(probes: Mapping[int, Path], network: str) -> np.ndarray | None:
    for _, (means, variances) in _moments(probes, network):
        if means.shape == variances.shape == (means.size,) and np.isfinite(means + variances).all():
            return np.square(means) + variances
    return None


def _moments(probes: Mapping[int, Path], network: str) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, [means, variances]) of each measurement; runs of earlier versions have the former name."""
    for prefix in ("optimization", "why"):
        yield from arrays(probes.items(), *(f"{prefix}/{network}/moments/{kind}" for kind in ("means", "variances")))


# -- panels -----------------------------------------------------------------------------------------------------------


def _lines(title: str, curves: Mapping[str, Curve], colours: Mapping[str, str], log: bool, x: str = "step") -> Panel:
    def draw(ax: Axes) -> None:
        for label, curve in curves.items():
            draw_curve(ax, curve, colours[label], label)
        ax.set(xlabel=x, title=fill(title, WIDEST))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        low, high = ax.get_ylim()
        if log:
            logarithmic(ax)
        elif high - low < 1e-6 * abs(low):  # an identity: its rounding is no change
            ax.set_ylim(low - abs(low) / 2, low + abs(low) / 2)

    ends = "; ".join(f"{label} {curve[0][1]:.3g} to {curve[-1][1]:.3g}" for label, curve in curves.items())
    return Panel(draw, f"{title}, at the first and the last {x}: {ends}.")


def _band(title: str, low: Mapping[str, Curve], high: Mapping[str, Curve], colours: Mapping[str, str]) -> Panel:
    def draw(ax: Axes) -> None:
        for label in low:
            bottom, top = ({step: mean for step, mean, *_ in ends.get(label, [])} for ends in (low, high))
            steps = sorted(bottom.keys() & top.keys())
            between = [bottom[s] for s in steps], [top[s] for s in steps]
            ax.fill_between(steps, *between, color=colours[label], alpha=0.12, linewidth=0)
            for edge in between:  # lines at its edges distinguish a band from those that it crosses
                ax.plot(steps, edge, color=colours[label], linewidth=1.2, marker="o" if len(steps) == 1 else "")
        ax.set(xlabel="step", title=fill(title, WIDEST))
        if min(p[1] for curve in low.values() for p in curve) > 0:
            logarithmic(ax)

    widths = "; ".join(
        f"{label} {curve[-1][1]:.3g} to {high[label][-1][1]:.3g}" for label, curve in low.items() if label in high
    )
    return Panel(draw, f"{title}, its range at the last measurement: {widths}.")
