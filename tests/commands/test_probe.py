"""`gannorm probe` on networks with several outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gannorm.cli import main
from gannorm.commands.probe import output_of

SOURCE = """
from torch import nn

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)

    def forward(self, x):
        h = self.first(x)
        return {"features": [h], "logit": self.head(self.norm(h).relu())}
"""


@pytest.mark.parametrize("output,status", [("logit", 1), ("features.0", 0)])
def test_one_of_several_outputs_is_probed(tmp_path: Path, output: str, status: int) -> None:
    (tmp_path / "nets.py").write_text(SOURCE)
    module = ["--module", f"{tmp_path / 'nets.py'}:Critic", "--input", "3", "--images", "64", "--batch_size", "16"]
    assert main(["probe", *module, "--output", output, "--fail-on-coupling"]) == status


def test_several_outputs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(SOURCE)
    assert main(["probe", "--module", f"{tmp_path / 'nets.py'}:Critic", "--input", "3"]) == 2
    assert "('features', 0): float32 (64, 8), 'logit': float32 (64, 1); choose one" in capsys.readouterr().err


def test_a_path_is_read_as_it_is_written() -> None:
    assert [output_of(text) for text in ("", "logit", "-1", "a.0.b")] == [None, "logit", -1, ("a", 0, "b")]


CLASSIFIER = """
import torch
from torch import nn

class Reads(nn.Module):
    '''Scores that are the images, less `part` of the batch's mean.'''

    def __init__(self, part=0.0):
        super().__init__()
        self.part = part

    def forward(self, x):
        return x - self.part * x.mean(0)
"""


@pytest.mark.parametrize("part,status,pure,line", [(0.0, 0, "1.00", "no layer couples"), (2.0, 1, "0.00", "depend")])
def test_a_classifier_with_labels_has_a_curve_and_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: float, status: int, pure: str, line: str
) -> None:
    (tmp_path / "nets.py").write_text(CLASSIFIER)
    labels = torch.arange(96) % 3
    np.save(tmp_path / "labels.npy", labels.numpy())
    images = torch.eye(3)[labels] + 0.01 * torch.rand(96, 3, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images.pt")
    files = ["--input", str(tmp_path / "images.pt"), "--labels", str(tmp_path / "labels.npy")]
    files += ["--json", str(tmp_path / "curve.json"), "--figure", str(tmp_path / "curve.png")]
    options = [*files, "--batch_size", "8", "--fail-on-coupling", "--args", f"{{part: {part}}}"]
    assert main(["probe", "--module", f"{tmp_path / 'nets.py'}:Reads", *options]) == status
    out = capsys.readouterr().out
    assert f"share 1      {pure}" in out
    assert line in out
    assert "judges" not in out
    assert json.loads((tmp_path / "curve.json").read_text())["chance"] == pytest.approx(1 / 3)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_labels_that_do_not_fit_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(CLASSIFIER)
    torch.save(torch.randn(8, 3), tmp_path / "images.pt")
    np.save(tmp_path / "labels.npy", np.arange(7))
    module = ["probe", "--module", f"{tmp_path / 'nets.py'}:Reads", "--labels", str(tmp_path / "labels.npy")]
    assert main([*module, "--input", str(tmp_path / "images.pt")]) == 2
    assert "one integer for each of 8 samples: got torch.int64 (7,)" in capsys.readouterr().err
    assert main([*module, "--input", "3"]) == 2
    assert "`--labels` belongs to a file of --input" in capsys.readouterr().err


def test_a_classifiers_run_is_probed_on_its_held_out_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--steps", "2", "--optimization_every", "0", "--checkpoint_every", "2", "--test_every", "0", "--wandb=off"]
    flags += ["--data.image_size", "8", "--model.classifier.width", "4", "--output", str(tmp_path), "--progress=false"]
    assert main(["train", "--config", "classifier", "--name", "run", *flags]) == 0
    capsys.readouterr()
    assert main(["probe", str(tmp_path / "classifier" / "run"), "--fail-on-coupling"]) == 1  # BatchNorm
    out = capsys.readouterr().out
    assert "10 classes, chance 0.10" in out
    assert "in the place of 64" in out
    assert "BatchNorm2d" in out


def test_two_folders_are_real_and_fake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dark against light: a critic that sums the pixels ranks every pair right."""
    critic_source = "class Critic(nn.Module):\n    def forward(self, x):\n        return x.flatten(1).sum(1)\n"
    (tmp_path / "nets.py").write_text(f"from torch import nn\n\n{critic_source}")
    for folder, colour in (("real", 200), ("fake", 20)):
        (tmp_path / folder).mkdir()
        for k in range(16):
            Image.new("RGB", (8, 8), 3 * (colour + k,)).save(tmp_path / folder / f"{k}.png")
    folders = ["--real", str(tmp_path / "real"), "--fake", str(tmp_path / "fake"), "--batch_size", "8"]
    critic = ["probe", "--module", f"{tmp_path / 'nets.py'}:Critic"]
    for shape in ([], ["--input", "1x8x8"]):
        assert main([*critic, *folders, *shape]) == 0
        out = capsys.readouterr().out
        assert "AUC           1.00 pure" in out and "same noise" not in out
    assert main([*critic, *folders, "--input", "1x8"]) == 2
    assert "must be the shape of square images" in capsys.readouterr().err
