"""Small digits, and a cache that is not the user's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gannorm.data import Images, load_images

sys.path.insert(0, str(Path(__file__).parent))  # for known_images, whichever way pytest imports the tests


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """One cache for the session, so that its extractor is trained once; `fresh_cache` gives a test its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANNORM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def digits() -> Images:
    """300 digits at 8×8."""
    data = load_images("digits", "train", image_size=8)
    assert data.labels is not None
    return replace(data, pixels=data.pixels[:300].clone(), labels=data.labels[:300].clone())
