"""Every hint names something that there is."""

import re

import pytest

from gannorm.cli import COMMANDS
from gannorm.commands.inputs.arguments import _registry, require_names
from gannorm.config import TrainConfig, keys
from gannorm.config.hints import FLAGS, NAMES, VALUES, foreign
from gannorm.errors import UserError
from gannorm.recipes import names
from gannorm.registry import compact


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_from_elsewhere_leads_to_one_of_ours(kind):
    registry = _registry(kind)
    for name, hint in NAMES[kind].items():
        assert name not in registry
        for ours in re.findall(r"^'(\w+)'", hint):
            assert ours in registry
        for key, value in re.findall(r"--([\w.]+) (\w+)", hint):
            TrainConfig().changed(**{key: value})
        for recipe in re.findall(r"the recipe (\w+)", hint):
            assert recipe in names()


@pytest.mark.parametrize("command", FLAGS)
def test_a_flag_from_elsewhere_leads_to_one_of_the_command(command):
    flags = {flag for action in COMMANDS[command].parser()._actions for flag in action.option_strings}
    for name, hint in FLAGS[command].items():
        assert f"--{name}" not in flags
        for flag in re.findall(r"--[\w.]+", hint):
            assert flag in flags or re.sub(r"\.\w+$", "", flag) in flags  # below a key that takes any


@pytest.mark.parametrize("name", VALUES)
def test_a_value_from_elsewhere_leads_to_one_of_the_key(name):
    key = keys("gan")[name]
    for value, ours in VALUES[name].items():
        assert key.typed(ours) == ours
        with pytest.raises(UserError, match=f"did you mean '{ours}'"):
            key.typed(value)


LAYERS = {  # a class → the name here
    "BatchNorm2d": "batch",
    "GroupNorm": "group",
    "LayerNorm": "layer",
    "InstanceNorm2d": "instance",
    "SyncBatchNorm": "sync",
    "VirtualBatchNorm": "virtual",
    "GhostBatchNorm": "ghost",
    "BatchRenorm2d": "renorm",
    "FilterResponseNorm": "frn",
    "DynamicTanh": "dyt",
    "Identity": "none",
    "SpectralNorm": "weight_norm spectral",
    "WeightNorm": "weight_norm weight",
}


@pytest.mark.parametrize("layer,name", LAYERS.items())
def test_a_layer_leads_to_its_name_however_it_is_written(layer, name):
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer).lower()
    for written in (
        layer,
        layer.lower(),
        layer.upper(),
        snake,
        snake.replace("_", "-"),
        f"nn.{layer}",
        f"torch.nn.{layer}",
    ):
        if written != name:
            with pytest.raises(UserError, match=f"did you mean .*{name}'?[?]"):
                require_names(TrainConfig().changed(**{"model.discriminator.norm": written}))


@pytest.mark.parametrize("other", ["PixelNorm", "rms_norm", "whitening"])
def test_a_layer_that_is_not_here_leads_to_no_other(other):
    with pytest.raises(UserError, match=f"unknown normalizer '{other}': choose from batch"):
        require_names(TrainConfig().changed(**{"model.discriminator.norm": other}))


@pytest.mark.parametrize("place", ["./cats", "cats/large", "there"])
def test_a_folder_as_the_name_of_a_data_set_leads_to_its_key(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match=f"did you mean --data.name folder --data.root {place}[?]"):
        require_names(TrainConfig().changed(**{"data.name": place}))


@pytest.mark.parametrize("hints", [*NAMES.values(), *FLAGS.values()])
def test_no_two_names_from_elsewhere_are_spelt_alike(hints):
    assert len({compact(name) for name in hints}) == len(hints)
    assert all(foreign(name, hints) == hint for name, hint in hints.items())
