"""A run that is stopped says so, exits with another status than success, and keeps what it wrote."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from gannorm.rundir import RunDir
from gannorm.training import train

TRAIN = [sys.executable, "-m", "gannorm.cli", "train", "--data.image_size=8", "--data.batch_size=16", "--wandb=off"]
TRAIN += ["--model.discriminator.width=8", "--model.generator.width=8", "--probe_every=0", "--sample_every=0"]
TRAIN += ["--steps=100000", "--checkpoint_every=1", "--log_every=1", "--name=run", "--study=study", "--output=."]


@pytest.mark.slow
def test_ctrl_c_at_the_command_line_keeps_what_the_run_wrote(tmp_path):
    """Signals that save first: test_resume; kill -9: kill_and_resume."""
    process = subprocess.Popen(TRAIN, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    run = RunDir(tmp_path / "study" / "run")
    try:
        deadline = time.monotonic() + 120
        while len(run.checkpoints()) < 3:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    state = run.status()
    assert (state["state"], state["reason"]) == ("failed", "interrupted")
    assert f"interrupted at step {state['step']}: --resume study/run goes on from step " in said
    with run.lock():  # a dead process holds nothing
        for step, file in run.checkpoints().items():
            assert torch.load(file, weights_only=True)["step"] == step
    assert [r["step"] for r in run.metrics()][:3] == [1, 2, 3]


def test_ctrl_c_in_the_middle_of_a_checkpoint_is_an_interruption(configure, tmp_path, monkeypatch):
    def cut_short(*_):
        try:
            raise KeyboardInterrupt
        finally:  # as torch's zip writer does when it is left half-way
            raise RuntimeError("unexpected pos")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        train(configure("--checkpoint_every", "1"), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert run.status()["reason"] == "interrupted"
    assert run.checkpoints() == {}
