"""`gannorm describe`: what each normalizer sees; with --variance, where the inputs of the layers vary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gannorm import train
from gannorm.cli import main
from gannorm.commands.describe import across
from gannorm.commands.inputs.arguments import train_config
from gannorm.probes import variance_by_dimension

TINY = ["--data.image_size=8", "--data.batch_size=16", "--steps=2", "--model.discriminator.width=8", "--wandb=off"]


def test_describe_shows_both_steps_batches_and_the_weight_normalizer(capsys):
    factors = ["--model.g_composition=joint", "--model.residual_blocks=1", "--model.discriminator.weight_norm=spectral"]
    assert main(["describe", *TINY, *factors]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("discriminator: "))
    assert lines[start + 1].split()[-4:] == ["D", "step", "G", "step"]
    (norm,) = [line.split() for line in lines[start:] if " blocks.0.branch.norm1 " in line]
    assert norm[-4:] == ["forward,", "gradient", "16", "32"]
    assert any("blocks.0.branch.conv1" in line and "SpectralNorm" in line for line in lines[start:])


@pytest.mark.parametrize(
    "flags,seen",
    [
        (["--model.accumulate=4", "--model.accumulation=naive"], "4"),
        (["--model.accumulate=4", "--model.accumulation=exact"], "16"),
        (["--model.discriminator.norm=sync", "--trainer.devices=2", "--trainer.num_nodes=2"], "64"),
        (["--model.discriminator.norm=batch", "--trainer.devices=2"], "16"),
    ],
)
def test_describe_says_what_a_normalizer_sees_in_microbatches_and_over_devices(capsys, flags, seen):
    assert main(["describe", *TINY, *flags]) == 0
    lines = capsys.readouterr().out.split("discriminator: ")[1].splitlines()
    (norm,) = [line.split() for line in lines if " features.0.norm" in line]
    assert norm[-1] == seen


def test_a_runs_discriminator_is_measured_layer_by_layer(
    configure: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure("--steps", "1", "--checkpoint_every", "1"), tmp_path / "run")
    capsys.readouterr()
    assert main(["describe", str(tmp_path / "run"), "--variance"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith("step 1, 16 held-out images:")
    layers = [line.split()[0] for line in lines if line.startswith("  ")]
    assert layers == ["layer", *(f"features.{i}.{part}" for i in range(3) for part in ("conv", "norm")), "logit"]
    assert lines[len(layers)].startswith("widest: along the ")


def test_a_classifiers_run_is_measured_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--data.image_size", "8", "--model.classifier.width", "2", "--optimization_every", "0")
    flags = ("--config", "classifier", "--wandb", "off", "--progress", "false", *small)
    train(train_config([*flags, "--steps", "1", "--checkpoint_every", "1"]).to_dict(), tmp_path / "run")
    capsys.readouterr()
    assert main(["describe", str(tmp_path / "run"), "--variance"]) == 0
    assert capsys.readouterr().out.startswith("variance of the inputs of the classifier's layers, 64 held-out images:")


@pytest.mark.parametrize("flags,got", [([], "no run"), (["--seed", "1"], "--seed 1"), (["run", "--seed=1"], "run --")])
def test_what_is_no_single_run_is_one_line(capsys: pytest.CaptureFixture[str], flags: list[str], got: str) -> None:
    assert main(["describe", "--variance", *flags]) == 2
    error = capsys.readouterr().err
    assert f"takes one run and nothing else: got {got}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("dimension,normalizer", [(1, "layer and group"), (2, "instance")])
def test_effects_of_one_dimension_name_what_normalizes_across_it(dimension: int, normalizer: str) -> None:
    (line,) = across(variance_by_dimension(nn.Conv2d(4, 1, 1), effects(dimension)))
    assert normalizer in line
    assert "1.00" in line  # they explain all of the variance


def test_where_samples_differ_most_what_couples_is_said_and_what_would_not() -> None:
    x = effects(0) + 0.5 * effects(2)
    first, second = across(variance_by_dimension(nn.Conv2d(4, 1, 1), x))
    assert first.startswith("widest: along the samples, 0.80") and "couples the images" in first
    assert second.startswith("widest inside an image: along the positions, 0.20") and "couples no images" in second


def effects(dimension: int) -> Tensor:
    """(4, 4, 4, 1) whose entries are ±1 by their place along one dimension: the variance is 1."""
    shape = [1, 1, 1, 1]
    shape[dimension] = 4
    return torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(shape).expand(4, 4, 4, 1)
