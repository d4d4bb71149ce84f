"""The titles of a comparison are those that the normalizers declare."""

from gannorm.comparison.titles import TITLES
from gannorm.normalizers import NORMALIZERS


def test_every_title_is_the_declared_one():
    """A title that is the name itself needs no line."""
    declared = {name: entry.title for name, entry in NORMALIZERS.items()}
    assert {name: TITLES.get(name, name) for name in declared} == declared
    assert set(TITLES) <= set(declared)
