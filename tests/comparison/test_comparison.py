"""The forms of a comparison hold its rows: text, CSV, JSON, a DataFrame."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.run_directories import dependence, rewrite, score

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.errors import UserError
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_csv_and_json_hold_the_rows(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    written = list(csv.DictReader(io.StringIO((output / "table.csv").read_text())))
    content = json.loads((output / "table.json").read_text())
    assert len(written) == len(content["rows"]) == len(comparison.rows) > 20
    for line, entry, row in zip(written, content["rows"], comparison.rows.values(), strict=True):
        assert entry == row.flat()
        assert line == {k: "" if v is None else str(v) for k, v in row.flat().items()}
    assert content["headline"] == comparison.headline
    batch = content["conditions"][0]
    assert (batch["runs"], batch["diverged"]) == ({f"batch_{seed}": seed for seed in range(3)}, ["batch_3"])


def test_the_terminals_columns_stand_under_their_headings(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    values = dependence(True, 0.9, 0.4, 0.1)
    rewrite(run, [{f"batch_dependence/train/{name}": value for name, value in values.items()}])
    score(run, {1: {"fid": 7.0, "inception_score": 4.0}})
    head, line = analyse([run]).to_text().splitlines()[2:4]
    assert head.split() == ["runs", "diverged", "AUC", "pure", "mixed", "conflict", "IS", "FID", "the", "discriminator"]
    assert line.split() == ["batch", "1", "0", "of", "1", "0.90", "0.40", "0.10", "4.00", "7.00", "judges", "batches"]


def test_the_terminal_tells_the_first_findings_and_counts_the_rest(compared: tuple[Comparison, Path]) -> None:
    comparison = replace(compared[0], findings=[f"finding {n}." for n in range(10)])
    text = comparison.to_text()
    assert "  finding 7.\n  2 more in the report" in text and "finding 8." not in text
    assert "more in the report" not in compared[0].to_text()


def test_a_third_party_run_does_not_steer_the_terminal(make_run: MakeRun) -> None:
    whole, damaged = make_run("batch", 0), make_run("batch", 1)
    (damaged.path / "status.json").write_text("{")
    damaged.path.rename(hostile := damaged.path.with_name("\x1b[2J\u202ename"))
    text = analyse([whole, RunDir.open(hostile)]).to_text()
    assert "left out: ?[2J?name" in text
    assert not set(text) & {"\x1b", "\u202e"}


def test_a_notebook_gets_the_rows_as_a_frame(compared: tuple[Comparison, Path]) -> None:
    pytest.importorskip("pandas")
    comparison, output = compared
    frame = comparison.to_frame()
    lines = list(csv.DictReader(io.StringIO((output / "table.csv").read_text())))
    assert list(frame.columns) == list(lines[0])
    assert frame["mean"].tolist() == [float(line["mean"]) for line in lines]


def test_without_pandas_a_frame_is_one_clear_line(
    compared: tuple[Comparison, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"needs pandas, which is not installed: pip install 'gannorm\[notebook\]'"):
        compared[0].to_frame()
