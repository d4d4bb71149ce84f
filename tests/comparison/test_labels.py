"""Labels are pure functions of configs; names of the literature, and no control characters, reach a reader."""

from __future__ import annotations

import pytest

from gannorm.comparison.labels import NORM, config_hash, labels, titled
from gannorm.errors import printable


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "layer"])
def test_a_normalizer_is_called_as_the_literature_calls_it(norm: str) -> None:
    assert titled({NORM: norm}) == f"{norm.capitalize()}Norm"


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31m\nb\u202e") == "a?[31m b?"
    assert printable("größe Ω") == "größe Ω"


def test_labels_need_no_run_and_ignore_what_shows_one() -> None:
    configs = [
        {NORM: norm, "data.batch_size": n, "seed": s, "name": "x"} for norm in "ab" for n in (8, 16) for s in (0, 1)
    ]
    names = labels(configs)
    assert names[:4] == ["norm=a, batch_size=8"] * 2 + ["norm=a, batch_size=16"] * 2
    assert len(set(names)) == 4


def test_a_hash_is_equal_within_a_condition_and_differs_between_conditions() -> None:
    config = {NORM: "batch", "steps": 10, "seed": 0, "name": "a", "probe_every": 5}
    assert config_hash(config) == config_hash({**config, "seed": 1, "name": "b", "probe_every": 7})
    assert config_hash(config) != config_hash({**config, "steps": 11})
    assert config_hash(config) == config_hash({**config, "steps": "10"})  # as factors: a command line brings text
