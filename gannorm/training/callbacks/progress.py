"""A progress bar on standard error."""

from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch as pl
from tqdm import tqdm

from gannorm.training.callbacks.every import Every, images_per_step
from gannorm.training.gan import GAN


class Progress(Every):
    """A progress bar with the losses and the images seen per second."""

    state_key = "Progress"  # type: ignore[assignment]

    def on_train_start(self, trainer: pl.Trainer, gan: GAN) -> None:  # type: ignore[override]
        patience = 0.5 if sys.stderr.isatty() else 15.0  # a log file wants few lines
        self._bar = tqdm(
            total=trainer.max_steps, initial=gan.step, unit="step", mininterval=patience, dynamic_ncols=True
        )

    def on_train_batch_end(self, trainer: pl.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        self._bar.update(gan.step - self._bar.n)
        super().on_train_batch_end(trainer, gan)

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        rate = self._bar.format_dict["rate"]  # None before the bar was first drawn
        speed = f" {rate * images_per_step(trainer):,.0f} img/s" if rate else ""
        values = " ".join(f"{name} {value.item():.3f}" for name, value in gan.losses.items())
        self._bar.set_postfix_str(f"{values}{speed}", refresh=False)

    def on_fit_end(self, trainer: pl.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, gan: Any, exception: BaseException) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()
