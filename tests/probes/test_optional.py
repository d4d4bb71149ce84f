"""Without scipy the probes say what to install."""

import sys

import pytest

from gannorm.errors import UserError
from gannorm.probes.optional import stats


def test_without_scipy_the_remedy_is_named(monkeypatch):
    assert stats().t.ppf(0.5, 3) == 0
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match="pip install scipy"):
        stats()
