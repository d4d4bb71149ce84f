"""A report's page as a test reads it: its elements, and its tables with the numbers behind their cells."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The elements of a page, and the rows of its tables as lists of (text, values) a cell."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, list[float]]]]] = {}
        self._caption, self._text = "", ""
        self._values: list[float] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in ("caption", "th", "td"):
            self._text, self._values = "", []
        elif tag == "tr" and self._caption:
            self.tables[self._caption].append([])
        elif tag == "data":
            self._values.append(float(dict(attributes)["value"] or "nan"))

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._caption = self._text
            self.tables[self._caption] = []
        elif tag in ("th", "td"):
            self.tables[self._caption][-1].append((self._text, self._values))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def records(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))
