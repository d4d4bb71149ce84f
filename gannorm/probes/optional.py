"""Packages of the probes beyond torch and numpy, imported at use: the assertion works without them."""

from __future__ import annotations

from types import ModuleType

from gannorm.errors import UserError


def stats() -> ModuleType:
    """scipy.stats. Raises UserError where scipy is not installed."""
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise UserError("intervals need scipy: it is not installed; run `pip install scipy`.") from None
    return stats
