"""`gannorm probe` on networks with several outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
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
