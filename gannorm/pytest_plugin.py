"""A pytest fixture for any test suite; pytest loads it through the entry point `gannorm`.

    def test_my_critic_judges_images(assert_batch_invariant):
        assert_batch_invariant(MyCritic(), torch.randn(8, 3, 32, 32))

It fails with a message that names the first coupled layer and the strength of its coupling.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def assert_batch_invariant() -> Callable[..., None]:
    """`gannorm.probes.assert_batch_invariant`, imported when a test asks for it: pytest's start stays quick."""
    from gannorm.probes import assert_batch_invariant

    return assert_batch_invariant
