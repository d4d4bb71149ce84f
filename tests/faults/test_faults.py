"""Faults in the middle of a run: it ends as what it is, names the cause in one line, and keeps what it had written.

Each fault is injected from outside: by a normalizer that a user could have registered, whose forward pass does the harm
once there is a checkpoint of step 4, or by the operating system itself (an allocation that no machine can make, a
removed folder, a lock held by another process). Full and read-only disks are in test_full_disk.py.
"""

import errno
import os
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gannorm.cli import main
from gannorm.errors import OutOfMemory, UserError
from gannorm.normalizers import normalizer
from gannorm.rundir import RunDir
from gannorm.training import train

CHECKPOINT = 4  # the last one before the fault
FAULTY = "--model.discriminator.norm=faulty"


@pytest.fixture
def faulty_run(configure, tmp_path):
    """faulty_run(fault, *flags) trains 8 steps; from step 5 on, D's layers pass what they get through fault(x)."""

    class Faulty(nn.Module):
        struck = False

        def forward(self, x):
            if not (self.training and torch.is_grad_enabled() and (Faulty.struck or last.exists())):
                return x
            Faulty.struck = True
            return fault(x)

    normalizer("faulty", forward_coupling=False, gradient_coupling=False)(lambda channels: Faulty())

    def run(what, *flags, name="run"):
        nonlocal fault, last
        fault, last, Faulty.struck = what, RunDir(tmp_path / name).checkpoint_file(CHECKPOINT), False
        return train(
            configure("--steps=8", "--checkpoint_every=2", "--sample_every=2", FAULTY, *flags), tmp_path / name
        )

    fault, last = None, None
    return run


def kept(path):
    """A run after a fault: its checkpoints up to the fault load, its records are whole, and nobody holds its lock."""
    run = RunDir(path)
    assert list(run.checkpoints()) == [2, 4]
    for step, file in run.checkpoints().items():
        content = torch.load(file, weights_only=True)
        assert content["step"] == step
        assert all(v.isfinite().all() for v in content["state_dict"].values() if v.is_floating_point())
    assert [r["step"] for r in run.metrics() if "loss/d" in r][:4] == [1, 2, 3, 4]
    assert not list(path.rglob(".*.ckpt.*")), "a temporary file was left"
    with run.lock():
        return run


class NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("log_every", [1, 50])  # 50: nobody looks before the last step
@pytest.mark.parametrize("fault", [lambda x: x * float("nan"), NanGradient.apply], ids=["activation", "gradient"])
def test_what_is_no_number_diverges_and_the_last_good_checkpoint_is_kept(faulty_run, tmp_path, fault, log_every):
    run = faulty_run(fault, f"--log_every={log_every}")
    status = run.status()
    assert status["state"] == "diverged"
    assert status["step"] == (5 if log_every == 1 else 8)
    assert list(run.checkpoints()) == [2, 4]


def test_weights_that_a_last_gradient_spoilt_are_not_a_finished_run(configure, tmp_path):
    """The losses of the last step are numbers still; the weights after it are none."""

    class Last(nn.Module):
        def forward(self, x):
            return NanGradient.apply(x) if run.metrics()[-1:] and run.metrics()[-1]["step"] == 3 else x

    normalizer("last", forward_coupling=False, gradient_coupling=False)(lambda channels: Last())
    run = RunDir(tmp_path / "run")
    train(configure("--steps=4", "--checkpoint_every=2", "--model.generator.norm=last"), run.path)
    assert run.status()["state"] == "diverged"
    assert run.status()["reason"] == "non-finite weights at step 4"
    assert list(run.checkpoints()) == [2]


def no_such_memory(_):
    return torch.empty(2**60)  # the CPU's allocator refuses: a real error, with torch's own words


