"""The report's second page: why a normalizer helps, from what the optimization probes recorded during training.

One figure a probe, with the networks of a run (discriminator and generator, or classifier) side by side; the table's
rows are those of table.csv. There is no page where no run was measured so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from zipfile import BadZipFile

import numpy as np
from matplotlib.axes import Axes

from gannorm.rundir import write_text
from gannorm.studies import report
from gannorm.studies.conditions import Condition
from gannorm.studies.curves import Curve, draw_curve, over_seeds
from gannorm.studies.plots import COLOURS, Panel, Plot, logarithmic
from gannorm.studies.quantities import FINAL_PROBES, NETWORKS, WHY
from gannorm.studies.table import Comparison, interval, short

SHOWN = 8  # conditions that the figures show; the table shows all
PAGE = "why.html"


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
        "why_covariate_shift",
        "Internal covariate shift",
        "Mean over the layers that were drawn at each measurement: their number and choice add to the scatter.",
        ("covariate_shift_cosine", "covariate_shift_relative"),
        ("covariate_shift_relative",),
    ),
    Probe(
        "why_gradients",
        "The gradients of the kernels",
        "Median over the layers with kernels.",
        ("kurtosis", "coherence", "effective_rank"),
        ("kurtosis", "coherence"),
    ),
    Probe(
        "why_noise",
        "Noise of the mini-batch",
        "C/(b‖∇‖²) for the batch size b of the training: above 1 the noise is longer than the gradient. C comes from "
        "quarters of the batch, which a normalizer over the batch makes another model of.",
        ("noise_to_signal",),
        ("noise_to_signal",),
    ),
    Probe(
        "why_moments",
        "The inputs of the layers, in time",
        "Means over layers and channels: the older reading of internal covariate shift. The share of the majority is "
        "that of the commonest class by the network's output, and by the loss's gradient.",
        ("input_mean", "input_variance", "majority_by_activation", "majority_by_gradient"),
        ("input_mean", "input_variance"),
    ),
)


def write_why(comparison: Comparison, output: Path) -> None:
    """Write why.html and its figures into the existing folder `output`, or remove an old page if nothing was measured.

    Raises:
        OSError: a file cannot be written.
    """
    plots = list(figures(comparison))
    if not plots:
        (output / PAGE).unlink(missing_ok=True)
        return
    report.write_figures(plots, output)
    write_text(output / PAGE, page(comparison, plots))


def link(comparison: Comparison) -> str:
    """The first page's sentence that leads to the second; empty where there is none."""
    if not measured(comparison):
        return ""
    return (
        f'<p><a href="{PAGE}">Why?</a> What the normalizers did to the optimization: shift, landscape, gradients.</p>'
    )


def measured(comparison: Comparison) -> list[str]:
    """The networks of which some finished run holds optimization probes."""
    names = {name for c in comparison.conditions for run in c.runs for name in run.metrics}
    return [network for network in NETWORKS if any(name.startswith(f"why/{network}/") for name in names)]


def page(comparison: Comparison, plots: Sequence[Plot]) -> str:
    """The page as text."""
    template = files("gannorm.studies")
    style = re.search(r"<style>(.*?)</style>", template.joinpath("report.html").read_text("utf-8"), re.DOTALL)
    assert style is not None
    told = findings(comparison)
    return Template(template.joinpath(PAGE).read_text("utf-8")).substitute(
        style=style[1],
        headline=escape(headline(comparison)),
        findings="<ul class=findings>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in told) + "</ul>",
        final_probes=FINAL_PROBES,
        baseline=escape(comparison.conditions[0].title),
        cautions=_cautions(comparison),
        figures="".join(report._figure(plot) for plot in plots),
        quantities=_table(comparison),
        version=escape(version("gannorm")),
    )


# -- words ------------------------------------------------------------------------------------------------------------


def headline(comparison: Comparison) -> str:
    """One sentence on shift and smoothness of the first measured network, computed from the rows."""
    network, base = measured(comparison)[0], comparison.conditions[0]
    others = [c for c in comparison.conditions[1:] if c.runs]
    parts = []
    for key, better, what in (("covariate_shift_cosine", "lower", "shift"), ("effective_beta", "higher", "roughness")):
        more = []
        for c in others:
            row = comparison.row(c.label, f"why/{network}/{key}")
            if row and row.effect and row.effect.verdict == better:
                more.append(c.title)
        parts.append(f"more {what} than with {base.title} is shown for {' and '.join(more) or 'no other condition'}")
    return f"In the {network}, {parts[0]}; {parts[1]}."


