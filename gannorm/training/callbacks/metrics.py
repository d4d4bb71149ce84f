"""The losses of a step in every logger, and the end of a run whose loss exploded or is not finite."""

from __future__ import annotations

import math
import time

import lightning.pytorch as pl
import torch

from gannorm.training.callbacks.every import Every, images_per_step, record
from gannorm.training.gan import GAN


class Metrics(Every):
    """Sends losses, gradient norms, learning rates and speed to the loggers; ends a run that cannot recover."""

    state_key = "Metrics"  # type: ignore[assignment]
    together = True

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.ended = ""  # why the run must end, if it must

    def on_train_start(self, trainer: pl.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._since = time.perf_counter(), gan.step

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        figures = {name: float(value) for name, value in gan.figures().items()}
        then, step = self._since
        self._since = time.perf_counter(), gan.step
        rate = (gan.step - step) * images_per_step(trainer) / (self._since[0] - then)
        record(trainer, gan.step, figures | {"images_per_second": rate})
        self.ended = why_it_ends(gan)
        if self.ended:
            trainer.should_stop = True


def why_it_ends(gan: GAN) -> str:
    """Why a run must end here: a loss that exploded, or a loss or weights that are not finite; "" if neither."""
    losses = {name: value.item() for name, value in gan.losses.items()}
    bad = [f"{name}={value:.3g}" for name, value in losses.items() if not abs(value) <= gan.max_loss]
    if bad:
        what = "loss exploded" if all(map(math.isfinite, losses.values())) else "non-finite loss"
        return f"{what}: {', '.join(bad)} at step {gan.step}, with max_loss={gan.max_loss:g}"
    # A gradient that is no number spoils the weights behind losses that still were numbers.
    finite = torch.stack([torch.isfinite(p).all() for p in gan.parameters()]).all()
    return "" if finite else f"non-finite weights at step {gan.step}"
