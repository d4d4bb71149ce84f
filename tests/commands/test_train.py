"""`gannorm train`: what it says at the beginning and at the end, and a config that it only prints."""

from pathlib import Path

import pytest
import yaml

from gannorm.cli import main
from gannorm.config import TrainConfig
from gannorm.rundir import RunDir

TINY = ["--steps=2", "--probe_every=0", "--sample_every=0", "--checkpoint_every=2", "--progress=false", "--wandb=off"]
TINY += ["--data.image_size=8", "--data.batch_size=16", "--model.discriminator.width=4", "--model.generator.width=4"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_without_a_config_it_is_the_recipe_digits_and_says_so(capsys):
    assert main(["train", *TINY]) == 0
    out = capsys.readouterr().out
    (run,) = runs()
    assert (
        "recipe: digits (the others: cifar10, " in out and "parameters: discriminator " in out and f"run: {run}" in out
    )
    assert f"next: gannorm probe {run}, gannorm evaluate {run}, gannorm compare runs/digits" in out
    assert RunDir(run).config()["recipe"] == "digits"


def runs():
    return [file.parent for file in Path().glob("runs/*/*/config.yaml")]


def test_a_printed_config_makes_the_same_run(capsys, tmp_path):
    assert main(["train", "--config", "digits", *TINY, "--print_config"]) == 0
    text = capsys.readouterr().out
    config = TrainConfig.from_dict(yaml.safe_load(text))
    assert config == TrainConfig.load("digits", **config.to_dict())
    assert not runs()


def test_help_lists_the_names_and_begins_with_an_example(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "gannorm train --config digits --model.discriminator.norm group --seed 1" in out
    assert all(name in out for name in ("evonorm_s0", "least_squares", "fashion_mnist", "the run:", "generator:"))
    assert main(["train", "--task", "classifier", "--help"]) == 0
    assert "--model.classifier.depth" in capsys.readouterr().out