def findings(comparison: Comparison) -> list[str]:
    """One sentence a network and key quantity: the conditions against the baseline."""
    sentences = []
    for network in measured(comparison):
        for key in ("covariate_shift_cosine", "covariate_shift_relative", "effective_beta", "loss_band"):
            name = f"why/{network}/{key}"
            base = comparison.row(comparison.baseline, name)
            if base is None:
                continue
            clauses = [f"{comparison.conditions[0].title} {interval(base.estimate)}"]
            for c in comparison.conditions[1:]:
                row = comparison.row(c.label, name)
                if row and row.effect:
                    clauses.append(f"{c.title} {short(row.estimate.mean)}, {row.effect.verdict} ({row.effect.design})")
            sentences.append(f"{network.capitalize()}, {_within(WHY[key])}: {'; '.join(clauses)}.")
    return sentences


def _within(title: str) -> str:
    """A title inside a sentence: G keeps its capital."""
    return title[0].lower() + title[1:]


def _cautions(comparison: Comparison) -> str:
    """Measurements that runs skipped for their time budget, or that failed."""
    lines = []
    for what, words in (("skipped", "measurements did not fit into the time budget"), ("failed", "probes failed")):
        last = [run.series(f"why/{what}") for c in comparison.conditions for run in c.runs]
        count = sum(int(series[max(series)]) for series in last if series)
        if count:
            lines.append(f"{count} {words}; the curves have gaps there.")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<aside><h2>Before you believe a difference</h2><ul>{items}</ul></aside>" if lines else ""


def _table(comparison: Comparison) -> str:
    rows = []
    for network in measured(comparison):
        for key, title in WHY.items():
            for c in comparison.conditions:
                row = comparison.row(c.label, f"why/{network}/{key}")
                if row:
                    difference = row.effect.difference if row.effect else None
                    cells = [
                        f"{escape(title)} <small>{network}</small>",
                        escape(c.title),
                        report._estimate(row.estimate),
                    ]
                    rows.append([*cells, report._estimate(difference, signed=True), report._verdict(row)])
    header = ("Quantity", "Condition", "Mean and interval", "Difference from the baseline", "Verdict")
    return report._table("Optimization, at the end of training", header, rows)


# -- figures ----------------------------------------------------------------------------------------------------------


def figures(comparison: Comparison) -> Iterator[Plot]:
    """The figures that the comparison has data for, in the order of the page."""
    shown = [c for c in comparison.conditions if c.runs][:SHOWN]
    colours = {c.label: COLOURS[i % len(COLOURS)] for i, c in enumerate(shown)}
    legend = [(c.title, colours[c.label]) for c in shown]
    networks = measured(comparison)
    shift, *others = (_over_time(probe, networks, shown, colours, legend) for probe in PROBES)
    landscape = _landscape(networks, shown, colours, legend)
    yield from (p for p in (shift, landscape, *others, _by_depth(networks, shown, colours, legend)) if p is not None)


def _curves(name: str, shown: Sequence[Condition]) -> dict[str, Curve]:
    found = {c.label: over_seeds([run.series(name) for run in c.runs]) for c in shown}
    return {label: curve for label, curve in found.items() if curve}


def _over_time(
    probe: Probe,
    networks: Sequence[str],
    shown: Sequence[Condition],
    colours: Mapping[str, str],
    legend: Sequence[tuple[str, str]],
) -> Plot | None:
    panels, data = [], []
    for network in networks:
        for key in probe.quantities:
            curves = _curves(f"why/{network}/{key}", shown)
            if curves:
                scale = "log" if key in probe.logarithmic else "linear"
                panels.append(_panel(f"{network}: {_within(WHY[key])}", curves, colours, scale))
                data += [(network, key, label, *point) for label, curve in curves.items() for point in curve]
    header = ("network", "quantity", "condition", "step", "mean", "lowest", "highest", "n")
    return Plot(probe.name, probe.title, probe.caption, panels, (4.4, 2.7), header, data, legend) if panels else None


def _panel(title: str, curves: Mapping[str, Curve], colours: Mapping[str, str], scale: str) -> Panel:
    def draw(ax: Axes) -> None:
        for label, curve in curves.items():
            draw_curve(ax, curve, colours[label], label)
        ax.set(xlabel="step", title=title)
        if scale == "log":
            logarithmic(ax)

    ends = "; ".join(f"{label} {curve[-1][1]:.3g}" for label, curve in curves.items())
    return Panel(draw, f"{title}, at the last measurement: {ends}.")


