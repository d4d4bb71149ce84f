"""The titles of a comparison are those that the normalizers declare."""

from gannorm.comparison.titles import TITLES
from gannorm.normalizers import NORMALIZERS


def test_every_title_is_the_declared_one():
    assert {name: entry.title for name, entry in NORMALIZERS.items()} == TITLES
