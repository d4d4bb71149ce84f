"""A run that was stopped at any moment goes on, and ends as one that was never stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.kill_and_resume import differences

from gannorm.cli import main
from gannorm.commands.inputs.arguments import train_config
from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS
from gannorm.rundir import RunDir
from gannorm.training import resume, train

HARNESS = Path(__file__).parents[1] / "support" / "kill_and_resume.py"
SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_train.sbatch"


@pytest.fixture
def stopping(configure, tmp_path):
    """stopping(3, "--flag", …) -> (a finished run, the same one as kill -9 during step 3 leaves it)."""

    def make(step, *flags):
        config = configure("--precision", "exact", "--checkpoint_every", "2", "--sample_every", "2", *flags)
        whole = train(config, tmp_path / "whole")
        shutil.copytree(whole.path, tmp_path / "stopped")
        stopped = RunDir(tmp_path / "stopped")
        for number, file in stopped.checkpoints().items():
            if number >= step:
                file.unlink()
        stopped.set_status("running", 0)
        with (stopped.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')
        (stopped.path / "checkpoints" / ".step_00000004.ckpt.x7k2").write_bytes(b"half")
        return whole, stopped

    return make


@pytest.mark.parametrize("norm", NORMALIZERS)
def test_with_every_normalizer_a_resumed_run_ends_bit_identical(stopping, norm):
    factors = ("--model.discriminator.norm", norm, "--model.generator.norm", norm)
    whole, stopped = stopping(3, *factors, "--model.discriminator.weight_norm", "spectral")
    resume(stopped.path)
    assert differences(whole, stopped) == []


def test_penalties_probes_and_several_discriminator_steps_go_on_too(stopping):
    flags = ("--model.penalty", "gradient", "--model.discriminator.norm", "group", "--model.d_steps", "2")
    whole, stopped = stopping(3, *flags, "--probe_every", "2", "--probe_images", "16", "--model.initialization", "lsuv")
    resume(stopped.path)
    assert differences(whole, stopped) == []
    assert len(list(stopped.probes())) == 3


def test_a_difference_would_be_found(stopping):
    """The negative of the two above: other latents from the checkpoint on, and nothing else."""
    whole, stopped = stopping(3)
    file = stopped.checkpoint_file(2)
    content = torch.load(file, weights_only=True)
    content["random"][0]["own"]["_latent_randomness"] = torch.Generator().manual_seed(1).get_state()
    torch.save(content, file)
    resume(stopped.path)
    assert any("state_dict" in line for line in differences(whole, stopped))


def test_a_run_of_another_device_goes_on_with_other_numbers(stopping):
    _, stopped = stopping(3)
    file = stopped.checkpoint_file(2)
    content = torch.load(file, weights_only=True)
    (states,) = content["random"]
    there = torch.zeros(16, dtype=torch.uint8)  # the size of a state on a GPU
    content["random"] = [states | {"device": "cuda", "cuda": there, "own": dict.fromkeys(states["own"], there)}]
    torch.save(content, file)
    with pytest.warns(UserWarning, match="a run of cuda continues on cpu with other random numbers"):
        resume(stopped.path)
    assert stopped.status()["state"] == "finished"


def test_a_classifier_goes_on_too(tmp_path):
    flags = ["--task", "classifier", "--data.image_size", "8", "--data.batch_size", "16", "--steps", "4"]
    flags += ["--model.classifier.width", "8", "--model.classifier.norm", "noisy", "--checkpoint_every", "2"]
    flags += ["--precision", "exact", "--wandb", "off", "--progress", "false"]
    config = train_config(["--task", "classifier", *flags]).to_dict()
    whole = train(config, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "stopped")
    stopped = RunDir(tmp_path / "stopped")
    stopped.checkpoint_file(4).unlink()
    stopped.set_status("running", 0)
    resume(stopped.path)
    assert differences(whole, stopped) == []


def test_before_its_first_checkpoint_a_run_begins_again(stopping, capsys):
    whole, stopped = stopping(0)
    resume(stopped.path)
    assert "from the beginning" in capsys.readouterr().out
    assert differences(whole, stopped) == []


def test_a_damaged_checkpoint_is_passed_over(stopping):
    whole, stopped = stopping(5)
    newest = stopped.checkpoint_file(4)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step_00000004.ckpt is damaged .*; step_00000002.ckpt is used"):
        resume(stopped.path)
    kept = stopped.path / "checkpoints" / "step_00000004.damaged"
    assert kept.read_bytes() == content
    kept.unlink()
    assert differences(whole, stopped) == []


def test_the_last_checkpoint_is_the_one_that_a_run_goes_on_from(stopping, monkeypatch):
    """Also if it is killed again before it saves: the damaged one must not be what others read as the last."""
    _, stopped = stopping(5)
    stopped.checkpoint_file(4).write_bytes(b"cut")
    monkeypatch.setitem(resume.__globals__, "train_to_the_end", lambda *_: None)
    with pytest.warns(UserWarning, match="step_00000002.ckpt is used"):
        resume(stopped.path)
    assert stopped.checkpoint_file(None).read_bytes() == stopped.checkpoint_file(2).read_bytes()


def test_what_cannot_go_on_says_why_and_is_left_as_it_was(stopping, tmp_path):
    whole, stopped = stopping(3)

    def refused(message, run=stopped):
        before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}
        with pytest.raises(UserError, match=message):
            resume(run.path)
        assert {p: p.read_bytes() for p in before} == before

    refused("whole is finished at step 4", whole)
    refused("must hold config.yaml", RunDir(tmp_path))
    with stopped.lock():
        refused("one process writes a run")
    stopped.set_status("diverged", 3, "loss_d=1e9")
    refused(r"ended by itself \(loss_d=1e9\) and would do so again")
    stopped.set_status("running", 0)

    config = stopped.config()
    for change, message in (
        (
            {"model": config["model"] | {"lr_d": 0.5}},
            r"`model.lr_d` is 0.5 in .*config.yaml and 0.0002 in the checkpoint",
        ),
        ({"steps": 9}, "`steps` is 9 in .* and 4 in the checkpoint of step 2"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"seed": config["seed"] + 1}, f"`seed` is {config['seed'] + 1} in .* and {config['seed']} in"),
    ):
        stopped.config_file.write_text(yaml.safe_dump(config | change))
        refused(message)
    stopped.config_file.write_text(yaml.safe_dump(config | {"name": "moved", "wandb": "off", "progress": False}))

    metrics = stopped.path / "metrics.jsonl"
    records = metrics.read_bytes()
    metrics.write_bytes(records[20:])
    refused("metrics.jsonl has been changed since step 2")
    metrics.unlink()
    refused("metrics.jsonl has been changed since step 2")
    metrics.write_bytes(records)

    file = stopped.checkpoint_file(2)
    saved = torch.load(file, weights_only=True)
    for change, message in (
        ({"version": 99}, "is of version 99; read it with the gannorm that wrote it, or a newer one"),
        ({"data": "0" * 64}, r"those of digits \(data\) have changed since the checkpoint of step 2"),
        (
            {"state_dict": saved["state_dict"] | {"discriminator.logit.weight": torch.zeros(1, 3)}},
            r"discriminator.logit.weight has the shape \(1, 3\) in the checkpoint",
        ),
        (
            {"state_dict": saved["state_dict"] | {"discriminator.more": torch.zeros(3)}},
            r"discriminator.more has the shape \(3,\) in the checkpoint .* and None in the network",
        ),
    ):
        torch.save(saved | change, file)
        refused(message)
    torch.save(saved, file)
    status = json.loads((stopped.path / "status.json").read_text())
    (stopped.path / "status.json").write_text(json.dumps(status | {"version": 2}))
    refused("status.json is of version 2")
    (stopped.path / "status.json").write_text(json.dumps(status))
    resume(stopped.path)


def test_the_command_goes_on_and_takes_only_what_changes_nothing(stopping, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, stopped = stopping(3)
    config = stopped.config()
    del config["model"]["moment_weight"]  # a key that a later version has added
    stopped.config_file.write_text(yaml.safe_dump(config))
    file = stopped.checkpoint_file(2)
    torch.save(torch.load(file, weights_only=True) | {"config": config}, file)
    for flags, message in (
        (["--resume"], "must be followed by a run directory"),
        (["--resume", "stopped", "--seed", "3"], "takes no flags but --progress and --wandb: got --seed"),
        (["--resume=stopped", "--config=x.yaml", "--steps=9"], "got --config, --steps"),
        (["--resume", "whole"], "whole is finished at step 4"),
        (["--resume", "nowhere"], "must hold config.yaml: nowhere does not"),
        (["--output", ".", "--study", ".", "--name", "stopped"], "`study` must be"),
    ):
        assert main(["train", *flags]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "--resume", "stopped", "--progress=false", "--wandb", "off"]) == 0
    assert "stopped: finished at step 4" in capsys.readouterr().out
    found = [line for line in differences(whole, stopped) if "moment_weight" not in line]
    assert found == []


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path):
    """Killed twice at its file operations, and twice by the clock; all twenty: pytest -m exhaustive."""
    check_kills(tmp_path, "0", "1")


@pytest.mark.exhaustive
def test_twenty_killed_runs_end_as_if_nothing_had_happened(tmp_path):
    check_kills(tmp_path, *map(str, range(20)))


def check_kills(folder, *seeds):
    done = subprocess.run([sys.executable, HARNESS, folder, *seeds], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit-identical") == len(seeds)


def test_the_slurm_script_begins_then_goes_on_and_requeues_itself(tmp_path):
    bodies = {"srun": 'echo "srun $*" >> calls; exit "$STATUS"', "scontrol": 'echo "scontrol $*" >> calls'}
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def submit(status):
        path = f"{tmp_path}:{os.environ['PATH']}"
        command = ["bash", SCRIPT, "runs/study/batch_1", "--config", "c.yaml", "--seed", "1"]
        environment = {"PATH": path, "STATUS": str(status), "SLURM_JOB_ID": "7"}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    assert submit(138) == 0
    (tmp_path / "runs/study/batch_1").mkdir(parents=True)
    (tmp_path / "runs/study/batch_1/config.yaml").touch()
    assert submit(0) == 0
    assert submit(2) == 2
    assert (tmp_path / "calls").read_text().splitlines() == [
        "srun gannorm train --config c.yaml --seed 1 --output runs --study study --name batch_1",
        "scontrol requeue 7",
        *["srun gannorm train --resume runs/study/batch_1"] * 2,
    ]
