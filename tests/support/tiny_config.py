"""A small, fast configuration that trains for real."""

import pytest


@pytest.fixture
def configure(tmp_path):
    """configure("--steps", "4", …) -> a resolved config of a tiny digits GAN."""

    def build(*flags):
        from gannorm.commands.inputs.arguments import train_config

        tiny = ["--data.image_size", "8", "--data.batch_size", "16", "--steps", "4", "--log_every", "1"]
        tiny += [
            "--model.discriminator.width",
            "8",
            "--model.generator.width",
            "8",
            "--model.generator.latent_dim",
            "4",
        ]
        tiny += ["--probe_every", "0", "--sample_every", "0", "--checkpoint_every", "0", "--wandb", "off"]
        tiny += ["--progress", "false", "--name", "run", "--output", str(tmp_path)]
        config = train_config([*tiny, *flags]).to_dict()
        return config

    return build
