"""A report's folder is written whole, or the reason is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gannorm.errors import UserError
from gannorm.report.compare import compare
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_a_folder_that_cannot_be_looked_into_is_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the output must be writable: .*: File name too long"):
        compare([make_run("batch", 0)], tmp_path / ("a" * 300))


def test_an_output_that_is_a_file_is_one_clear_line(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UserError, match="output must be writable"):
        compare([make_run("batch", 0)], tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"
