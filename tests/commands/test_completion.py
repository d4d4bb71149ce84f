"""A shell completes what the parsers know."""

import sys

import pytest

from gannorm.cli import COMMANDS
from gannorm.commands.completion import SHELLS, completion
from gannorm.config import keys
from gannorm.errors import UserError


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_every_key_of_training_is_completed(shell):
    pytest.importorskip("shtab")
    script = completion(shell, COMMANDS)
    assert all(name in script for name in COMMANDS)
    assert all(f"--{key}" in script for key in keys("gan") if key != "recipe")


def test_another_shell_and_a_missing_library_are_one_line(monkeypatch):
    with pytest.raises(UserError, match="choose from bash, zsh"):
        completion("fish", COMMANDS)
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(UserError, match="pip install shtab"):
        completion("bash", COMMANDS)
