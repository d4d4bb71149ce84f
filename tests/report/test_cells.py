"""A cell holds text and the number behind it."""

from __future__ import annotations

from gannorm.comparison.intervals import Estimate
from gannorm.report.cells import DASH, of_estimate


def test_a_cell_keeps_the_number_that_its_text_rounds() -> None:
    cell = of_estimate(Estimate(0.123456, 0.1, 0.2, 3))
    assert (cell.text, cell.note, cell.value) == ("0.12", "(0.10 to 0.20)", 0.123456)
    assert of_estimate(None) == DASH


def test_below_its_floor_a_number_is_zero_within_rounding() -> None:
    tiny = Estimate(3.7e-13, None, None, 1)
    assert of_estimate(tiny, rounding=1e-6).text == "0 within rounding"
    assert of_estimate(tiny).text == "3.7e−13"
    assert of_estimate(Estimate(0.0, 0.0, 0.0, 3), rounding=1e-6).text == "0"  # exactly
    assert of_estimate(Estimate(1e-7, -1.0, 1.0, 3), rounding=1e-6).text == "1e−07"  # an interval that is not tiny
