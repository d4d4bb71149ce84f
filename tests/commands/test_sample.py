"""`gannorm sample` writes one grid, which follows from the checkpoint, its weights and the seed alone."""

from pathlib import Path

import pytest
from PIL import Image

from gannorm.cli import main
from gannorm.training import train


@pytest.fixture
def run(configure, tmp_path):
    config = configure("--checkpoint_every", "2", "--model.ema_decay", "0.9")
    return train(config, tmp_path / "run").path


def grid(run, *flags):
    assert main(["sample", str(run), "--rows", "2", "--output", "grid.png", *flags]) == 0
    return Path("grid.png").read_bytes()


def test_a_grid_repeats_and_seed_step_and_weights_change_it(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = grid(run)
    assert capsys.readouterr().out.splitlines()[-1] == "grid.png"
    assert grid(run) == first == grid(run, "--step", "4")
    others = [grid(run, *flags) for flags in (["--seed", "1"], ["--step", "2"], ["--ema", "false"])]
    assert first not in others
    grid(run)
    with Image.open("grid.png") as image:
        width, height = image.size
    assert width == height >= 2 * 8  # two rows of images of 8 × 8
