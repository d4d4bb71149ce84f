"""The pages of a report, and which of those that lie in its folder are reports, to be replaced by a newer one."""

from __future__ import annotations

import re
from pathlib import Path

from gannorm.errors import UserError
from gannorm.files import writing

INDEX, OPTIMIZATION = "index.html", "optimization.html"
FORMER = ("why.html",)  # pages of earlier versions, which a newer report removes
PAGES = (INDEX, OPTIMIZATION, *FORMER)
# One is in every page of ours: the second in those from before they named their generator.
MARKS = (b'<meta name="generator" content="gannorm ', b" A gannorm comparison</title>")


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
