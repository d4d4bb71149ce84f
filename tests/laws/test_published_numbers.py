"""What results/ and README print is what their runs give: computed again from the committed lines of every run."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from gannorm.cli import main

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted(file.parent for file in (ROOT / "results").glob("*/runs.csv"))
RATIO = re.compile(r"\b\d\.\d\d \(\d\.\d\d to \d\.\d\d\)")


@pytest.mark.slow  # some seconds a study
@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_a_study_page_comes_out_of_its_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command that the page gives."""
    monkeypatch.chdir(ROOT)
    page = (folder / "README.md").read_text()
    (command,) = re.findall(
        rf"^    gannorm (compare results/{folder.name}/runs\.csv\b(?!.*--append).*)$", page, re.MULTILINE
    )
    assert main([*shlex.split(command, comments=True), "--output", str(tmp_path)]) == 0
    names = [name for name in ("table.csv", "primary.csv", "primary.md") if (folder / name).exists()]
    assert "table.csv" in names
    for name in names:
        assert (tmp_path / name).read_text() == (folder / name).read_text(), name


@pytest.mark.parametrize("page", ["README.md", "results/causal_digits/README.md"])
def test_the_causal_table_is_that_of_its_study(page: str) -> None:
    with (ROOT / "results/causal_digits/primary.csv").open() as file:
        lines = list(csv.DictReader(file))
    computed = {
        " ".join(f"{float(line[key]):.2f}" for key in ("change", "change_low", "change_high")) for line in lines
    }
    text = (ROOT / page).read_text().partition("<!-- causal numbers -->")[2]
    table = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ") and RATIO.search(line)]
    printed = {re.sub(r"[(to)]+ ?", "", found[0]) for line in table if (found := RATIO.search(line))}
    assert len(table) == len(lines) == 6
    assert printed == computed
