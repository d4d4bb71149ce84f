"""The report's second page: why a normalizer helps, from what the optimization probes recorded during training.

The figures are those of `why_figures`; the table's rows are those of table.csv. There is no page where no run was
measured so.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from gannorm.files import write_text
from gannorm.report import markup, report
from gannorm.report.curves import SHOWN
from gannorm.comparison.findings import names
from gannorm.report.plots import Plot
from gannorm.comparison.quantities import ACCURACY, FINAL_PROBES, WHY
from gannorm.comparison.table import Comparison, interval, short
from gannorm.report.optimization_figures import figures, measured, within

PAGE = "why.html"


def write_why(comparison: Comparison, output: Path) -> None:
    """Write why.html and its figures into the existing folder `output`, or remove an old page if nothing was measured.

    Raises:
        UserError: a file cannot be written.
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


def page(comparison: Comparison, plots: Sequence[Plot]) -> str:
    """The page as text."""
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(comparison))
    return markup.filled(
        PAGE,
        title=report.KINDS[comparison.task].title,
        headline=escape(headline(comparison)),
        findings=f"<ul class=findings>{told}</ul>",
        final_probes=FINAL_PROBES,
        baseline=escape(comparison.conditions[0].title),
        cautions=_cautions(comparison),
        figures="".join(markup.figure(plot) for plot in plots),
        quantities=_table(comparison),
    )


# -- words ------------------------------------------------------------------------------------------------------------


def headline(comparison: Comparison) -> str:
    """One sentence on shift and smoothness of the first measured network, computed from the rows."""
    network, base = measured(comparison)[0], comparison.conditions[0]
    others = comparison.finished[1:]
    if not others:
        return f"The optimization of the {network} with {base.title}, and nothing yet to compare it with."
    parts = []
    # a cosine nearer to 1 is less shift
    for key, what, larger, smaller in (
        ("covariate_shift_cosine", "covariate shift", "lower", "higher"),
        ("effective_beta", "roughness", "higher", "lower"),
    ):
        shown = []
        for verdict, word in ((larger, "more"), (smaller, "less")):
            rows = [(c, comparison.row(c.label, f"why/{network}/{key}")) for c in others]
            found = [c for c, row in rows if row and row.effect and row.effect.verdict == verdict]
            shown += [f"{word} {what} with {names(found, others)}"] if found else []
        parts += shown or [f"no difference in {what} shown"]
    return f"The {network} against {base.title}: {'; '.join(parts)}."


def findings(comparison: Comparison) -> list[str]:
    """How well classifiers learned, then a sentence a network and key quantity: the conditions against the first."""
    key_quantities = ("covariate_shift_cosine", "covariate_shift_relative", "effective_beta", "loss_band")
    told = {
        f"why/{n}/{key}": f"{n.capitalize()}, {within(WHY[key][0])}"
        for n in measured(comparison)
        for key in key_quantities
    }
    sentences = []
    for name, title in {f"{ACCURACY.name}/final": ACCURACY.title, **told}.items():
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


def _cautions(comparison: Comparison) -> str:
    """Conditions that are not drawn, and measurements that runs skipped for their time budget, or that failed."""
    lines = []
    if len(comparison.finished) > SHOWN:
        lines.append(f"Figures and sentences show the first {SHOWN} conditions; the table shows all.")
    for what, words in (("skipped", "measurements did not fit into the time budget"), ("failed", "probes failed")):
        last = [run.series(f"why/{what}") for c in comparison.conditions for run in c.runs]
        count = sum(int(series[max(series)]) for series in last if series)
        if count:
            lines.append(f"{count} {words}; the curves have gaps there.")
    return markup.caution(lines)


def _table(comparison: Comparison) -> str:
    rows = []
    for network in measured(comparison):
        for key, (title, _) in WHY.items():
            for c in comparison.conditions:
                row = comparison.row(c.label, f"why/{network}/{key}")
                if row:
                    cells = [f"{escape(title)} <small>{network}</small>", escape(c.title)]
                    rows.append([*cells, markup.estimate(row.estimate), *markup.effect(row)])
    header = ("Quantity", "Condition", "Mean and interval", "Difference from the baseline", "Verdict")
    return markup.table("Optimization, at the end of training", header, rows)
