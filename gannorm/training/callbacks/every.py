"""What acts at certain steps of a run, and how it records the results.

A callback acts at the steps that its `every` divides and at the last step; 0 switches it off. Each has a fixed
`state_key`, under which Lightning keeps its state in checkpoints, so that files may move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from PIL import Image

from gannorm.normalizers.sync import alone
from gannorm.training.gan import GAN


class Every(Callback):
    """Calls `act` after every n-th generator update and after the last; with `at_start`, also before the first.

    Of several processes the first acts alone, while the others continue with their next step, or all do `together`.
    """

    at_start = False
    together = False

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, gan: GAN) -> None:  # type: ignore[override]
        if self.at_start and self.every and gan.step == 0:
            self._act(trainer, gan)

    def on_train_batch_end(self, trainer: pl.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if self.every and (gan.step % self.every == 0 or gan.step == trainer.max_steps):
            self._act(trainer, gan)

    def _act(self, trainer: pl.Trainer, gan: GAN) -> None:
        if self.together:
            self.act(trainer, gan)
        elif trainer.is_global_zero:
            with alone():
                self.act(trainer, gan)

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        raise AssertionError("each subclass says what happens")


def record(trainer: pl.Trainer, step: int, metrics: Mapping[str, float]) -> None:
    """Metrics to every logger, from the first process."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step)


def record_image(trainer: Any, step: int, name: str, image: Image.Image, caption: str) -> bool:
    """A picture to every logger that takes pictures: W&B's, TensorBoard's, a run directory's. Whether one did."""
    taken = False
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if hasattr(logger, "log_image"):
            logger.log_image(name, [image], step=step, caption=[caption])
            taken = True
        elif hasattr(getattr(logger, "experiment", None), "add_image"):
            logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            taken = True
    return taken


def record_arrays(trainer: Any, step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays to every logger that keeps them: a run directory's."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if hasattr(logger, "log_arrays"):
            logger.log_arrays(arrays, step)


def images_per_step(trainer: pl.Trainer) -> int:
    """Real images in a training step of all processes."""
    return trainer.train_dataloader.batch_size * trainer.world_size  # type: ignore[union-attr]
