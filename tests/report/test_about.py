"""The top of a page says where it comes from."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from support.run_directories import MakeRun

from gannorm.report.compare import compare


def test_the_top_of_the_page_says_where_it_comes_from(make_run: MakeRun, tmp_path: Path) -> None:
    compare([make_run("batch", 0)], tmp_path, question="Which <i>one</i>?", command="gannorm compare runs/study")
    source = (tmp_path / "index.html").read_text()
    top = source[: source.index("<main>")]
    for name, value in (
        ("Study", "study"),
        ("Question", "Which &lt;i&gt;one&lt;/i&gt;?"),
        ("Data", "digits, 16×16"),
        ("Date", str(date.today())),
        ("Command", "gannorm compare runs/study"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in top
