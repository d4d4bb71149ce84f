"""A run that is stopped saves where it is and says so, and exits with another status than success."""

import os
import pty
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
TRAIN += ["--steps=100000", "--checkpoint_every=100000", "--log_every=1", "--name=run", "--study=study", "--output=."]
RUN = RunDir("study/run")
ON_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a run, in a process of its own, and returns the process once it has made three steps."""
    monkeypatch.chdir(tmp_path)
    processes = []

    def started(command, **options):
        process = subprocess.Popen(command, text=True, **options)
        processes.append(process)
        await_records(process, 3)
        return process

    yield started
    for process in processes:
        process.kill()
        process.wait()


def await_records(process, count):
    deadline = time.monotonic() + 120
    while len(RUN.metrics()) < count:
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, f"no {count} steps in two minutes"
        time.sleep(0.05)


def require_saved(reason):
    """The run says why it stopped, and its only checkpoint is of the step at which it did."""
    status = RUN.status()
    assert (status["state"], status["reason"]) == ("failed", reason)
    with RUN.lock():  # a dead process holds nothing
        ((step, file),) = RUN.checkpoints().items()
    assert step == status["step"] == torch.load(file, weights_only=True)["step"]
    assert [record["step"] for record in RUN.metrics()] == list(range(1, step + 1))
    return step


@pytest.mark.slow
def test_ctrl_c_saves_where_the_run_is(start):
    """Other signals: test_resume; kill -9: kill_and_resume."""
    process = start(TRAIN, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    step = require_saved("stopped by SIGINT")
    assert "stopping after this step; Ctrl-C again stops at once" in said
    assert f"stopped by SIGINT at step {step}: --resume study/run continues from step {step}." in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves_where_it_is(start):
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, *TRAIN]
    process = start(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    os.close(terminal)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    require_saved("stopped by SIGHUP")


@pytest.mark.slow
def test_under_nohup_a_run_outlives_its_terminal(start):
    process = start(["nohup", *TRAIN], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    process.send_signal(signal.SIGHUP)
    await_records(process, len(RUN.metrics()) + 3)


def test_a_second_ctrl_c_does_not_wait(configure, tmp_path, monkeypatch):
    def pressed(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one was waited with")

    monkeypatch.setattr("gannorm.training.gan.GAN.training_step", pressed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(configure(), tmp_path / "run")
    assert RunDir(tmp_path / "run").status()["reason"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


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


@pytest.mark.slow
def test_a_run_started_without_output_and_errors_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    closed = subprocess.run(["bash", "-c", 'exec "$@" >&- 2>&-', "bash", *TRAIN, "--steps=2"], timeout=120)
    assert closed.returncode == 0
    assert RUN.status()["state"] == "finished"
