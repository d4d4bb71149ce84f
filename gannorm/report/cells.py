"""Cells and tables for the templates: text, never markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gannorm.comparison.intervals import Estimate
from gannorm.comparison.numbers import interval
from gannorm.comparison.quantities import BY_NAME
from gannorm.comparison.table import Row


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the main text.
        note: smaller text below it.
        value: the text's number in table.csv; None without one.
        tone: a class of the style sheet, for verdicts.
        strong: in bold.
    """

    text: str
    note: str = ""
    value: float | None = None
    tone: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its header."""

    caption: str
    header: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)


DASH = Cell("–")


def of_estimate(
    value: Estimate | None, unit: str = "", *, signed: bool = False, rounding: float = 0.0, strong: bool = False
) -> Cell:
    """A mean with its interval below it; a dash where there is none."""
    if value is None:
        return DASH
    text, _, rest = interval(value, unit, signed=signed, rounding=rounding).partition(" (")
    return Cell(text, f"({rest}" if rest else "", value.mean, strong=strong)


def of_row(row: Row | None) -> Cell:
    """A row's estimate; below its quantity's rounding floor it is 0 within rounding."""
    if row is None:
        return DASH
    quantity = BY_NAME.get(row.quantity)
    return of_estimate(row.estimate, rounding=quantity.rounding if quantity else 0.0)


def of_effect(row: Row) -> list[Cell]:
    """Two cells: the difference from the baseline, and its verdict; a dash and nothing without an effect."""
    if row.effect is None:
        return [DASH, Cell("")]
    quantity = BY_NAME.get(row.quantity)
    rounding = quantity.rounding if quantity else 0.0
    return [of_estimate(row.effect.difference, signed=True, rounding=rounding), of_verdict(row)]


def of_verdict(row: Row) -> Cell:
    """The verdict on an effect, and how it was compared; empty without one."""
    return Cell(row.verdict, row.effect.design) if row.effect else Cell("")
