"""Your own generator and discriminator in our GAN, with Lightning's plain Trainer and any logger.

    python examples/own_networks.py

The images are scikit-learn's digits, which need no download.
"""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

import gannorm
from gannorm.data import ImageData
from gannorm.training import GAN
from gannorm.training.callbacks.samples import Samples


class MyGenerator(nn.Module):
    """(N, Z) -> (N, 1, 8, 8) in [−1, 1]. Our GAN asks for the attribute `latent_dim`."""

    def __init__(self, latent_dim: int = 16) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, 1, 8, 8)


def my_discriminator(norm: nn.Module) -> nn.Module:
    """(N, 1, 8, 8) -> (N,) logits."""
    features = nn.Sequential(nn.Conv2d(1, 32, 4, 2, 1), norm, nn.LeakyReLU(0.2), nn.Flatten())
    return nn.Sequential(features, nn.Linear(512, 1), nn.Flatten(0))


def main(folder: str = "runs/own_networks", steps: int = 100) -> dict[str, str]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    verdicts = {}
    for name, norm in (("batch", nn.BatchNorm2d(32)), ("group", nn.GroupNorm(8, 32))):
        pl.seed_everything(0, verbose=False)
        gan = GAN(MyGenerator(), my_discriminator(norm), ema_decay=0.99)
        watch = gannorm.BatchDependence(every_n_batches=50)
        logger = CSVLogger(folder, name=name, version="0")
        callbacks = [watch, Samples(every=50)]
        trainer = pl.Trainer(max_steps=steps, accelerator="cpu", logger=logger, callbacks=callbacks, **quiet)
        trainer.fit(gan, ImageData(name="digits", image_size=8, batch_size=64))
        verdicts[name] = str(watch.last["train"].verdict)

        file = Path(logger.log_dir) / "gan.ckpt"
        trainer.save_checkpoint(file)
        GAN.load_from_checkpoint(file, generator=MyGenerator(), discriminator=my_discriminator(norm))
    return verdicts


if __name__ == "__main__":
    main()
