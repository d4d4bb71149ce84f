"""No file of a stranger ends a reader in anything but one line: the corpus, random damage to it, and random structures.

`tests/fuzz.py` drives the same targets by coverage.
"""

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import fuzz_targets as targets

# Each target reads many files for an example: few examples, always the same ones; tests/fuzz.py is for the search.
FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WORDS = [b"null", b"NaN", b"-1", b"1e999", b"[]", b"{}", b"9" * 30, b": ", b"\n", b"- ", b"2020-01-01", b"&a ", b"*a"]
EDITS = st.tuples(
    st.floats(0, 1), st.integers(0, 20), st.one_of(st.binary(max_size=8), st.sampled_from(WORDS))
)  # where, bytes removed, bytes put there


def damaged(whole, edits):
    for where, removed, put in edits:
        at = int(where * len(whole))
        whole = whole[:at] + put + whole[at + removed :]
    return whole


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_corpus_is_read_or_refused(name):
    for content in targets.seeds(name):
        targets.TARGETS[name](content)


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.TARGETS)
def test_damaged_files_are_read_or_refused(name):
    @FEW
    @given(st.sampled_from(targets.seeds(name)), st.lists(EDITS, min_size=1, max_size=4))
    def read(whole, edits):
        targets.TARGETS[name](damaged(whole, edits))

    read()


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
KEYS = st.sampled_from(["seed", "steps", "data", "data.name", "model", "model.loss", "model.discriminator", "trainer"])


@FEW
@given(st.dictionaries(KEYS, JUNK, max_size=3))
@example({"model": {"discriminator": None}})
@example({"trainer": [1]})
def test_any_value_under_any_key_of_a_config_is_taken_or_refused(content):
    nested: dict = {}
    for key, value in content.items():
        outer, _, inner = key.partition(".")
        nested[outer] = {inner: value} if inner else value
    targets.config(yaml.safe_dump(nested).encode())


def test_a_target_that_lets_an_error_through_is_caught(monkeypatch):
    def fragile(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(targets, "analyse", fragile)
    with pytest.raises(KeyError, match="a bug"):
        targets.run_directory(targets.seeds("run_directory")[0])
