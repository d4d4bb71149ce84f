"""A report's folder is written whole, or the reason is one clear line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.html_page import Page, records

from gannorm.cli import main
from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import runs_csv
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


STUDY = """
question: Is it lower?
base: digits
factors:
  arm:
    batch: {model.discriminator.norm: batch}
    group: {model.discriminator.norm: group}
    running: {model.discriminator.norm: running}
  seed: [0, 1, 2, 3, 4, 5]
primary:
  {quantity: fid, scale: log, test: welch, comparisons: [[group, batch], [running, batch]], margin: 0.25}
"""


def test_a_runs_csv_and_the_study_give_the_primary_analysis_at_the_top_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FIDs of a known effect, a ratio of 1/2 and of 1; the numbers are scipy's on the logarithms."""
    monkeypatch.chdir(tmp_path)
    spread = np.exp(np.linspace(-0.1, 0.1, 6))
    values = {"batch": 4 * spread, "group": 2 * spread, "running": 4.02 * spread[::-1]}
    Path("runs.csv").write_text(runs_csv(lines(values)))
    Path("study.yaml").write_text(STUDY)
    assert main(["compare", "runs.csv", "--study", "study.yaml", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    rows = Page(page).tables["logarithms of fid at the end, Welch's test, Holm over 2, equal within ±25 %"]
    written = records(tmp_path / "out" / "primary.csv")
    assert [r["outcome"] for r in written] == ["better", "equal within ±25 %"]
    assert [cells[-1][0] for cells in rows[1:]] == ["better", "equal within ±25 %"]
    table = (tmp_path / "out" / "primary.md").read_text()
    for record, arm in zip(written, ("group", "running"), strict=True):
        y, x = np.log(values[arm]), np.log(values["batch"])
        welch = stats.ttest_ind(y, x, equal_var=False)
        low, high = np.exp(welch.confidence_interval(0.95))
        assert float(record["change"]) == pytest.approx(np.exp(y.mean() - x.mean()))
        assert (float(record["change_low"]), float(record["change_high"])) == pytest.approx((low, high))
        assert float(record["p"]) == pytest.approx(welch.pvalue)
        for text in (printed, page, table):
            assert f"{arm} against batch" in text
    assert page.index('id="primary"') < page.index('class="opening"')  # before everything else
    assert "| group against batch | 6 and 6 | 2.00 and 4.00 | 0.50 (" in table
    assert (tmp_path / "out" / "study.yaml").read_text() == STUDY
    assert {row["state"] for row in records(tmp_path / "out" / "plan.csv")} == {
        "to do"
    }  # these lines have no real hash
    # A report without a study leaves no analysis of the one before.
    assert main(["compare", "runs.csv", "--output", "out"]) == 0
    assert (
        not list((tmp_path / "out").glob("primary.*"))
        and 'id="primary"' not in (tmp_path / "out" / "index.html").read_text()
    )


def lines(values: Mapping[str, np.ndarray]) -> list[Run]:
    """Runs as a runs.csv holds them: one arm a normalizer, one FID a seed."""
    return [
        Run(
            f"{norm}_{seed}",
            {"seed": seed, "model.discriminator.norm": norm},
            seed,
            "finished",
            9,
            values={"fid/final": float(fid)},
            hash=norm,
            protocol="{}",
        )
        for norm, fids in values.items()
        for seed, fid in enumerate(fids)
    ]


def test_a_runs_csv_in_the_output_folder_stays_as_it_is(tmp_path: Path) -> None:
    """Lines that are left out of a comparison are not lost by it."""
    file = tmp_path / "runs.csv"
    twice = lines({"batch": np.array([2.0, 3.0])})
    file.write_text(runs_csv([*twice, twice[0]]))
    before = file.read_bytes()
    comparison = compare(file, tmp_path)
    assert len(comparison.left_out) == 1 and file.read_bytes() == before
