"""A new run gets a folder of its own; the same config under its default name does not."""

import pytest

from gannorm.config import TrainConfig
from gannorm.errors import UserError
from gannorm.rundir import RunDir
from gannorm.training.place import place


@pytest.fixture
def make(tmp_path):
    """make(changes) -> the place of such a run, which is then there."""

    def run(**changes):
        config = TrainConfig.load("digits", output=str(tmp_path), **changes)
        path = place(config)
        with RunDir.create(path, config.changed(name=path.name).to_dict()):
            return path.name

    return run


def test_another_config_of_one_name_is_numbered_and_the_same_one_refused(make):
    assert make() == "batch_0"
    assert make(probe_every=7) == "batch_0_2"  # whose factors are the same
    assert make(probe_every=9) == "batch_0_3"
    assert make(**{"model.loss": "hinge"}) == "batch_hinge_0"
    with pytest.raises(UserError, match=r"batch_0_2 has this very config .* under another --name"):
        make(probe_every=7, wandb="off")


def test_a_run_is_repeated_beside_itself_and_another_process_finds_its_place(make, tmp_path):
    make()
    own = TrainConfig.load("digits", output=str(tmp_path), name="batch_0")
    assert place(own, repeats=True).name == "batch_0_2"
    config = TrainConfig.load("digits", output=str(tmp_path))
    assert place(config, follows=True).name == "batch_0"


def test_a_damaged_run_is_another_one(make, tmp_path):
    make()
    (tmp_path / "digits" / "batch_0" / "config.yaml").write_text("[")
    assert make() == "batch_0_2"