def _landscape(
    networks: Sequence[str],
    shown: Sequence[Condition],
    colours: Mapping[str, str],
    legend: Sequence[tuple[str, str]],
) -> Plot | None:
    panels, data = [], []
    for network in networks:
        for key, title in (("loss", "loss along the gradient"), ("predictiveness", "change of the gradient")):
            low, high = (_curves(f"why/{network}/{key}_{end}", shown) for end in ("low", "high"))
            if low and high:
                panels.append(_band(f"{network}: {title}", low, high, colours))
                for end, curves in (("low", low), ("high", high)):
                    data += [(network, f"{key}_{end}", label, *p) for label, curve in curves.items() for p in curve]
        beta = _curves(f"why/{network}/effective_beta", shown)
        if beta:
            panels.append(_panel(f"{network}: effective β", beta, colours, "log"))
            data += [(network, "effective_beta", label, *p) for label, curve in beta.items() for p in curve]
    return (
        Plot(
            "why_landscape",
            "The landscape along the gradient",
            "Filled: from the lowest to the highest value over eight step sizes along −g, from ½ to 4 times as long as "
            "the real update, means over seeds. Effective β: line and band over seeds.",
            panels,
            (4.4, 2.7),
            ("network", "quantity", "condition", "step", "mean", "lowest", "highest", "n"),
            data,
            legend,
        )
        if panels
        else None
    )


def _band(title: str, low: Mapping[str, Curve], high: Mapping[str, Curve], colours: Mapping[str, str]) -> Panel:
    def draw(ax: Axes) -> None:
        for label in low:
            bottom, top = ({step: mean for step, mean, *_ in ends.get(label, [])} for ends in (low, high))
            steps = sorted(bottom.keys() & top.keys())
            between = [bottom[s] for s in steps], [top[s] for s in steps]
            ax.fill_between(steps, *between, color=colours[label], alpha=0.3, linewidth=0.8)
        ax.set(xlabel="step", title=title)
        if min(p[1] for curve in low.values() for p in curve) > 0:
            logarithmic(ax)

    widths = "; ".join(
        f"{label} {curve[-1][1]:.3g} to {high[label][-1][1]:.3g}" for label, curve in low.items() if label in high
    )
    return Panel(draw, f"{title}, its range at the last measurement: {widths}.")


def _by_depth(
    networks: Sequence[str],
    shown: Sequence[Condition],
    colours: Mapping[str, str],
    legend: Sequence[tuple[str, str]],
) -> Plot | None:
    """Moments by layer at the first measurement, each layer's second moment over seeds."""
    panels, data = [], []
    for network in networks:
        curves: dict[str, Curve] = {}
        for c in shown:
            rows = [found for run in c.runs if (found := _first_moments(run.directory.probes(), network)) is not None]
            if rows and len({len(row) for row in rows}) == 1:
                curves[c.label] = over_seeds([dict(enumerate(row.tolist(), start=1)) for row in rows])
        if curves:
            panels.append(_layers(f"{network}: second moment of the inputs", curves, colours))
            data += [(network, label, *point) for label, curve in curves.items() for point in curve]
    return (
        Plot(
            "why_depth",
            "The inputs of the layers, by depth",
            "The first measurement of each run, which is of the initial network where the budget allowed it: mean² + "
            "variance, averaged over channels, from the first layer's input to the output.",
            panels,
            (4.4, 2.7),
            ("network", "condition", "layer", "mean", "lowest", "highest", "n"),
            data,
            legend,
        )
        if panels
        else None
    )


def _first_moments(probes: Mapping[int, Path], network: str) -> np.ndarray | None:
    for file in probes.values():
        try:
            with file.open("rb") as stream, np.load(stream) as arrays:
                means, variances = (np.asarray(arrays[f"why/{network}/moments/{k}"]) for k in ("means", "variances"))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError):
            continue  # of another probe, or damaged: a later one serves
        moments = np.square(means) + variances
        if moments.ndim == 1 and np.isfinite(moments).all():
            return moments
    return None


def _layers(title: str, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> Panel:
    def draw(ax: Axes) -> None:
        for label, curve in curves.items():
            draw_curve(ax, curve, colours[label], label)
        ax.set(xlabel="layer", title=title)
        logarithmic(ax)

    ends = "; ".join(f"{label} {curve[0][1]:.2g} to {curve[-1][1]:.2g}" for label, curve in curves.items())
    return Panel(draw, f"{title}, first to last: {ends}.")
