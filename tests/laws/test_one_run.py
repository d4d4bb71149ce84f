"""What one run costs: each YAML file is read once, one Trainer is built, and a setting passes through few files."""

import sys
import traceback
from pathlib import Path

import lightning
import pytest
from torch import nn

import gannorm
from gannorm.cli import main
from gannorm.config.train_config import DiscriminatorConfig
from gannorm.rundir import RunDir

PACKAGE = Path(gannorm.__file__).parent
TINY = ["--steps=2", "--probe_every=0", "--sample_every=0", "--checkpoint_every=1", "--progress=false", "--wandb=off"]
TINY += ["--data.image_size=8", "--data.batch_size=16", "--model.discriminator.width=4", "--model.generator.width=4"]

readings: list[str] = []  # of YAML files, since the last test cleared it


def _note(event, arguments):
    if event == "open" and str(arguments[0]).endswith((".yaml", ".yml")) and str(arguments[1]).startswith("r"):
        readings.append(str(Path(str(arguments[0])).resolve()))


sys.addaudithook(_note)  # python knows every opened file, and such a hook stays for the life of the process


@pytest.fixture
def made(monkeypatch):
    """Every Trainer that has been made."""
    trainers, make = [], lightning.Trainer.__init__

    def noted(trainer, *args, **kwargs):
        trainers.append(trainer)
        make(trainer, *args, **kwargs)

    monkeypatch.setattr(lightning.Trainer, "__init__", noted)
    readings.clear()
    return trainers


def test_a_run_reads_each_yaml_file_once_and_builds_one_trainer(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("steps: 1\nmodel: {loss: hinge}\n")
    recipe, mine = PACKAGE / "recipes" / "digits.yaml", tmp_path / "mine.yaml"
    assert main(["train", "--config", "digits", "--config", "./mine.yaml", *TINY, "--name", "run"]) == 0
    assert sorted(readings) == sorted(map(str, (recipe, mine)))
    assert len(made) == 1


def test_a_resumed_run_reads_its_config_once_and_builds_one_trainer(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--name", "run"]) == 0
    run = RunDir("runs/digits/run")
    run.checkpoint_file(2).unlink()
    run.set_status("failed", 1)  # as if it had been stopped after the first step
    made.clear(), readings.clear()
    assert main(["train", "--resume", str(run.path), "--progress=false"]) == 0
    assert readings == [str(run.config_file.resolve())]
    assert len(made) == 1


def test_a_second_reading_is_noticed(made, tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 1\n")
    for _ in range(2):
        (tmp_path / "a.yaml").read_text()
    assert len(readings) == 2


def test_from_the_command_line_to_group_norm_a_setting_enters_at_most_ten_files(tmp_path, monkeypatch):
    """`--model.discriminator.norm group` arrives twice: as a field of the typed config, and as a layer of the network.

    It enters the files whose functions are running at one of these two moments: the call stack of the first
    `DiscriminatorConfig(norm="group")` and that of the first `nn.GroupNorm`. A file that only checks, copies or looks
    up the value and returns it (the check of types, dotted keys, the registry) treats all settings alike, and is left
    out: nobody has to open it to learn what this one does.
    """
    monkeypatch.chdir(tmp_path)
    entered: dict[str, list[str]] = {}

    def arrives(at):
        files = (Path(frame.filename) for frame in traceback.extract_stack())
        inside = (file.relative_to(PACKAGE).as_posix() for file in files if file.is_relative_to(PACKAGE))
        entered.setdefault(at, list(dict.fromkeys(inside)))

    make_config, make_layer = DiscriminatorConfig.__init__, nn.GroupNorm.__init__

    def config(self, *args, **kwargs):
        if kwargs.get("norm") == "group":
            arrives("config")
        make_config(self, *args, **kwargs)

    def layer(self, *args, **kwargs):
        arrives("layer")
        make_layer(self, *args, **kwargs)

    monkeypatch.setattr(DiscriminatorConfig, "__init__", config)
    monkeypatch.setattr(nn.GroupNorm, "__init__", layer)
    assert main(["train", "--config", "digits", "--model.discriminator.norm", "group", *TINY]) == 0
    assert [path[0] for path in entered.values()] == ["cli.py", "cli.py"]
    assert entered["layer"][-1] == "normalizers/group.py"
    assert len({file for path in entered.values() for file in path}) <= 10, entered
