"""The report's first page, one self-contained file, and the figures as files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gannorm.comparison.comparison import LISTED_FINDINGS, Comparison
from gannorm.comparison.numbers import counted
from gannorm.comparison.quantities import FINAL_PROBES
from gannorm.comparison.scores import ACCURACY, SCORES
from gannorm.comparison.sentences import family
from gannorm.config.labels import text
from gannorm.files import atomic_write, write_text
from gannorm.report import tables
from gannorm.report.about import About, about
from gannorm.report.cells import Table
from gannorm.report.curves import SHOWN
from gannorm.report.figures import figures
from gannorm.report.pages import INDEX
from gannorm.report.plots import Plot, png
from gannorm.report.rendering import drawings, render
from gannorm.report.samples import sample_strips

LISTED_RUNS = 40  # runs beyond this number are folded
TITLES = {"GAN": "Images or batches?", "classifier": "How well do they learn?"}


def write_report(comparison: Comparison, output: Path, facts: About, *, optimization: bool = False) -> None:
    """Write index.html and figures/NAME.png and .csv into the existing folder `output`.

    Args:
        facts: for the top of the page.
        optimization: whether to link to the second page.

    Raises:
        UserError: a file cannot be written.
    """
    plots = list(figures(comparison))
    write_figures(plots, output)
    write_text(output / INDEX, page(comparison, plots, facts, optimization=optimization))


def write_figures(plots: Iterable[Plot], output: Path) -> None:
    """Write figures/NAME.png and .csv of each plot into `output`."""
    for plot in plots:
        with atomic_write(output / "figures" / f"{plot.name}.png") as stream:
            stream.write(png(plot))
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([plot.header, *plot.data])
        write_text(output / "figures" / f"{plot.name}.csv", lines.getvalue())


def page(
    comparison: Comparison, plots: Sequence[Plot], facts: About | None = None, *, optimization: bool = False
) -> str:
    """The page as text."""
    is_gan = comparison.task == "GAN"
    facts = facts or about(comparison)
    run_table = tables.runs(comparison)
    listed = SCORES if is_gan else [ACCURACY]
    caption = "Scores of the generator" if is_gan else "Accuracy of the classifiers"
    return render(
        INDEX,
        script=is_gan,
        about=facts if comparison.headline else replace(facts, question=""),  # then the question is the headline
        task=comparison.task,
        title=TITLES[comparison.task],
        question=comparison.question,
        headline=comparison.headline or facts.question or comparison.question,
        findings=comparison.findings[:LISTED_FINDINGS],
        more_findings=comparison.findings[LISTED_FINDINGS:],
        opening=next((plot.name for plot in plots[:1]), ""),
        figures=_Figures(drawings(plots)),
        primary=tables.primary(comparison),
        cautions=_cautions(comparison),
        optimization=optimization,
        dependence=tables.dependence(comparison) if is_gan else Table("", ()),
        crossed=tables.crossed(comparison),
        samples=sample_strips(comparison) if is_gan else None,
        scores=tables.scores(comparison, listed, caption),
        family=family({key: row.corrected for key, row in comparison.rows.items() if row.corrected}),
        protocol=_pairs(comparison.protocol or {}),
        final_probes=FINAL_PROBES,
        baseline=comparison.conditions[0].title,
        runs=run_table,
        runs_folded=len(run_table.rows) if len(run_table.rows) > LISTED_RUNS else 0,
        left_out=tables.left_out(comparison),
        shared=_pairs(_shared_config(comparison)),
        quantities=tables.quantities(comparison),
    )


class _Figures(dict[str, Any]):
    """Name → figure; None for one that the comparison has no data for."""

    def __missing__(self, name: str) -> None:
        return None


def _cautions(comparison: Comparison) -> list[str]:
    """Cautions for the reader of a difference."""
    remarks = list(comparison.remarks)
    diverged = sum(len(c.diverged) for c in comparison.conditions)
    if diverged:
        remarks.append(f"{counted(diverged, 'run')} diverged; means are over the runs that finished.")
    if any(len(c.runs) == 1 for c in comparison.conditions):
        remarks.append("A condition with one seed has no interval: another seed may give a different result.")
    if comparison.left_out:
        remarks.append(f"{counted(len(comparison.left_out), 'run')} left out; the table below gives the reasons.")
    finished = len(comparison.finished)
    if finished > SHOWN:
        remarks.append(f"Of {finished} conditions the figures show {SHOWN}; the tables show all.")
    return remarks


def _shared_config(comparison: Comparison) -> dict[str, Any]:
    """The settings that all runs have in common."""
    runs = [run for c in comparison.conditions for run in c.all_runs]
    common = set.intersection(*({(k, text(v)) for k, v in run.config.items()} for run in runs))
    return {key: value for key, value in runs[0].config.items() if (key, text(value)) in common}


def _pairs(content: Mapping[str, Any]) -> list[tuple[list[str], str]]:
    """(parts of the key, value): a long key may break between its parts, and not inside a word."""
    return [(re.split(r"(?<=[._])", str(key)), text(value)) for key, value in content.items()]
