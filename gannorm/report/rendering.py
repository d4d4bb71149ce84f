"""Pages are templates filled by jinja2 with autoescape.

The templates escape all text from runs (names, config values, reasons, protocols). A page's content security policy
allows inline images and the template's script, by its hash, and no network connection.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gannorm.report.plots import Plot, svg


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
        context: the template's variables; a missing one is an error.
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
    """The content as a data URI, which needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


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
