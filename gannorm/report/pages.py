"""The pages of a report, and the check that a newer report replaces only pages of gannorm."""

from __future__ import annotations

import re
from pathlib import Path

from gannorm.errors import UserError
from gannorm.files import writing

INDEX, OPTIMIZATION = "index.html", "optimization.html"
FORMER = ("why.html",)  # pages of earlier versions, which a newer report removes
PAGES = (INDEX, OPTIMIZATION, *FORMER)
# Every page of gannorm holds one of these; the second is in pages of versions without a generator tag.
MARKS = (b'<meta name="generator" content="gannorm ', b" A gannorm comparison</title>")


def require_replaceable(output: Path) -> None:
    """Raises UserError if a page in the folder `output` is not from gannorm: a report would replace it."""
    for page in (output / name for name in PAGES):
        with writing(page):
            content = page.read_bytes() if page.exists() else None
        if content is not None and not any(mark in content for mark in MARKS):
            raise UserError(
                f"a report may only replace a report: {page} is another page; choose another folder or move it away."
            )


def linked_figures(output: Path) -> list[Path]:
    """The PNG and CSV files of figures that the pages in the folder `output` link to, in their order."""
    pages = [page.read_text("utf-8", "replace") for name in PAGES if (page := output / name).exists()]
    names = re.findall(r'href="(figures/\w+\.(?:png|csv))"', "".join(pages))
    return [output / name for name in dict.fromkeys(names)]
