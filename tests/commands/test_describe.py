"""`gannorm describe`: the batches of both steps, and what each normalizer sees."""

import pytest

from gannorm.cli import main

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
