"""Numbers, intervals and tables as people read them, in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a plan prints tables too, and starts without scipy
    from gannorm.comparison.intervals import Estimate

WITHIN_ROUNDING = "0 within rounding"


def short(value: float) -> str:
    """A number with two or three significant digits.

    >>> [short(v) for v in (0, 0.8312, 5.716, 23.46, 137.2, -0.031, 2.2e-7)]
    ['0', '0.83', '5.72', '23.5', '137', '−0.031', '2.2e−07']
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 100:
        form = ".0f"
    elif size >= 10:
        form = ".1f"
    else:
        form = ".2f" if size >= 0.1 else ".2g"
    sign = "−" if value < 0 else ""
    return sign + format(size, form).replace("-", "−")


def interval(estimate: Estimate, unit: str = "", *, signed: bool = False, rounding: float = 0.0) -> str:
    """An estimate with its interval; values below the rounding floor are "0 within rounding".

    >>> from gannorm.comparison.intervals import Estimate
    >>> interval(Estimate(3.1, -0.5, 6.8, 4), " %", signed=True)
    '+3.10 % (−0.50 to +6.80)'
    >>> interval(Estimate(3.7e-13, 1e-13, 6e-13, 3), rounding=1e-6)
    '0 within rounding'
    """
    bounds = [v for v in estimate.bounds if v is not None]
    if all(abs(v) < rounding for v in bounds) and estimate.mean != 0:
        return WITHIN_ROUNDING
    numbers = [_signed(v) if signed else short(v) for v in bounds]
    rest = f" ({numbers[1]} to {numbers[2]})" if len(numbers) == 3 else ""
    return f"{numbers[0]}{unit}{rest}"


def counted(number: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _signed(value: float) -> str:
    return f"+{short(value)}" if value > 0 else short(value)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in columns.

    >>> aligned([["norm", "FID"], ["batch", "23.5"]])
    ['norm   FID', 'batch  23.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
