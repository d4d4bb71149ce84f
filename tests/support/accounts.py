"""Nobody's account: a test must neither find nor use the credentials of whoever runs it."""

import os

import pytest


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no netrc, no settings
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
