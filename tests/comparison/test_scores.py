"""Scores know their better end, their margin, and when a run has degraded."""

from __future__ import annotations

import pytest

from gannorm.comparison.intervals import compare_means
from gannorm.comparison.scores import ACCURACY, SCORES, best, level, score_curves


@pytest.mark.parametrize("score", [*SCORES, ACCURACY], ids=lambda score: score.name)
def test_the_best_is_the_better_end(score) -> None:
    value = best(score)({1: 3.0, 2: 5.0, 3: 4.0})
    assert value == (5.0 if score.better == "higher" else 3.0)


def test_a_change_is_in_per_cent_where_that_means_something() -> None:
    effect = compare_means({0: 0.8, 1: 0.81}, {0: 0.9, 1: 0.92})
    by_name = {score.name: score for score in SCORES}
    assert by_name["fid"].change(effect)[1] == " %" and ACCURACY.change(effect)[1] == ""
    assert (by_name["fid"].margin_in_words, ACCURACY.margin_in_words) == ("±25 %", "±0.01")


def test_a_run_has_degraded_only_beyond_its_best_and_the_floor() -> None:
    def text(*fids: float, floor: float = 1.0) -> str:
        return score_curves([{"step": i, "fid": fid, "fid_floor": floor} for i, fid in enumerate(fids)])

    assert "degraded since best" in text(10.0, 21.0)
    assert "degraded" not in text(10.0, 19.0)
    assert "degraded" not in text(1.0, 5.0, floor=3.0)  # the noise of a good score
    assert "non-finite images at step 4" in score_curves([{"step": 4, "diverged": True}])


def test_the_level_of_a_constant_is_the_constant() -> None:
    assert level({5: 2.0, 1: 2.0, 9: 2.0}) == 2.0
