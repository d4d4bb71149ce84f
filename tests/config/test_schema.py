"""A declared key takes what its type and range say, and names what it refuses."""

from typing import Any, Literal

import pytest

from gannorm.config.schema import Key, Range, unknown_key
from gannorm.errors import UserError


def key(kind, within=None):
    return Key("it", kind, None, "factor", "its help", within, "")


@pytest.mark.parametrize(
    "kind,given,kept",
    [
        (int, 3, 3),
        (int, "3", 3),  # quoted in a file
        (float, 3, 3.0),
        (float, "1e-4", 1e-4),
        (str, "1e4", "1e4"),
        (bool, True, True),
        (Literal["a", "b"], "a", "a"),
        (tuple[float, float], [0, 0.9], (0.0, 0.9)),
        (list[str], ("a",), ["a"]),
        (dict[str, Any], None, {}),
        (dict[str, Any], {"a": [1]}, {"a": [1]}),
    ],
)
def test_a_value_of_the_type_is_kept(kind, given, kept):
    typed = key(kind).typed(given)
    assert typed == kept and type(typed) is type(kept)


@pytest.mark.parametrize(
    "kind,given",
    [
        *((int, v) for v in (True, 1.5, "x", None, [1], "[1]", "")),
        *((float, v) for v in (True, "x", None, "nix")),
        *((str, v) for v in (3, None, ["a"])),
        *((bool, v) for v in (1, "true", None)),
        *((Literal["a", "b"], v) for v in ("A", 1, None)),
        *((tuple[float, float], v) for v in (0.5, [0.5], [0.5, "x"], [1, 2, 3])),
        *((list[str], v) for v in ("a", [1], None)),
        *((dict[str, Any], v) for v in (3, {1: 2}, [])),
    ],
)
def test_another_type_is_refused_by_name(kind, given):
    with pytest.raises(UserError, match=r"^`it` must be .*: got "):
        key(kind).typed(given)


def test_a_range_has_the_ends_that_it_says():
    half_open = Range(0, 1, "[)")
    assert [x in half_open for x in (-1, 0, 0.5, 1, float("nan"))] == [False, True, True, False, False]
    assert [x in Range(0, ends="()") for x in (0, 1e-300, 1e300)] == [False, True, True]
    with pytest.raises(UserError, match=r"`it` must be in \[0, 1\): got 1 \(its help\)"):
        key(float, half_open).typed(1)
    with pytest.raises(UserError, match="must be at least 0"):
        key(tuple[float, float], Range(0)).typed([0.5, -0.5])


def test_an_unknown_key_names_its_namesakes_or_the_nearest():
    known = ["a.norm", "b.norm", "steps"]
    assert "did you mean 'a.norm' or 'b.norm'?" in str(unknown_key("norm", known))
    assert "did you mean 'steps'?" in str(unknown_key("stepz", known))
    assert "ask" in str(unknown_key("xyz", known, "ask"))
