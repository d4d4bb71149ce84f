"""What every test starts from."""

import pytest

from gannorm.normalizers import NORMALIZERS


@pytest.fixture(autouse=True)
def only_built_in_normalizers(monkeypatch):
    """A normalizer that a test registers is gone after it: which tests share a process is left to chance."""
    monkeypatch.setattr(NORMALIZERS, "_entries", dict(NORMALIZERS._entries))
