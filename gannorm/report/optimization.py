"""The report's second page: what a normalizer does to the optimization, as the optimization probes recorded it.

The figures come from `optimization_figures`, the table's rows from table.csv. Without optimization probes there is no
page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.numbers import interval, short
from gannorm.comparison.quantities import FINAL_PROBES, OPTIMIZATION
from gannorm.comparison.scores import ACCURACY
from gannorm.comparison.sentences import names
from gannorm.files import write_text
from gannorm.report import pages, rendering, report
from gannorm.report.about import About, about
from gannorm.report.cells import Cell, Table, of_effect, of_row
from gannorm.report.curves import SHOWN
from gannorm.report.optimization_figures import figures, measured, within
from gannorm.report.plots import Plot

__all__ = ["measured", "page", "write"]


def write(comparison: Comparison, output: Path, facts: About) -> None:
    """Write optimization.html and its figures into the existing folder `output`, or remove an old page without data.

    Raises:
        UserError: a file cannot be written.
    """
    if not measured(comparison):
        (output / pages.OPTIMIZATION).unlink(missing_ok=True)
        return
    plots = list(figures(comparison))
    report.write_figures(plots, output)
    write_text(output / pages.OPTIMIZATION, page(comparison, plots, facts))


def page(comparison: Comparison, plots: Sequence[Plot], facts: About | None = None) -> str:
    """The page as text."""
    return rendering.render(
        pages.OPTIMIZATION,
        about=facts or about(comparison),
        title=report.TITLES[comparison.task],
        headline=headline(comparison),
        findings=findings(comparison),
        final_probes=FINAL_PROBES,
        baseline=comparison.conditions[0].title,
        cautions=_cautions(comparison),
        figures=list(rendering.drawings(plots).values()),
        quantities=_table(comparison),
    )


# -- words ------------------------------------------------------------------------------------------------------------


def headline(comparison: Comparison) -> str:
    """One sentence on shift and smoothness of the first measured network, computed from the rows."""
    network, base = measured(comparison)[0], comparison.conditions[0]
    others = comparison.finished[1:]
    if not others:
        return f"The optimization of the {network} with {base.title}; there is no other condition yet."
    parts = []
    # a cosine nearer to 1 is less shift
    for key, what, larger, smaller in (
        ("covariate_shift_cosine", "covariate shift", "lower", "higher"),
        ("effective_beta", "roughness", "higher", "lower"),
    ):
        clauses = []
        for verdict, word in ((larger, "more"), (smaller, "less")):
            rows = [(c, comparison.row(c.label, f"optimization/{network}/{key}")) for c in others]
            members = [c for c, row in rows if row and row.effect and row.effect.verdict == verdict]
            if members:
                clauses.append(f"{word} {what} with {names(members)}")
        parts += clauses or [f"no difference in {what} shown"]
    return f"The {network} against {base.title}: {'; '.join(parts)}."


def findings(comparison: Comparison) -> list[str]:
    """The accuracy of classifiers, then one sentence a network and key quantity: the conditions against the first."""
    key_quantities = ("covariate_shift_cosine", "covariate_shift_relative", "effective_beta", "loss_band")
    titles = {
        f"optimization/{n}/{key}": f"{n.capitalize()}, {within(OPTIMIZATION[key][0])}"
        for n in measured(comparison)
        for key in key_quantities
    }
    sentences = []
    for name, title in {f"{ACCURACY.name}/final": ACCURACY.title, **titles}.items():
        base = comparison.row(comparison.baseline, name)
        if base is None:
            continue
        clauses = [f"{comparison.conditions[0].title} {interval(base.estimate)}"]
        for c in comparison.finished[1:SHOWN]:
            row = comparison.row(c.label, name)
            if row and row.effect:
                clauses.append(f"{c.title} {short(row.estimate.mean)}, {row.effect.verdict} ({row.effect.design})")
        sentences.append(f"{title}: {'; '.join(clauses)}.")
    return sentences


def _cautions(comparison: Comparison) -> list[str]:
    """Conditions that are not drawn, and measurements that runs skipped for their time budget, or that failed."""
    lines = []
    if len(comparison.finished) > SHOWN:
        lines.append(f"Figures and sentences show the first {SHOWN} conditions; the table shows all.")
    for what, words in (("skipped", "measurements did not fit into the time budget"), ("failed", "probes failed")):
        last = [run.series(f"optimization/{what}") for c in comparison.conditions for run in c.runs]
        count = sum(int(series[max(series)]) for series in last if series)
        if count:
            lines.append(f"{count} {words}; the curves have gaps there.")
    return lines


def _table(comparison: Comparison) -> Table:
    header = ("Quantity", "Condition", "Mean and interval", "Difference from the baseline", "Verdict")
    table = Table("Optimization, at the end of training", header)
    for network in measured(comparison):
        for key, (title, _) in OPTIMIZATION.items():
            for c in comparison.conditions:
                row = comparison.row(c.label, f"optimization/{network}/{key}")
                if row:
                    table.rows.append([Cell(title, network), Cell(c.title), of_row(row), *of_effect(row)])
    return table
