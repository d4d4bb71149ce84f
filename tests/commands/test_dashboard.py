"""`gannorm dashboard` prints what it would show without a key, and asks for one before it saves."""

import pytest

from gannorm.cli import main
from gannorm.report.dashboard import describe


def test_print_needs_no_key(capsys, monkeypatch):
    monkeypatch.setattr("gannorm.wandb_run.has_key", lambda: pytest.fail("it asked for a key"))
    assert main(["dashboard", "--print"]) == 0
    assert capsys.readouterr().out.strip() == describe().strip()


def test_without_a_key_the_remedy_is_named(capsys, monkeypatch):
    monkeypatch.setattr("gannorm.wandb_run.has_key", lambda: False)
    assert main(["dashboard", "--project", "me/mine"]) == 2
    assert "run `wandb login`" in capsys.readouterr().err


def test_it_is_saved_in_the_project_that_is_named(capsys, monkeypatch):
    monkeypatch.setattr("gannorm.wandb_run.has_key", lambda: True)
    monkeypatch.setattr("gannorm.report.dashboard.save", lambda project: f"saved in {project}")
    assert main(["dashboard", "--project", "me/mine"]) == 0
    assert capsys.readouterr().out == "saved in me/mine\n"
