"""The report: one self-contained page, and the figures as files.

Everything that comes from a run (names, config values, reasons, protocols) is escaped. The page's content security
policy allows inline images and the one script of the template, by its hash, and no connection to anywhere.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from gannorm.files import atomic_write, write_text
from gannorm.report import markup
from gannorm.comparison.conditions import text
from gannorm.comparison.crossed import TITLES
from gannorm.report.curves import SHOWN
from gannorm.report.figures import SUMMED, figures
from gannorm.comparison.findings import JUDGES_BATCHES, JUDGES_IMAGES, verdict
from gannorm.report.plots import Plot, png
from gannorm.comparison.quantities import ACCURACY, FINAL_PROBES, QUANTITIES, SCORES, Score
from gannorm.report.samples import sample_slider
from gannorm.comparison.table import LISTED_FINDINGS, Comparison, Row, short

LISTED_RUNS = 40  # more than this are folded away


def write_report(comparison: Comparison, output: Path, more: str = "") -> None:
    """Write index.html and figures/NAME.png and .csv into the existing folder `output`.

    Args:
        more: markup that leads to another page.

    Raises:
        UserError: a file cannot be written.
    """
    plots = list(figures(comparison))
    write_figures(plots, output)
    write_text(output / "index.html", page(comparison, plots, more))


def write_figures(plots: Iterable[Plot], output: Path) -> None:
    """Write figures/NAME.png and .csv of each plot into `output`."""
    for plot in plots:
        with atomic_write(output / "figures" / f"{plot.name}.png") as stream:
            stream.write(png(plot))
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([plot.header, *plot.data])
        write_text(output / "figures" / f"{plot.name}.csv", lines.getvalue())


def page(comparison: Comparison, plots: Sequence[Plot], more: str = "") -> str:
    """The page as text."""
    kind, script = KINDS[comparison.task], markup.part("slider.js")
    drawn = {plot.name: markup.figure(plot) for plot in plots}
    return markup.filled(
        "report.html",
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=kind.title,
        question=kind.question,
        headline=escape(comparison.headline),
        findings=_findings(comparison.findings),
        summary=drawn.get(kind.summary, ""),
        cautions=_cautions(comparison),
        more=more,
        sections=kind.sections(comparison, drawn),
        crossed=_crossed(comparison, drawn.get("crossed", "")),
        quantities=_quantity_table(comparison),
        runs=_run_table(comparison),
        left_out=_left_out(comparison),
        shared=_mapping(_shared_config(comparison), "The runs share no setting."),
    )


# -- what is told of GANs, and of classifiers --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of report: what it asks, its first figure, and the sections that make up its own part of the page."""

    title: str
    question: str
    summary: str
    sections: Callable[[Comparison, Mapping[str, str]], str]


def _of_gans(comparison: Comparison, drawn: Mapping[str, str]) -> str:
    return markup.filled(
        "report_gans.html",
        final_probes=FINAL_PROBES,
        dependence=_dependence_table(comparison),
        accuracy=drawn.get("accuracy", "<p>No run recorded accuracies over training.</p>"),
        coupling=drawn.get("coupling", "<p>No run recorded a coupling matrix.</p>"),
        samples=sample_slider(comparison),
        score_table=_score_table(comparison, SCORES, "Scores of the generator")
        or "<p>No finished run holds scores: <code>gannorm evaluate</code> adds them.</p>",
        scores=drawn.get("scores", ""),
        scatter=drawn.get("coupling_against_score", ""),
        score_protocol=_mapping(comparison.protocol or {}, "The runs hold no scores."),
        baseline=escape(comparison.conditions[0].title),
    )


def _of_classifiers(comparison: Comparison, drawn: Mapping[str, str]) -> str:
    return markup.filled(
        "report_classifiers.html",
        accuracy_table=_score_table(comparison, [ACCURACY], "Accuracy of the classifiers")
        or "<p>No finished run was tested: <code>--test_every</code> says how often.</p>",
        accuracy_curves=drawn.get("test_accuracy", ""),
        baseline=escape(comparison.conditions[0].title),
    )


