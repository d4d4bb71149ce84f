"""Recipes are found by name from anywhere, and a file by its path."""

import pytest

from gannorm.commands.inputs.arguments import require_names
from gannorm.config import TrainConfig
from gannorm.errors import UserError
from gannorm.recipes import locate, names
from gannorm.studies.plan import plan


@pytest.mark.parametrize("name", sorted({*names()} - {"demo"}))
def test_every_recipe_is_a_config_that_can_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig.load(name)
    require_names(config)
    assert config.study == name


def test_the_demo_is_a_study_of_a_recipe(tmp_path):
    study = plan(locate("demo"), tmp_path)
    assert [run.name for run in study.runs][:2] == ["batch_0", "group_0"]
    with pytest.raises(UserError, match="`gannorm study demo`"):
        TrainConfig.load("demo")


def test_what_is_no_recipe_lists_them_and_a_path_that_is_gone_names_its_recipe(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'digits'.*choose from cifar10, .* digits, folder"):
        locate("digit")
    with pytest.raises(UserError, match="give its name, digits"):
        locate("configs/digits.yaml")
    (tmp_path / "mine.yaml").touch()
    assert locate("mine.yaml", tmp_path) == tmp_path / "mine.yaml"
