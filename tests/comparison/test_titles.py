"""Names of the literature, and no control characters, reach a reader; a hash is of what makes a condition."""

from __future__ import annotations

import pytest

from gannorm.comparison.titles import config_hash, titled, varied
from gannorm.config import NORMS
from gannorm.errors import printable


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "layer"])
def test_a_normalizer_is_called_as_the_literature_calls_it(norm: str) -> None:
    assert titled({NORMS[0]: norm}) == f"{norm.capitalize()}Norm"


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31m\nb\u202e") == "a?[31m b?"
    assert printable("größe Ω") == "größe Ω"


def test_what_varies_is_found_and_what_shows_a_run_does_not() -> None:
    configs = [{"steps": 10, NORMS[0]: norm, "seed": seed, "name": f"{norm}{seed}"} for norm in "ab" for seed in (0, 1)]
    assert varied(configs) == [NORMS[0]]


def test_a_hash_is_equal_within_a_condition_and_differs_between_conditions() -> None:
    config = {NORMS[0]: "batch", "steps": 10, "seed": 0, "name": "a", "probe_every": 5}
    assert config_hash(config) == config_hash({**config, "seed": 1, "name": "b", "probe_every": 7})
    assert config_hash(config) != config_hash({**config, "steps": 11})
    assert config_hash(config) == config_hash({**config, "steps": "10"})  # as factors: a command line brings text
