"""The primary analysis of a study: the comparisons that were named before its first run, and no others.

In a study file:

    primary:
      quantity: fid            # a score, or a quantity of batch dependence, at the end of each run
      scale: log               # of the values: log or linear
      test: welch              # or paired: seed by seed
      comparisons: [[group, batch], [group, running]]     # arms: labels of the values of the study's factors
      beside: [[a, b]]         # read beside them, each by itself: outside of the correction; optional
      margin: 0.25             # equal where the ratio lies within 1/1.25 … 1.25; on a linear scale ±0.25
      collapsed_above: 30      # such a value counts as a collapse; optional

`gannorm.comparison.named` makes the comparisons. Light, since planning reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gannorm.config.dotted import Flat
from gannorm.errors import UserError
from gannorm.registry import choices

SCORED = ("inception_score", "fid", "kid", "precision", "recall", "reconstruction")
QUANTITIES = (*SCORED, *(f"batch_dependence/train/auc_{end}" for end in ("pure", "mixed", "conflict", "one_own")))
REQUIRED = ("quantity", "scale", "test", "comparisons", "margin")
CHOICES = {"quantity": QUANTITIES, "scale": ("log", "linear"), "test": ("welch", "paired")}


@dataclass(frozen=True)
class Primary:
    """What a study's primary analysis is, as its file states it.

    Attributes:
        arms: an arm's name → the config keys that its runs have.
        comparisons: (arm, arm that it is compared with), corrected together.
        beside: more of them, each by itself.
        collapsed_above: a larger value counts as a collapse; None: only divergence does.
    """

    quantity: str
    scale: str
    test: str
    comparisons: Sequence[tuple[str, str]]
    margin: float
    arms: Mapping[str, Flat]
    beside: Sequence[tuple[str, str]] = ()
    collapsed_above: float | None = None

    @property
    def bound(self) -> float:
        """The margin on the scale of the analysis: ±log(1+m), so that a ratio and its inverse are judged alike."""
        return math.log(1 + self.margin) if self.scale == "log" else self.margin

    @property
    def margin_in_words(self) -> str:
        return f"±{100 * self.margin:g} %" if self.scale == "log" else f"±{self.margin:g}"


def read_primary(content: Any, arms: Mapping[str, Flat], file: Path) -> Primary | None:
    """The `primary` of a study file; None where it has none.

    Args:
        content: what the file holds under the key.
        arms: every label of the study's factors → what it sets.

    Raises:
        UserError: a key or a value that cannot be, or an arm that the study does not have.
    """
    if content is None:
        return None
    if not isinstance(content, Mapping) or any(key not in content for key in REQUIRED):
        raise UserError(f"`primary` must give {', '.join(REQUIRED)}: got {content!r} in {file}.")
    known = (*REQUIRED, "beside", "collapsed_above")
    for key in content:
        if key not in known:
            raise UserError(f"unknown key of `primary` in {file}: {key!r}: {choices(key, known)}")
    for key, values in CHOICES.items():
        if content[key] not in values:
            raise UserError(f"`{key}` of `primary` in {file}: got {content[key]!r}; {choices(content[key], values)}")
    for key in ("margin", "collapsed_above"):
        value = content.get(key)
        if value is None and key == "collapsed_above":
            continue
        if not isinstance(value, int | float) or not value > 0:
            raise UserError(f"`{key}` of `primary` must be a number above 0: got {value!r} in {file}.")
    family, beside = (_pairs(content, key, arms, file) for key in ("comparisons", "beside"))
    if not family:
        raise UserError(f"`comparisons` of `primary` must be pairs of arms: got none in {file}.")
    used = {name: arms[name] for pair in [*family, *beside] for name in pair}
    named = {key: content[key] for key in ("quantity", "scale", "test", "margin")}
    limit = content.get("collapsed_above")
    return Primary(comparisons=family, beside=beside, arms=used, collapsed_above=limit, **named)


def _pairs(content: Mapping[str, Any], key: str, arms: Mapping[str, Flat], file: Path) -> list[tuple[str, str]]:
    pairs = content.get(key, [])
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise UserError(f"`{key}` of `primary` must be pairs of arms: got {pairs!r} in {file}.")
    for name in (name for pair in pairs for name in pair):
        if name not in arms:
            raise UserError(f"`{key}` of `primary` in {file}: no arm {name!r}; {choices(name, list(arms))}")
    return [(a, b) for a, b in pairs]
