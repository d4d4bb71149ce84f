"""The pages of a report: templates filled by jinja2 with autoescape, and which pages in a folder are ours to replace.

Whatever comes from a run (names, config values, reasons, protocols) is escaped by the templates. A page's content
security policy allows inline images and the one script of the template, by its hash, and no connection to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gannorm.errors import UserError
from gannorm.files import writing
from gannorm.report.plots import Plot, svg

INDEX, OPTIMIZATION = "index.html", "optimization.html"
FORMER = ("why.html",)  # pages of earlier versions, which a newer report removes
PAGES = (INDEX, OPTIMIZATION, *FORMER)
# One is in every page of ours: the second in those from before they named their generator.
MARKS = (b'<meta name="generator" content="gannorm ', b" A gannorm comparison</title>")


@dataclass(frozen=True)
class Drawing:
    """A figure as a template shows it: its panels are (data URI, words)."""

    name: str
    title: str
    caption: str
    legend: list[tuple[str, str]]
    panels: list[tuple[str, str]]


def render(template: str, *, script: bool = False, **context: Any) -> str:
    """A page as text.

    Args:
        template: a file of the folder `templates`.
        script: whether the page runs the slider's script.
        context: what the template shows; whatever is missing there is an error.
    """
    source = _part("slider.js") if script else ""
    return (
        _environment()
        .get_template(template)
        .render(
            script=source,
            script_hash=base64.b64encode(hashlib.sha256(source.encode()).digest()).decode(),
            style=_part("style.css"),
            version=version("gannorm"),
            **context,
        )
    )


def drawings(plots: Iterable[Plot]) -> dict[str, Drawing]:
    """Name → figure, its panels as inline images."""
    return {
        plot.name: Drawing(
            plot.name,
            plot.title,
            plot.caption,
            list(plot.legend),
            [(data_uri("image/svg+xml", svg(plot, panel).encode()), panel.alt) for panel in plot.panels],
        )
        for plot in plots
    }


def data_uri(kind: str, content: bytes) -> str:
    """The content as an address that a page needs no network for."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def require_replaceable(output: Path) -> None:
    """Raises UserError if a page in the folder `output` is somebody else's: a report would replace it."""
    for page in (output / name for name in PAGES):
        with writing(page):
            content = page.read_bytes() if page.exists() else None
        if content is not None and not any(mark in content for mark in MARKS):
            raise UserError(
                f"a report replaces nothing but a report: {page} is another page; choose another folder or "
                "move it away."
            )


def linked_figures(output: Path) -> list[Path]:
    """The files of figures that the pages in the folder `output` lead to, in their order: PNG and CSV."""
    pages = [page.read_text("utf-8", "replace") for name in PAGES if (page := output / name).exists()]
    names = re.findall(r'href="(figures/\w+\.(?:png|csv))"', "".join(pages))
    return [output / name for name in dict.fromkeys(names)]


def _part(name: str) -> str:
    """The style or the script."""
    return (files("gannorm.report") / "templates" / name).read_text("utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gannorm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