def no_gpu_memory(_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")


def no_python_memory(_):
    return bytearray(2**62)


@pytest.mark.parametrize("fault", [no_such_memory, no_gpu_memory, no_python_memory])
def test_out_of_memory_names_the_batch_size_and_keeps_the_last_checkpoint(faulty_run, tmp_path, fault):
    with pytest.raises(OutOfMemory, match=r"after step 4 .*batch_size=16; the checkpoint of step 4 is kept; lower"):
        faulty_run(fault)
    status = kept(tmp_path / "run").status()
    assert (status["state"], status["step"]) == ("failed", 4)
    assert "data.batch_size=16" in status["reason"]
    # Not a usage error: other runs of a study may fit, and this one may when its neighbours have ended.
    assert not issubclass(OutOfMemory, UserError)


def test_out_of_memory_is_one_line_with_status_1_at_the_command_line(monkeypatch, capsys):
    def command(_):
        raise OutOfMemory("training must fit into memory")

    monkeypatch.setattr("gannorm.cli.COMMANDS", {"train": SimpleNamespace(run=command)})
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "gannorm train: training must fit into memory\n"


def test_another_error_keeps_its_traceback_and_its_reason(faulty_run, tmp_path):
    def bug(_):
        raise RuntimeError("a bug of somebody's")

    with pytest.raises(RuntimeError, match="a bug of somebody's"):
        faulty_run(bug)
    assert kept(tmp_path / "run").status()["reason"] == "RuntimeError: a bug of somebody's"


def test_a_vanished_folder_is_named_and_not_made_again(faulty_run, tmp_path):
    def vanish(x):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return x

    with pytest.raises(UserError, match=r"must be writable: .*run/metrics\.jsonl: No such file"):
        faulty_run(vanish)
    assert not (tmp_path / "run").exists()


def test_a_failing_fsync_leaves_no_checkpoint_that_may_be_half_on_the_disk(faulty_run, tmp_path, monkeypatch):
    def fail(x):
        def fsync(_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fsync)
        return x

    with pytest.raises(UserError, match=r"must be writable: .*: Input/output error; make room or choose another"):
        faulty_run(fail)
    run = kept(tmp_path / "run")
    # Not even the status could be written. It says "running", and the free lock says that nobody does.
    assert run.status()["state"] == "running"


@pytest.mark.parametrize("shift", [-1e8, 1e8])
def test_a_clock_that_is_set_changes_nothing(faulty_run, monkeypatch, shift):
    now = time.time

    def set_clock(x):
        monkeypatch.setattr(time, "time", lambda: now() + shift)
        return x

    undisturbed = faulty_run(lambda x: x, name="undisturbed")
    run = faulty_run(set_clock)
    assert run.status()["state"] == "finished"
    assert list(run.checkpoints()) == [2, 4, 6, 8]
    assert run.series("loss/g") == undisturbed.series("loss/g")
    assert min(run.series("images_per_second")[1]) > 0  # a monotonic clock times it


@pytest.mark.parametrize("change", ["rewritten", "removed"])
def test_images_that_change_during_a_run_do_not_reach_it(faulty_run, tmp_path, monkeypatch, change):
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    root.mkdir()
    noise = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(root / f"{i}.png")
    data = ["--data.name=folder", f"--data.root={root}"]
    undisturbed = faulty_run(lambda x: x, *data, name="undisturbed")

    def disturb(x):
        for file in root.glob("*.png"):
            if change == "removed":
                file.unlink()
            else:
                Image.new("RGB", (8, 8), "red").save(file)
        for file in (tmp_path / "cache").glob("*.pixels"):
            file.unlink()  # the mapped file itself: its pages live on
        return x

    run = faulty_run(disturb, *data)
    assert run.status()["state"] == "finished"
    assert run.series("loss/d") == undisturbed.series("loss/d")


def test_one_of_two_that_start_the_same_run_at_once_trains_it(configure, tmp_path):
    config = configure()
    outcomes: list[object] = []
    barrier = threading.Barrier(2)

    def start():
        try:
            barrier.wait()
            with RunDir.create(tmp_path / "run", config):
                barrier.wait(timeout=10)  # until the other has been refused
                outcomes.append("made")
        except UserError as error:
            outcomes.append(str(error))
            barrier.wait(timeout=10)

    threads = [threading.Thread(target=start) for _ in range(2)]  # flock is of the open file, not of the process
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "made" in outcomes
    (refused,) = [o for o in outcomes if o != "made"]
    assert "one process writes a run" in refused or "a run's name must be new" in refused
