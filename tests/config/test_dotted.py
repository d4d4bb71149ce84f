"""Nested data and its dotted keys say the same."""

from hypothesis import given
from hypothesis import strategies as st

from gannorm.config.dotted import changed, difference, flatten

WORDS = st.text("abc", min_size=1, max_size=2)
NESTED = st.recursive(st.integers(), lambda inner: st.dictionaries(WORDS, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(WORDS, NESTED, max_size=3))
def test_flat_keys_make_the_nested_data_again(data):
    assert changed({}, flatten(data)) == data
    assert flatten(flatten(data)) == flatten(data)
    assert difference(data, data, ignore=[]) == ""


def test_a_change_leaves_the_original_alone():
    data = {"a": {"b": [1]}}
    other = changed(data, {"a.c": 2, "d.e": 3})
    other["a"]["b"].append(2)
    assert data == {"a": {"b": [1]}}
    assert (other["a"]["c"], other["d"]) == (2, {"e": 3})
