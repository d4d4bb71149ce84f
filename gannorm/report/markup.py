"""Pieces of the report's pages as markup. What comes from a run (names, values, reasons) is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template

from gannorm.comparison.intervals import Estimate
from gannorm.report.plots import Plot, svg
from gannorm.comparison.table import Row, interval


def part(name: str) -> str:
    """A file of this package: a template, the style or the script."""
    return files("gannorm.report").joinpath(name).read_text("utf-8")


def filled(template: str, **markup: object) -> str:
    """A template with its places filled."""
    return Template(part(template)).substitute(style=part("style.css"), version=escape(version("gannorm")), **markup)


def caution(remarks: Sequence[str]) -> str:
    """What a reader must know before believing a difference; empty where there is nothing."""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return f"<aside><h2>Before you believe a difference</h2><ul>{items}</ul></aside>" if remarks else ""


def figure(plot: Plot) -> str:
    """A figure with its panels inline, and links to its files."""
    panels = "".join(
        f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg(plot, panel).encode()).decode()}" '
        f'alt="{escape(panel.alt)}">'
        for panel in plot.panels
    )
    entries = "".join(f'<li><i style="border-color:{colour}"></i>{escape(title)}</li>' for title, colour in plot.legend)
    legend = f"<ul class=legend>{entries}</ul>" if entries else ""
    links = f'<a href="figures/{plot.name}.png">PNG</a> <a href="figures/{plot.name}.csv">CSV</a>'
    return (
        f'<figure class="plot {plot.name}"><h3>{escape(plot.title)}</h3>{legend}<div class="panels">{panels}</div>'
        f"<figcaption>{escape(plot.caption)} <span class=files>{links}</span></figcaption></figure>"
    )


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are markup; the first of each row is its header."""
    head = "".join(f"<th scope=col>{cell}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for first, *rest in rows
    )
    name = escape(caption)
    content = f"<table><caption>{name}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class=scroll tabindex=0 role=region aria-label="{name}">{content}</div>'


def number(value: float, shown: str) -> str:
    """A number as people read it, with the value of table.csv behind it."""
    return f'<data value="{value!r}">{shown}</data>'


def estimate(value: Estimate | None, unit: str = "", *, signed: bool = False) -> str:
    """A mean with its interval, small; a dash where there is none."""
    if value is None:
        return "–"
    shown, _, rest = interval(value, unit, signed=signed).partition(" (")
    return number(value.mean, shown) + (f" <small>({rest}</small>" if rest else "")


def effect(row: Row) -> list[str]:
    """Two cells: the difference from the baseline, and its verdict; a dash and nothing for the baseline."""
    if row.effect is None:
        return [estimate(None), ""]
    return [estimate(row.effect.difference, signed=True), verdict(row)]


def verdict(row: Row) -> str:
    """Of the effect, and how it was compared."""
    return f"{row.effect.verdict} <small>{row.effect.design}</small>" if row.effect else ""
