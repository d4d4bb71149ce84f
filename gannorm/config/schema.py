"""Declared keys of a config: role, type, range, help, and the check of a value against them.

    steps: int = factor(1200, "updates of the generator", FROM_ONE)

A dataclass field that is declared so says whether it identifies a run (a factor), is about how a run is measured, or
only names, places or shows it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from gannorm.config.hints import VALUES
from gannorm.errors import UserError, printable
from gannorm.registry import nearest

FACTOR, MEASUREMENT, DISPLAY = "factor", "measurement", "display"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; an end with a square bracket belongs to it.

    >>> str(Range(1)), str(Range(0, ends="()")), str(Range(0, 1, "[)"))
    ('at least 1', 'above 0', 'in [0, 1)')
    """

    low: float
    high: float = math.inf
    ends: str = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'at least' if self.ends[0] == '[' else 'above'} {self.low}"
        return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


COUNT, FROM_ONE, POSITIVE = Range(0), Range(1), Range(0, ends="()")


def declared(role: str, default: Any, help: str, within: Range | None, names: str, task: str) -> Any:
    metadata = {"role": role, "help": help, "within": within, "names": names, "task": task}
    if default in (dict, list):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def factor(default: Any, help: str, within: Range | None = None, names: str = "") -> Any:
    """A key that identifies a run; `names` says in which registry its value must be."""
    return declared(FACTOR, default, help, within, names, "")


def measurement(default: Any, help: str, within: Range | None = None, task: str = "") -> Any:
    """A key that says what is measured; `task` is the only one that has it."""
    return declared(MEASUREMENT, default, help, within, "", task)


def display(default: Any, help: str) -> Any:
    """A key that changes no number of a run."""
    return declared(DISPLAY, default, help, None, "", "")


@dataclass(frozen=True)
class Key:
    """A key of a config: its dotted name, type, default and what is declared of it."""

    name: str
    kind: Any
    default: Any
    role: str
    help: str
    within: Range | None
    names: str  # the registry of its values; "" for none

    def typed(self, value: Any) -> Any:
        """The value as this key holds it, a list as the tuple that it stands for.

        Raises:
            UserError: it is of another type or out of range.
        """
        try:
            typed = _typed(value, self.kind)
        except TypeError:
            got = "nothing" if value in ("", None) else printable(str(value))[:100]
            hint = self._nearest(value)
            remedy = f"; did you mean {hint!r}?" if hint else "."
            raise UserError(f"`{self.name}` must be {kind_in_words(self.kind)}: got {got}{remedy}") from None
        numbers = typed if isinstance(typed, tuple) else (typed,)
        about = f" ({self.help})" if self.help else ""
        if self.within is not None and not all(number in self.within for number in numbers):
            raise UserError(f"`{self.name}` must be {self.within}: got {value}{about}.")
        return typed

    def _nearest(self, value: Any) -> str:
        """What a value of the wrong kind may have meant; "" if nobody can say."""
        text = str(value).lower()
        if get_origin(self.kind) is Literal:
            near = nearest(text, get_args(self.kind))
            return VALUES.get(self.name, {}).get(text, near[0] if near else "")
        number = _number(str(value))
        whole = self.kind is int and isinstance(number, float) and number.is_integer()
        return str(int(number)) if whole else ""


def unknown_key(name: str, known: Iterable[str], remedy: str = "") -> UserError:
    """The error for an unknown key: it names the keys with the same last part or inside it, or the nearest key."""
    known = list(known)
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]  # --norm, for example
    inside = [key for key in known if key.startswith(f"{name}.")][:3]  # --model
    near = same or inside or nearest(name, known, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else remedy
    return UserError(f"unknown key {name!r}: {hint or '`gannorm train --help` lists the keys.'}")


def _typed(value: Any, kind: Any) -> Any:
    """The value converted to this type. Raises TypeError if it has another type."""
    inner = get_args(kind)
    match get_origin(kind):
        case None:
            if kind in (int, float) and isinstance(value, str):  # quoted in a file
                value = _number(value)
            if kind is float and type(value) is int:
                value = float(value)
            holds = type(value) is kind and (kind is not float or math.isfinite(value))
        case origin if origin is Literal:
            holds = value in inner
        case origin if origin is dict:
            value = {} if value is None else value
            holds = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
        case origin:
            holds = isinstance(value, list | tuple) and (origin is list or len(value) == len(inner))
            value = origin(_typed(part, inner[0]) for part in value) if holds else value
    if not holds:
        raise TypeError
    return value


def _number(text: str) -> Any:
    """The number that a text writes in digits; otherwise the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text) if text[:1].isdigit() or text[:1] in ("+", "-", ".") else text
    return text


def kind_in_words(kind: Any) -> str:
    """A type as a person would say it.

    >>> kind_in_words(Literal["a", "b"]), kind_in_words(int | None)
    ('one of a, b', 'int or null')
    """
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(kind_in_words(each) for each in get_args(kind))
    if kind is type(None):
        return "null"
    if get_origin(kind) is dict:
        return "a mapping, such as {key: value}"
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))} numbers, such as [0.5, 0.999]"
    if get_origin(kind) is list:
        return f"a list of {kind_in_words(get_args(kind)[0])}"
    if kind is float:
        return "a finite number"
    return kind.__name__ if get_origin(kind) is None else str(kind).replace("typing.", "")
