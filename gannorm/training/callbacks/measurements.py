"""What a run does beside training: record, measure, sample, show progress. Each is a Lightning callback.

Every one acts at the steps that its `every` divides and at the last step; 0 switches it off.
"""

from __future__ import annotations

import io
import math
import sys
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from gannorm import probes
from gannorm.data import Images, to_uint8
from gannorm.errors import UserError
from gannorm.files import atomic_write
from gannorm.isolate import isolated
from gannorm.normalizers.sync import alone
from gannorm.rundir import RunDir
from gannorm.seeds import stream
from gannorm.training.gan import GAN


class Every(Callback):
    """Calls `act` after every n-th generator update and after the last; with `at_start`, also before the first.

    Of several processes the first acts alone, while the others go on to their next step, or all do `together`.
    """

    at_start = False
    together = False

    def __init__(self, every: int) -> None:
        self.every = every

    @property
    def sees_every(self) -> int:
        """It looks at what training has made after the steps that this divides; 0 for never."""
        return self.every

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


class Metrics(Every):
    """Sends the losses and the speed to the loggers; ends a run that has diverged."""

    together = True

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.diverged = ""  # why, if it did

    def on_train_start(self, trainer: pl.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._since = time.perf_counter(), gan.step

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        losses = {name: value.item() for name, value in gan.losses.items()}
        parts = {name: value.item() for name, value in gan.parts.items()}
        then, step = self._since
        self._since = time.perf_counter(), gan.step
        rate = (gan.step - step) * images_per_step(trainer) / (self._since[0] - then)
        record(trainer, gan.step, losses | parts | {"images_per_second": rate})
        self.diverged = divergence(gan)
        if self.diverged:
            trainer.should_stop = True


class Progress(Every):
    """A progress bar with the losses and the images seen per second."""

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


class Samples(Every):
    """Grids of 8×8 images from fixed latents, by the averaged generator with its running statistics."""

    at_start = True

    def __init__(self, every: int, run: RunDir) -> None:
        super().__init__(every)
        self.run = run

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        z = torch.randn(64, gan.latent_dim, generator=stream(gan.seed, "samples")).to(gan.device)
        png = encode_grid(generate(gan.ema.module, z, batch_size=64, training=False))
        with atomic_write(self.run.sample_file(gan.step)) as file:
            file.write(png)
        record_image(trainer, gan.step, "samples", Image.open(io.BytesIO(png)))


class BatchDependence(Every):
    """Does the discriminator judge images, or batches? Measured on held-out images and fresh fakes, without a trace.

    For the discriminator in train and in eval mode every scalar of `probes.batch_invariance`, and the coupling matrix
    of a batch of 16 real images and 16 fakes; for the generator in train mode how far an image depends on the latents
    beside its own. The fakes come from the generator in train mode, as the discriminator meets them.

    Args:
        every: steps between measurements.
        run: where the matrices go.
        held_out: real images that are not trained on.
        images: how many real ones and how many fakes.
        batch_size: of the batches judged: the training batch size, but a multiple of 4, at least 8, and at most the
            held-out images. With fewer than 8 of these there is no probe.
    """

    at_start = True
    COUPLED = 16  # of each kind, in the matrix: a heat map of more cells cannot be read

    def __init__(self, every: int, run: RunDir, held_out: Images, images: int, batch_size: int) -> None:
        if len(held_out) < 8 and every:
            warnings.warn(f"probes need 8 held-out images: got {len(held_out)}; this run has no probes.", stacklevel=2)
            every = 0
        super().__init__(every)
        self.run, self.held_out = run, held_out
        self.batch_size = max(8, min(batch_size, len(held_out)) // 4 * 4)
        # Whole batches, and two of each class where there are as many images: the within-class ICC wants them.
        available = min(max(images, 2 * self.batch_size), len(held_out))
        self.images = max(1, available // self.batch_size) * self.batch_size

    def act(self, trainer: pl.Trainer, gan: GAN) -> None:
        try:
            metrics, matrices = self.measure(gan)
        except UserError as error:  # logits that are no longer finite, a ghost batch that does not fit: the run goes on
            warnings.warn(f"no probe of batch dependence at step {gan.step}: {error}", stacklevel=2)
            return
        record(trainer, gan.step, metrics)
        record_arrays(self.run, gan.step, matrices)
        for name, matrix in matrices.items():
            record_image(trainer, gan.step, name, heat_map(matrix))

    def measure(self, gan: GAN) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Scalars and matrices by name."""
        step, discriminator, generator = gan.step, gan.discriminator, gan.generator
        real = self.held_out.take(self.images, gan.seed).to(gan.device)
        z = torch.randn(self.images, gan.latent_dim, generator=stream(gan.seed, "probe", step)).to(gan.device)
        fake = generate(generator, z, self.batch_size, training=True)
        mixed = torch.cat([real[: self.COUPLED], fake[: self.COUPLED]])
        metrics: dict[str, float] = {}
        matrices: dict[str, np.ndarray] = {}
        with isolated(discriminator):
            for mode in ("train", "eval"):
                discriminator.train(mode == "train")
                result = probes.batch_invariance(
                    discriminator, real, fake, batch_size=self.batch_size, generator=stream(gan.seed, "probe/draws")
                )
                metrics |= {f"probe/{mode}/{name}": value for name, value in scalars(result).items()}
                matrices[f"coupling_{mode}"] = probes.coupling_matrix(discriminator, mixed).cpu().numpy()
        with isolated(generator):
            generator.train()
            draws, latents = stream(gan.seed, "probe/draws"), z[: 2 * self.COUPLED]
            coupling = probes.estimate_coupling(generator, latents, generator=draws)
            swap = probes.swap_test(generator, latents, generator=draws)
            matrices["coupling_generator"] = probes.coupling_matrix(generator, latents).cpu().numpy()
        metrics["probe/generator/train/coupling_ratio"] = coupling.ratio
        metrics["probe/generator/train/swap_max_change"] = swap.max_change
        return metrics, matrices


def scalars(result: probes.BatchInvariance) -> dict[str, float]:
    """The numbers of a measurement under the names that metrics.jsonl and the report use."""
    return result.metrics()


# -- what the callbacks share -----------------------------------------------------------------------------------------


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


def heat_map(matrix: np.ndarray) -> Image.Image:
    """The coupling matrix in grey, on a logarithmic scale of four decades below its largest entry."""
    top = max(float(np.nanmax(matrix)), np.finfo(np.float32).tiny)
    levels = 1 + np.log10(np.clip(matrix / top, 1e-4, 1)) / 4
    return Image.fromarray((255 * levels).astype(np.uint8)).resize((320, 320), Image.Resampling.NEAREST)


def divergence(gan: GAN) -> str:
    """Why a run must end here: a loss that is too large or no number, or weights that are none; "" if neither."""
    losses = {name: value.item() for name, value in gan.losses.items()}
    bad = [f"{name}={value:.3g}" for name, value in losses.items() if not abs(value) <= gan.max_loss]
    if bad:
        return f"{', '.join(bad)} at step {gan.step}, with max_loss={gan.max_loss:g}"
    # A gradient that is no number spoils the weights behind losses that still were numbers.
    finite = torch.stack([torch.isfinite(p).all() for p in gan.parameters()]).all()
    return "" if finite else f"weights that are not finite at step {gan.step}"


def images_per_step(trainer: pl.Trainer) -> int:
    """Real images in a training step of all processes."""
    return trainer.train_dataloader.batch_size * trainer.world_size  # type: ignore[union-attr]


def record(trainer: pl.Trainer, step: int, metrics: dict[str, float]) -> None:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)


def record_arrays(run: RunDir, step: int, arrays: dict[str, np.ndarray]) -> None:
    """Add arrays to the run's probe file of this step, beside those of other probes."""
    target = run.probe_file(step)
    if target.exists():
        with np.load(target) as there:
            arrays = dict(there) | arrays
    with atomic_write(target) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def record_image(trainer: pl.Trainer, step: int, name: str, image: Image.Image) -> None:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(name, [image], step)
