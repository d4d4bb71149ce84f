"""A run that is asked to stop saves where it is, and its checkpoints are whole or not there."""

import os
import signal
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import timer
from support.kill_and_resume import differences

from gannorm.rundir import RunDir
from gannorm.training import GAN, resume, train


@pytest.mark.parametrize("number,step", [(signal.SIGTERM, 1), (signal.SIGUSR1, 3), (signal.SIGINT, 3)])
def test_a_signal_saves_where_the_run_is_and_no_trace_of_it_is_left(configure, tmp_path, monkeypatch, number, step):
    config = configure("--precision", "exact", "--checkpoint_every", "2", "--model.generator.norm", "noisy")
    whole = train(config, tmp_path / "whole")
    original = GAN.training_step

    def signalled(gan, *batch):
        original(gan, *batch)
        if gan.step == step:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(GAN, "training_step", signalled)
        with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
            train(config, tmp_path / "stopped")
    assert end.type is KeyboardInterrupt if number == signal.SIGINT else end.value.code == 128 + number
    stopped = RunDir(tmp_path / "stopped")
    assert (stopped.status()["step"], stopped.status()["reason"]) == (step, f"stopped by {number.name}")
    assert max(stopped.checkpoints()) == step
    resume(stopped.path)
    assert differences(whole, stopped) == []


def test_a_run_out_of_its_time_gets_as_much_again(configure, tmp_path, monkeypatch):
    """By a clock that ticks at every step."""
    original, seconds = GAN.training_step, 0

    def ticking(gan, *batch):
        nonlocal seconds
        seconds += 1
        original(gan, *batch)

    monkeypatch.setattr(GAN, "training_step", ticking)
    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: seconds))
    config = configure("--steps", "99", "--checkpoint_every", "99", "--trainer.max_time", "00:00:00:03")
    run = train(config, tmp_path / "run")
    status = run.status()
    assert (status["state"], status["step"], status["reason"]) == ("failed", 3, "stopped by the trainer")
    assert list(run.checkpoints()) == [3]
    resume(run.path)
    assert (run.status()["step"], list(run.checkpoints())) == (6, [6])