KINDS = {
    "GAN": Kind("Images or batches?", "Does the discriminator judge images, or batches?", "accuracy_summary", _of_gans),
    "classifier": Kind(
        "How well do they learn?", "How well do the classifiers learn?", "test_accuracy_summary", _of_classifiers
    ),
}


# -- tables -----------------------------------------------------------------------------------------------------------


def _cell(row: Row | None) -> str:
    return markup.estimate(row.estimate if row else None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _dependence_table(comparison: Comparison) -> str:
    rows = []
    for c in comparison.conditions:
        kind = verdict(comparison.rows, c.label)
        tone = {JUDGES_BATCHES: "batches", JUDGES_IMAGES: "images"}.get(kind, "")
        found = {name: comparison.row(c.label, f"train/{name}") for name in (*_BARE, *_WITH_INTERVAL, *_SWAP)}
        worst, bitwise = (found[name] for name in _SWAP)
        rows.append(
            [
                f"{escape(c.title)} <small>{_count(len(c.runs), 'seed')}, {c.divergence} diverged</small>",
                f"<span class='verdict {tone}'>{escape(kind)}</span>",
                *(
                    markup.number(row.estimate.mean, short(row.estimate.mean)) if (row := found[n]) else "–"
                    for n in _BARE
                ),
                *(_cell(found[name]) for name in _WITH_INTERVAL),
                "bitwise equal" if bitwise and bitwise.estimate.mean == 1 else _cell(worst),
            ]
        )
    header = ("Condition", "The discriminator", *_BARE.values(), *_WITH_INTERVAL.values(), "Companion swap")
    return markup.table("Batch dependence of the discriminator in train mode", header, rows)


_BARE = {
    "accuracy_pure": "Accuracy pure",
    "accuracy_mixed": "Accuracy mixed",
    "auc_pure": "AUC pure",
    "auc_mixed": "AUC mixed",
}
_WITH_INTERVAL = {"accuracy_fall": "Fall of accuracy", "leak_ratio": "Leak ratio", "coupling_ratio": "Coupling ratio"}
_SWAP = ("swap_max_change", "swap_bitwise_equal")


def _score_table(comparison: Comparison, scores: Iterable[Score], caption: str) -> str:
    """A line a score and condition; "" where nothing was scored."""
    rows = []
    for score in scores:
        for c in comparison.conditions:
            last = comparison.row(c.label, f"{score.name}/final")
            if last:
                effect = last.effect
                change = "baseline" if c.label == comparison.baseline else "–"
                if effect:
                    change = markup.estimate(*score.change(effect), signed=True)
                others = (_cell(comparison.row(c.label, f"{score.name}/{kind}")) for kind in ("best", "level"))
                rows.append([f"{score.title} <small>{score.better} is better</small>", escape(c.title)])
                rows[-1] += [_cell(last), change, markup.verdict(last), *others]
    header = ("Score", "Condition", "Last", "Against the baseline", "Verdict", "Best", "Mean level over training")
    return markup.table(caption, header, rows) if rows else ""


def _crossed(comparison: Comparison, figure: str) -> str:
    """The section on crossed factors; nothing where there are none."""
    if not comparison.crossed:
        return ""
    baseline = comparison.crossed[0].baseline
    levels = list(dict.fromkeys([baseline, *(level for line in comparison.crossed for level in line.cells)]))
    rows = []
    for line in comparison.crossed:
        cells = [markup.estimate(line.cells.get(level), signed=bool(line.change)) for level in levels]
        for effect in (line.differences.get(level) for level in levels[1:]):
            shown = markup.estimate(effect.difference, signed=True) if effect else "–"
            cells.append(f"<b>{shown}</b>" if effect and effect.difference.excludes_zero else shown)
        rows.append([f"{escape(TITLES[line.quantity])} <small>{escape(line.title)}</small>", *cells])
    first, *others = map(escape, levels)
    table = markup.table(
        "At every setting of the factors, then the change that each factor makes",
        ("Quantity", first, *others, *(f"{level} minus {first}" for level in others)),
        rows,
    )
    return (
        "<h2 id=factors>What each factor does at the settings of the others</h2>"
        "<p>A line that says “instead of” is a change, taken seed by seed at one setting of the remaining factors. The "
        "last columns compare those before them; of a change, that is the interaction: how much more the factor does "
        "in one column than in the other. Bold: the interval excludes zero.</p>"
        f"{table}{figure}"
    )


def _quantity_table(comparison: Comparison) -> str:
    titles = {quantity.name: quantity.title for quantity in QUANTITIES} | {"divergence_rate": "Share of diverged runs"}
    rows = []
    for row in comparison.rows.values():
        cells = [
            escape(titles[row.quantity]),
            escape(row.condition),
            markup.estimate(row.estimate),
            str(row.estimate.n),
        ]
        rows.append([*cells, *markup.effect(row)])
    header = ("Quantity", "Condition", "Mean and interval", "Runs", "Difference from the baseline", "Verdict")
    return markup.table("Every quantity, as in table.csv", header, rows)


def _run_table(comparison: Comparison) -> str:
    keys = list(comparison.conditions[0].values)
    rows = [
        [
            escape(run.name),
            escape(c.title),
            str(run.seed),
            run.state,
            str(run.step),
            *(escape(text(c.values[k])) for k in keys),
        ]
        for c in comparison.conditions
        for run in (*c.runs, *c.diverged)
    ]
    table = markup.table(
        "Runs and the settings in which they differ",
        ("Run", "Condition", "Seed", "State", "Step", *map(escape, keys)),
        rows,
    )
    return table if len(rows) <= LISTED_RUNS else f"<details><summary>{len(rows)} runs</summary>{table}</details>"


def _left_out(comparison: Comparison) -> str:
    if not comparison.left_out:
        return "<p>No run was left out.</p>"
    return markup.table(
        "Runs left out", ("Run", "Why"), ([escape(r.name), escape(r.reason)] for r in comparison.left_out)
    )


# -- words ------------------------------------------------------------------------------------------------------------


def _findings(sentences: Sequence[str]) -> str:
    items = [f"<li>{escape(sentence)}</li>" for sentence in sentences]
    listed = f"<ul class=findings>{''.join(items[:LISTED_FINDINGS])}</ul>"
    more = f"<ul class=findings>{''.join(items[LISTED_FINDINGS:])}</ul>"
    if len(items) <= LISTED_FINDINGS:
        return f"<div>{listed}</div>"
    return f"<div>{listed}<details><summary>{len(items) - LISTED_FINDINGS} more</summary>{more}</details></div>"


def _cautions(comparison: Comparison) -> str:
    """What a reader must know before believing a difference; empty when there is nothing."""
    remarks = list(comparison.remarks)
    diverged = sum(len(c.diverged) for c in comparison.conditions)
    if diverged:
        remarks.append(f"{_count(diverged, 'run')} diverged; means are over the runs that finished.")
    if any(len(c.runs) == 1 for c in comparison.conditions):
        remarks.append("A condition with one seed has no interval: another seed may give another picture.")
    if comparison.left_out:
        remarks.append(f"{_count(len(comparison.left_out), 'run')} left out, named below with the reason.")
    if (finished := len(comparison.finished)) > SHOWN:
        first = f"the first figure shows {min(finished, SUMMED)}, the others {SHOWN}"
        remarks.append(f"Of {finished} conditions {first}; the tables show all.")
    return markup.caution(remarks)


def _shared_config(comparison: Comparison) -> dict[str, Any]:
    """The settings that all runs have in common."""
    runs = [run for c in comparison.conditions for run in (*c.runs, *c.diverged)]
    common = set.intersection(*({(k, text(v)) for k, v in run.config.items()} for run in runs))
    return {key: value for key, value in runs[0].config.items() if (key, text(value)) in common}


def _mapping(content: Mapping[str, Any], otherwise: str) -> str:
    if not content:
        return f"<p>{escape(otherwise)}</p>"
    pairs = ((key, text(value)) for key, value in content.items())
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs) + "</dl>"
