"""A config is what its keys declare: typed, in range, the same by flags, files and Python."""

import dataclasses
import inspect
import math
from pathlib import Path

import pytest

from gannorm.commands.inputs.arguments import train_config
from gannorm.config import (
    MODELS,
    RENAMED,
    ClassifierModel,
    GANModel,
    TrainConfig,
    factors,
    keys,
    taken_by,
    upgraded,
)
from gannorm.config.dotted import flatten
from gannorm.config.schema import DISPLAY, FACTOR, MEASUREMENT
from gannorm.errors import UserError
from gannorm.files import load

RUN_V1 = Path(__file__).parents[1] / "fixtures" / "run_v1" / "config.yaml"


@pytest.mark.parametrize("task", MODELS)
def test_plain_data_makes_the_same_config_again(task):
    config = TrainConfig(task=task)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_dict(flatten(config.to_dict())) == config  # dotted keys mean the same
    assert list(flatten(config.to_dict())) == list(keys(task))


@pytest.mark.parametrize("task", MODELS)
def test_every_key_has_a_role_a_help_and_a_default_that_it_takes(task):
    for key in keys(task).values():
        assert key.role in (FACTOR, MEASUREMENT, DISPLAY)
        assert key.help
        assert key.typed(key.default) == key.default


@pytest.mark.parametrize("task", MODELS)
def test_a_range_holds_at_the_command_line_in_files_and_in_python(task):
    """Every declared range, one step outside each of its ends."""
    for key in keys(task).values():
        if key.within is None:
            continue
        outside = [key.within.low - 1] + ([key.within.high + 1] if key.within.high < math.inf else [])
        for number in outside:
            value = [number, number] if isinstance(key.default, tuple) else number
            with pytest.raises(
                UserError,
                match=f"`{key.name}` must be {key.within}".replace("[", r"\[").replace("(", r"\(").replace(")", r"\)"),
            ):
                TrainConfig(task=task).changed(**{key.name: value})
            with pytest.raises(UserError, match="must be"):
                train_config(["--task", task, f"--{key.name}={value}"])


def test_a_config_of_an_earlier_version_has_todays_keys():
    config = TrainConfig.from_dict(load(RUN_V1, "a config"))
    assert (config.steps, config.optimization_budget, config.model.generator.norm) == (8, 0.1, "noisy")
    for old, new in RENAMED.items():
        assert upgraded({old: 7}) == {new: 7}
        with pytest.raises(UserError, match=f"give --{new}"):
            train_config([f"--{old}", "7"])


def test_flags_come_before_files_and_later_files_before_earlier_ones(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 7\nmodel.loss: hinge\ntrainer: {accelerator: cpu}\n")
    flags = ["--seed", "3", "--config", "digits", "--config", str(tmp_path / "mine.yaml"), "--trainer.devices", "2"]
    config = train_config(flags)
    assert (config.seed, config.steps, config.model.loss, config.study) == (3, 7, "hinge", "digits")
    assert config.trainer == {"accelerator": "cpu", "devices": 2}
    assert config.recipe == "digits"


@pytest.mark.parametrize("task,foreign", [("gan", {"test_every": 3}), ("classifier", {"probe_every": 3})])
def test_a_key_of_the_other_task_is_refused(task, foreign):
    with pytest.raises(UserError, match="unknown key"):
        TrainConfig(task=task, **foreign)
    with pytest.raises(UserError, match="unknown key"):
        TrainConfig.from_dict({"task": task, **foreign})
    with pytest.raises(UserError, match="must be of the task"):
        TrainConfig(task=task, model=MODELS["classifier" if task == "gan" else "gan"]())


def test_every_key_reaches_what_it_configures_with_the_same_default():
    """No key is accepted and then ignored: each is an argument of the class that its section is for, or builds it."""
    from gannorm.data import ImageData
    from gannorm.models import Discriminator, Generator
    from gannorm.training import GAN, Classifier

    built = {
        "initialization",
        "initialization_options",
        "equalize_bias",
        "residual_blocks",
        "cuda_graph",
    }  # the last is a callback
    sections = [(GANModel(), GAN, built), (ClassifierModel(), Classifier, built)]
    named = {"architecture"}  # which class it is
    sections += [(GANModel().discriminator, Discriminator, named), (GANModel().generator, Generator, named)]
    sections += [(TrainConfig().data, ImageData, set())]
    for section, taker, others in sections:
        plain = {f.name for f in dataclasses.fields(section) if not dataclasses.is_dataclass(getattr(section, f.name))}
        assert plain - {*taken_by(taker, section)} <= others, taker
        for name, value in taken_by(taker, section).items():
            assert (inspect.signature(taker).parameters[name].default or {}) == (value or {}), (taker, name)


def test_factors_leave_out_the_seed_and_whatever_shows_or_measures():
    config = TrainConfig()
    same = config.changed(
        **{"seed": 9, "name": "x", "wandb": "off", "probe_every": 7, "data.root": "there", "trainer.max_time": "00:01"}
    )
    assert factors(same.to_dict()) == factors(config.to_dict())
    for key in ("model.loss", "data.batch_size", "steps", "trainer.precision"):
        other = {"model.loss": "hinge", "trainer.precision": "64-true"}.get(key, 3)
        assert factors(config.changed(**{key: other}).to_dict()) != factors(config.to_dict())
    assert factors({"a_key_of_tomorrow": 1}) == {"a_key_of_tomorrow": 1}


def test_a_config_cannot_be_changed_behind_its_back():
    config = TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3
    config.to_dict()["trainer"]["devices"] = 2
    assert config.trainer == {}
