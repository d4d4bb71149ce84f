"""Numbers are written with as many figures as a reader can use."""

from __future__ import annotations

import pytest

from gannorm.comparison.intervals import Estimate
from gannorm.comparison.numbers import counted, interval, short


@pytest.mark.parametrize("value", [0.0123, 0.5, 3.14159, 12.34, 567.8, -2.5])
def test_a_short_number_is_close_to_the_number(value: float) -> None:
    assert float(short(value).replace("−", "-")) == pytest.approx(value, rel=0.05)  # of two figures, half of the last


def test_a_number_that_is_not_tiny_is_never_called_zero() -> None:
    assert interval(Estimate(1e-5, None, None, 1), rounding=1e-6) == "1e−05"
    assert interval(Estimate(0.0, None, None, 1), rounding=1e-6) == "0"
    assert interval(Estimate(-1e-9, None, None, 1), rounding=1e-6) == "0 within rounding"


def test_one_is_singular() -> None:
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
