"""Pages need nothing from outside, run no script but their own, and show names as text."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from support.html_page import Page
from support.run_directories import MakeRun

from gannorm.comparison.comparison import Comparison
from gannorm.report.compare import compare


@pytest.fixture(scope="module")
def page(compared: tuple[Comparison, Path]) -> Page:
    return Page((compared[1] / "index.html").read_text())


def test_the_page_asks_for_nothing_from_outside(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            if value is None:
                continue
            local = re.fullmatch(r"figures/\w+\.(png|csv)|(table|runs)\.(csv|json)", value) if tag == "a" else None
            assert local or value.startswith("data:"), (tag, value[:60])
    assert "@import" not in page.source and "url(" not in page.source


def test_the_policy_allows_the_pages_script_and_no_other(page: Page) -> None:
    (policy,) = (a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["script-src"] == f"'sha256-{own}'"
    assert rules["default-src"] == "'none'"


def test_hostile_names_stay_text(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>${headline}$\\frac{"
    runs = [make_run("batch", 0), make_run(hostile, 0, name="x"), make_run("group", 0, name="<svg onload=alert(1)>")]
    runs[1].add_scores({"step": 1, "fid": 1.0, "protocol": {hostile: hostile}})
    runs.append(make_run("group", 1))
    runs[-1].set_status("failed", 3, hostile)
    compare(runs, tmp_path / "report")
    page = Page((tmp_path / "report" / "index.html").read_text())
    assert len(page.named("script")) == 1
    assert not page.named("svg")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.source  # it is shown, as text
    for attributes in page.named("img"):
        kind, _, data = (attributes["src"] or "").partition(";base64,")
        if kind == "data:image/svg+xml":
            figure = Page(base64.b64decode(data).decode())
            assert figure.named("text") and not figure.named("script") and not figure.named("img")
            assert not any(name.startswith("on") for _, attributes in figure.elements for name in attributes)


def test_every_picture_has_words(page: Page) -> None:
    pictures = page.named("img")
    assert len(pictures) >= 10
    assert all(len(attributes["alt"] or "") > 10 for attributes in pictures)


def test_long_keys_break_between_words_only(page: Page) -> None:
    assert "<dt>extractor_<wbr>sha256<wbr></dt>" in page.source
    assert "<dt>data.<wbr>batch_<wbr>size<wbr></dt>" in page.source
