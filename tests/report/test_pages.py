"""A report replaces a report and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.run_directories import MakeRun

from gannorm.errors import UserError
from gannorm.report.compare import compare
from gannorm.report.pages import linked_figures


def test_a_page_of_somebody_else_is_not_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("batch", 0)
    for name in ("index.html", "optimization.html", "why.html"):
        output = tmp_path / name.removesuffix(".html")
        output.mkdir()
        (output / name).write_text("<title>My thesis</title>")
        with pytest.raises(UserError, match=rf"may only replace a report: .*{name} is another page; choose"):
            compare([run], output)
        assert [file.name for file in output.iterdir()] == [name]
        assert (output / name).read_text() == "<title>My thesis</title>"


def test_a_report_replaces_a_report_of_any_age(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("batch", 0)
    (tmp_path / "index.html").write_text("<title>Images or batches? A gannorm comparison</title>")  # without generator
    (tmp_path / "why.html").write_text("<title>Why? A gannorm comparison</title>")
    compare([run], tmp_path)
    first = (tmp_path / "index.html").read_text()
    assert '<meta name="generator" content="gannorm ' in first
    compare([run], tmp_path)
    assert (tmp_path / "index.html").read_text() == first
    assert not (tmp_path / "why.html").exists()
    (tmp_path / "index.html").write_bytes(first.encode() + b"\xff")  # damaged
    compare([run], tmp_path)
    assert (tmp_path / "index.html").read_text() == first


def test_figures_of_the_report_before_go_and_other_files_stay(make_run: MakeRun, tmp_path: Path) -> None:
    probed, bare = make_run("batch", 0), make_run("group", 0)
    shutil.rmtree(bare.path / "probes")
    compare([probed], tmp_path)
    first = set(linked_figures(tmp_path))
    assert first == {file for file in (tmp_path / "figures").iterdir()}
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    compare([bare], tmp_path)
    assert set((tmp_path / "figures").iterdir()) == {*linked_figures(tmp_path), tmp_path / "figures" / "mine.png"}
    assert tmp_path / "figures" / "coupling.png" in first - set(linked_figures(tmp_path))
