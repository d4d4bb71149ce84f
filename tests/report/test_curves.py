"""Curves are of the steps that all seeds share."""

from __future__ import annotations

from gannorm.report.curves import cut, over_seeds


def test_a_curve_is_of_the_steps_that_every_seed_has() -> None:
    curve = over_seeds([{1: 0.0, 2: 2.0, 3: 9.0}, {2: 4.0, 3: 9.0}, {}])
    assert curve == [(2, 3.0, 2.0, 4.0, 2), (3, 9.0, 9.0, 9.0, 2)]
    assert over_seeds([]) == over_seeds([{}]) == over_seeds([{1: 0.0}, {2: 0.0}]) == []


def test_a_long_title_is_cut_to_the_limit() -> None:
    assert len(cut("x" * 50)) == 34 and cut("x" * 34) == "x" * 34
