"""A finished run and the commands: names, damaged and hostile checkpoints, files of results."""

import re
import warnings

import pytest
import torch

from gannorm.cli import main

TINY = ["--data.image_size=8", "--data.batch_size=16", "--steps=2", "--model.discriminator.width=8", "--wandb=off"]
TINY += [
    "--study=runs",
    "--model.generator.width=8",
    "--probe_every=0",
    "--sample_every=2",
    "--log_every=1",
    "--progress=false",
]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *argv):
    """The one line of a command that must fail as a caller's mistake."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("gannorm")
    return err


def test_results_go_into_folders_that_are_made(capsys, run):
    assert main(["sample", str(run), "--output", "new/deep/grid.png", "--rows", "1"]) == 0
    assert (run.parents[2] / "new/deep/grid.png").is_file()
    capsys.readouterr()
    below_a_file = fails(capsys, "sample", str(run), "--output", "new/deep/grid.png/grid.png")
    assert "the output must be writable: new/deep/grid.png/grid.png" in below_a_file
    assert "a result must be a file: new is a folder" in fails(capsys, "probe", str(run), "--json", "new")


@pytest.fixture
def run(capsys, tmp_path):
    assert main(["train", *TINY, "--name=batch_0", "--checkpoint_every=1"]) == 0
    capsys.readouterr()
    return tmp_path / "runs" / "runs" / "batch_0"


def test_a_finished_runs_name_is_refused_and_its_own_config_repeats_it_beside_it(capsys, run):
    weights = (run / "checkpoints" / "last.ckpt").read_bytes()
    assert "a run's name must be new" in fails(capsys, "train", *TINY, "--name=batch_0")
    assert main(["train", "--config", str(run / "config.yaml")]) == 0
    again = run.parent / "batch_0_2" / "checkpoints" / "last.ckpt"
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == weights

    first, second = (torch.load(f, weights_only=True)["state_dict"] for f in (run / "checkpoints/last.ckpt", again))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_damaged_checkpoint_is_named_and_the_earlier_one_serves(capsys, run):
    newest = run / "checkpoints" / "step_00000002.ckpt"
    newest.write_bytes(newest.read_bytes()[:2000])
    assert "step_00000002.ckpt" in fails(capsys, "sample", str(run), "--step", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["sample", str(run), "--output", "grid.png"]) == 0
    assert re.search("step_00000002.ckpt is damaged .*; step_00000001.ckpt is used instead", capsys.readouterr().err)
    assert main(["sample", str(run), "--step", "1", "--output", "grid.png"]) == 0
    assert capsys.readouterr().out == "grid.png\n"
    assert "has no checkpoint of step 7: it has 1, 2" in fails(capsys, "sample", str(run), "--step", "7")


def test_a_checkpoint_with_code_is_refused_and_not_run(capsys, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"config": Hostile(), "state_dict": {}}, tmp_path / "hostile.ckpt")
    line = fails(capsys, "sample", "hostile.ckpt")
    assert "hold only weights: hostile.ckpt: it would run" in line
    assert "weights_only" not in line  # torch's advice on how to run it all the same
    assert not (tmp_path / "owned").exists()
