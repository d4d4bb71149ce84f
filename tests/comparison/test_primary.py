"""What a study states as its primary analysis is read whole, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from gannorm.comparison.primary import QUANTITIES, SCORED, read_primary
from gannorm.comparison.quantities import BY_NAME
from gannorm.comparison.scores import SCORES
from gannorm.errors import UserError

ARMS = {"batch": {"model.discriminator.norm": "batch"}, "group": {"model.discriminator.norm": "group"}}
CONTENT = {"quantity": "fid", "scale": "log", "test": "welch", "comparisons": [["group", "batch"]], "margin": 0.25}


def test_the_quantities_are_the_scores_and_quantities_of_batch_dependence() -> None:
    assert tuple(score.name for score in SCORES) == SCORED == QUANTITIES[: len(SCORED)]
    assert all(name in BY_NAME for name in QUANTITIES[len(SCORED) :])


def test_a_margin_on_a_log_scale_holds_a_ratio_and_its_inverse() -> None:
    primary = read_primary(CONTENT, ARMS, Path("s.yaml"))
    assert primary is not None and primary.comparisons == [("group", "batch")] and primary.arms == ARMS
    assert primary.bound == pytest.approx(math.log(1.25)) and primary.margin_in_words == "±25 %"
    linear = read_primary({**CONTENT, "scale": "linear"}, ARMS, Path("s.yaml"))
    assert linear is not None and linear.bound == 0.25 and linear.margin_in_words == "±0.25"
    assert read_primary(None, ARMS, Path("s.yaml")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "logarithm"}, "`scale` of `primary` in s.yaml: got 'logarithm'; choose from log, linear"),
        ({"test": "t"}, "`test` of `primary`"),
        ({"quantity": "FID"}, "`quantity` of `primary` in s.yaml: got 'FID'; did you mean 'fid'"),
        ({"margin": 0}, "`margin` of `primary` must be a number above 0: got 0"),
        ({"collapsed_above": "high"}, "`collapsed_above` of `primary` must be a number above 0"),
        ({"comparisons": []}, "must be pairs of arms"),
        ({"comparisons": [["group"]]}, "must be pairs of arms"),
        ({"comparisons": [["grup", "batch"]]}, "no arm 'grup'; did you mean 'group'"),
        ({"colapsed_above": 3}, "did you mean 'collapsed_above'"),
    ],
)
def test_a_mistake_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_primary(CONTENT | change, ARMS, Path("s.yaml"))


@pytest.mark.parametrize("missing", CONTENT)
def test_nothing_is_left_to_a_default(missing: str) -> None:
    with pytest.raises(UserError, match="`primary` must give quantity, scale"):
        read_primary({key: value for key, value in CONTENT.items() if key != missing}, ARMS, Path("s.yaml"))
