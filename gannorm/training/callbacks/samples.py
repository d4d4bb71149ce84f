"""Images of the averaged generator, from the same latents at every step."""

from __future__ import annotations

import io
import math
from pathlib import Path

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor

from gannorm.data import to_uint8
from gannorm.files import atomic_write
from gannorm.isolate import isolated
from gannorm.seeds import stream
from gannorm.training.callbacks.every import Every, record_image
from gannorm.training.gan import GAN


class Samples(Every):
    """Grids of 8×8 images from fixed latents, by the averaged generator with its running statistics.

    They go to the loggers that take pictures (a run directory, W&B, TensorBoard); without one, to `samples` in the
    folder of the trainer's first logger.
    """

    state_key = "Samples"  # type: ignore[assignment]
    at_start = True

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        z = torch.randn(64, gan.latent_dim, generator=stream(gan.seed, "samples")).to(gan.device)
        png = encode_grid(generate(gan.ema.module, z, batch_size=64, training=False))
        caption = f"step {gan.step}, averaged generator, running statistics"
        if not record_image(trainer, gan.step, "samples", Image.open(io.BytesIO(png)), caption):
            file_name = Path(trainer.log_dir or trainer.default_root_dir) / "samples" / f"step_{gan.step:08d}.png"
            file_name.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file_name) as file:
                file.write(png)


@torch.no_grad()
def generate(generator: torch.nn.Module, z: Tensor, batch_size: int, training: bool) -> Tensor:
    """Images (N, C, H, W) in [−1, 1] for latents (N, Z), in batches, leaving the generator as it was."""
    with isolated(generator):
        generator.train(training)
        return torch.cat([generator(part).float() for part in z.split(batch_size)])


def encode_grid(images: Tensor) -> bytes:
    """A PNG of images (N, C, H, W) in [−1, 1], N a square, in √N rows, enlarged to at least 32 pixels an image."""
    n, c, h, w = images.shape
    side = math.isqrt(n)
    grid = to_uint8(images).reshape(side, side, c, h, w).permute(0, 3, 1, 4, 2).reshape(side * h, side * w, c)
    picture = Image.fromarray(grid.squeeze(2).cpu().numpy())
    scale = max(1, 32 // h)
    file = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
