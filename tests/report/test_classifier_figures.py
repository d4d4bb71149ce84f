"""Of classifiers the page shows their accuracy, and nothing of GANs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.html_page import Page, records
from support.run_directories import MakeRun

from gannorm.comparison.analysis import analyse
from gannorm.report.compare import compare
from gannorm.rundir import find_runs


def test_the_page_of_classifiers_tells_their_accuracy_and_nothing_of_gans(
    make_classifier: MakeRun, tmp_path: Path
) -> None:
    for seed in range(3):
        make_classifier("batch", seed, [0.1, 0.99, 0.90 + 0.01 * seed])
        make_classifier("group", seed, [0.1, 0.50, 0.70 + 0.01 * seed])
    comparison = compare(find_runs([str(tmp_path / "study")]), tmp_path / "report")
    assert comparison.headline == "Accuracy on held-out images: BatchNorm 0.91; GroupNorm 0.71, worse."
    assert comparison.findings == [
        "Accuracy on held-out images, 0.91 with BatchNorm: 0.71 with GroupNorm, −0.20 (−0.20 to −0.20), worse (3 "
        "paired seeds)."
    ]
    page = Page((tmp_path / "report/index.html").read_text())
    words = re.sub(r"<style>.*?</style>|<script>.*?</script>|data:[^\"]*|<[^>]*>", " ", page.source, flags=re.DOTALL)
    words_of_gans = re.findall(
        r"(?i)discriminator|generat|\bfakes?\b|\bGANs?\b|coupling|probe|samples|scores\b|\bD\b", words
    )
    assert words_of_gans == []
    batch, group = page.tables["Accuracy of the classifiers"][1:]
    assert [cell[1] for cell in group[2:4]] == [[pytest.approx(0.71)], [pytest.approx(-0.20)]]
    assert batch[5][1] == [pytest.approx(0.99)] and batch[6][1] == [pytest.approx((0.545 + 0.95) / 2)]
    for name in ("test_accuracy_summary", "test_accuracy"):
        assert f'class="plot {name}"' in page.source
        assert (tmp_path / f"report/figures/{name}.png").stat().st_size > 5000
    at_10, at_20 = (r for r in records(tmp_path / "report/figures/test_accuracy.csv")[4:] if r["step"] in ("10", "20"))
    assert (float(at_10["low"]), float(at_10["high"])) == (0.5, 0.5)
    row = comparison.row("group", "test/accuracy/final")
    assert row is not None
    assert (float(at_20["low"]), float(at_20["high"])) == (row.estimate.low, row.estimate.high)


def test_classifiers_without_a_test_or_with_one_seed_still_get_a_page(make_classifier: MakeRun, tmp_path: Path) -> None:
    one = [make_classifier("batch", 0, [0.91]), make_classifier("group", 0, [0.87])]
    assert analyse(one).headline == "Accuracy on held-out images: BatchNorm 0.91; GroupNorm 0.87."
    comparison = compare([make_classifier("none", 0, [])], tmp_path / "report")
    assert comparison.headline == "Accuracy on held-out images: no finished run was tested."
    assert "<img" not in (tmp_path / "report/index.html").read_text()


def test_more_classifiers_than_colours_of_which_some_were_never_tested(
    make_classifier: MakeRun, tmp_path: Path
) -> None:
    runs = [make_classifier("batch", 0, [] if i < 5 else [0.5 + i / 100], 0.01 * i) for i in range(1, 13)]
    compare(runs, tmp_path / "report")
    assert (tmp_path / "report/index.html").is_file()


def test_crossed_classifiers_have_the_question_and_the_table(make_classifier: MakeRun, tmp_path: Path) -> None:
    accuracies = {("batch", 0.1): 0.8, ("batch", 1.0): 0.95, ("none", 0.1): 0.6, ("none", 1.0): 0.3}
    for (norm, rate), accuracy in accuracies.items():
        for seed in range(2):
            make_classifier(norm, seed, [accuracy + 0.001 * seed], rate)
    comparison = compare(find_runs([str(tmp_path / "study")]), tmp_path / "report", question="Is a larger rate better?")
    assert comparison.headline == "" and comparison.findings == []
    page = Page((tmp_path / "report/index.html").read_text())
    assert "<h1>Is a larger rate better?</h1>" in page.source
    (table,) = (rows for caption, rows in page.tables.items() if caption.startswith("At every setting"))
    changes = [row for row in table if "instead of" in row[0][0]]
    assert [cell[1] for cell in changes[0][1:3]] == [[pytest.approx(0.15)], [pytest.approx(-0.3)]]
