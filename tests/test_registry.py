"""A registry is a mapping that names the nearest entry, whose built-in entries cannot be replaced."""

import pytest

from gannorm.errors import UserError
from gannorm.registry import Registry, UnknownNameError, choices, decorator, nearest


@pytest.fixture
def shapes():
    registry = Registry("shape")
    registry.register("round", 1)
    registry.seal()
    return registry


def test_it_is_a_mapping_also_for_names_that_are_not_there(shapes):
    assert (list(shapes), len(shapes), shapes["round"]) == (["round"], 1, 1)
    assert "square" not in shapes and shapes.get("square") is None and [] not in shapes


def test_an_unknown_name_lists_the_nearest_and_all(shapes):
    with pytest.raises(UnknownNameError, match=r"unknown shape 'ROUNDS': did you mean 'round'[?] choose from round."):
        shapes["ROUNDS"]


def test_a_built_in_entry_cannot_be_replaced_and_a_users_can(shapes):
    decorator(shapes, "square")(2)
    assert decorator(shapes, "square")(3) == 3 == shapes["square"]
    with pytest.raises(UserError, match="a built-in shape cannot be replaced: 'round'"):
        shapes.register("round", 4)
    assert shapes["round"] == 1


def test_nearness_ignores_case_and_hyphens_and_far_names_are_not_offered():
    assert nearest("Batch-Norm", ["batch_norm", "layer"]) == ["batch_norm"]
    assert nearest("xyz", ["batch_norm", "layer"]) == []
    assert choices("xyz", ["a", "b"]) == "choose from a, b."
    assert choices("xyz", ["a, b", "c"]) == "choose from 'a, b', 'c'."  # a comma within a name is not one between
