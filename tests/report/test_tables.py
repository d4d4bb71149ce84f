"""The page's tables hold the numbers of table.csv."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.html_page import Page, records

from gannorm.comparison.comparison import Comparison

TRAIN = "batch_dependence/train/"


@pytest.fixture(scope="module")
def page(compared: tuple[Comparison, Path]) -> Page:
    return Page((compared[1] / "index.html").read_text())


def test_every_row_of_the_csv_is_in_the_page_with_its_value(compared: tuple[Comparison, Path], page: Page) -> None:
    written = records(compared[1] / "table.csv")
    shown = page.tables["Every quantity, as in table.csv"][1:]
    assert len(shown) == len(written)
    for line, cells in zip(written, shown, strict=True):
        assert cells[1][0] == line["condition"]
        assert cells[2][1] == [float(line["mean"])]
        assert cells[4][1] == ([float(line["difference"])] if line["difference"] else [])
        assert cells[5][0].startswith(line["verdict"])


def test_the_two_leading_tables_hold_values_of_the_csv(compared: tuple[Comparison, Path], page: Page) -> None:
    _, output = compared
    written = {(r["condition"], r["quantity"]): r for r in records(output / "table.csv")}
    dependence = page.tables["Batch dependence of the discriminator in train mode"]
    names = ("auc_pure", "auc_pure_training", "auc_mixed", "auc_conflict")
    for condition, cells in zip(("batch", "group"), dependence[1:], strict=True):
        assert [cell[1] for cell in cells[2:6]] == [[float(written[condition, TRAIN + n]["mean"])] for n in names]
        assert cells[1][0] == {"batch": "judges batches", "group": "judges images"}[condition]
    scores = page.tables["Scores of the generator"]
    assert scores[2][2][1] == [float(written["group", "inception_score/final"]["mean"])]
    assert scores[2][3][1] == [float(written["group", "inception_score/final"]["percent"])]


def test_a_number_below_its_rounding_floor_is_zero_within_rounding(page: Page) -> None:
    """GroupNorm's context slope is 1e-8 beside an own slope of 1."""
    group = page.tables["Batch dependence of the discriminator in train mode"][2]
    assert [cell[0] for cell in group].count("0 within rounding") == 1
    assert not re.search(r">\d\.\de−0[6-9]<|>\d\.\de−1\d<", page.source)
