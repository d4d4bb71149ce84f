"""Options of Lightning's Trainer: those that a run decides are refused, and what cannot be is one line."""

import inspect

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from gannorm.config import TrainConfig
from gannorm.errors import UserError
from gannorm.training.trainer_options import OURS, check_trainer_options, require_known, trainer_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options,message",
    [
        ({"accelerator": "cuda", "devices": 1000}, "Lightning's Trainer refuses its options"),
        ({"strategy": "fsdp", "devices": 2}, "`trainer.strategy` ddp: got 'fsdp'"),
        ({"sync_batchnorm": True}, "use the normalizer sync"),
    ],
)
def test_devices_that_cannot_be_had_are_one_clear_line(options, message):
    with pytest.raises(UserError, match=message):
        check_trainer_options(TrainConfig(trainer=options))


def test_torchrun_must_start_as_many_processes_as_the_config_asks_for(monkeypatch):
    started = {"TORCHELASTIC_RUN_ID": "run", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # Lightning's note of the process's rank: put back for later tests
    with pytest.raises(UserError, match=r"does not match the world size \(2\)"):
        check_trainer_options(TrainConfig(trainer={"accelerator": "cpu"}))
    with trainer_of(TrainConfig(trainer={"accelerator": "cpu", "devices": 2})) as trainer:
        assert (trainer.global_rank, trainer.world_size) == (1, 2)


def test_one_device_is_the_default():
    with trainer_of(TrainConfig()) as trainer:
        assert trainer.world_size == 1


@pytest.mark.parametrize(
    "options,message",
    [
        ({"max_epochs": 3}, "`trainer.max_epochs` is decided by the run: use --steps"),
        ({"precison": "32"}, "unknown Trainer option 'trainer.precison': did you mean 'precision'"),
        ({"profiler": {"class_path": "os.system"}}, "must be a plain value"),
        ({"precision": "16-mixed"}, "fp16 needs loss scaling"),
    ],
)
def test_what_a_run_decides_and_what_is_no_plain_value_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        require_known(options)


def test_every_option_that_a_run_decides_is_one_of_lightnings():
    parameters = set(inspect.signature(pl.Trainer.__init__).parameters)
    assert set(OURS) <= parameters


def test_trying_options_out_changes_no_global_switch():
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    check_trainer_options(TrainConfig(trainer={"deterministic": True}))
    check_trainer_options(TrainConfig(trainer={"benchmark": True, "deterministic": False}))
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before
