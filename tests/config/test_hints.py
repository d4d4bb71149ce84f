"""Every hint names something that there is."""

import re

import pytest

from gannorm.cli import COMMANDS
from gannorm.commands.inputs.arguments import _registry
from gannorm.config import TrainConfig, keys
from gannorm.config.hints import FLAGS, NAMES, VALUES
from gannorm.errors import UserError
from gannorm.recipes import names


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_from_elsewhere_leads_to_one_of_ours(kind):
    registry = _registry(kind)
    for foreign, hint in NAMES[kind].items():
        assert foreign not in registry
        assert foreign == foreign.lower().replace("-", "_")  # as it is looked up
        for name in re.findall(r"^'(\w+)'", hint):
            assert name in registry
        for key, value in re.findall(r"--([\w.]+) (\w+)", hint):
            TrainConfig().changed(**{key: value})
        for recipe in re.findall(r"the recipe (\w+)", hint):
            assert recipe in names()


@pytest.mark.parametrize("command", FLAGS)
def test_a_flag_from_elsewhere_leads_to_one_of_the_command(command):
    flags = {flag for action in COMMANDS[command].parser()._actions for flag in action.option_strings}
    for foreign, hint in FLAGS[command].items():
        assert f"--{foreign}" not in flags
        for flag in re.findall(r"--[\w.]+", hint):
            assert flag in flags or re.sub(r"\.\w+$", "", flag) in flags  # below a key that takes any


@pytest.mark.parametrize("name", VALUES)
def test_a_value_from_elsewhere_leads_to_one_of_the_key(name):
    key = keys("gan")[name]
    for foreign, ours in VALUES[name].items():
        assert key.typed(ours) == ours
        with pytest.raises(UserError, match=f"did you mean '{ours}'"):
            key.typed(foreign)
