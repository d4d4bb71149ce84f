"""One run from a resolved configuration: data, networks, trainer, run directory."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gannorm.data import ImageData, Images
from gannorm.errors import UserError
from gannorm.models import build_networks, equalize_bias, initialize
from gannorm.models.checkpoint import Discriminators, Generators
from gannorm.normalizers import set_reference
from gannorm.registry import choices
from gannorm.rundir import RunDir, atomic_write
from gannorm.seeds import stream
from gannorm.training.callbacks import BatchDependence, Checkpoints, Metrics, Progress, Samples, generate
from gannorm.training.gan import GAN
from gannorm.training.loggers import RunDirLogger, wandb_logger
from gannorm.training.precision import Arithmetic, choose

# Trainer options that a run decides itself.
OURS = {
    *("max_steps", "max_epochs", "callbacks", "logger", "plugins", "default_root_dir"),
    *("enable_checkpointing", "enable_progress_bar", "gradient_clip_val", "accumulate_grad_batches"),
}
BUILDING = ("generator", "discriminator", "residual_blocks", "initialization", "equalize_bias")  # not GAN's options
REFERENCE_IMAGES = 64  # of LSUV, virtual batch normalization and the equalized bias
# Lightning's remarks about itself and about loaders with worker processes, of which there are none here.
LIGHTNING_REMARKS = (".*LeafSpec.*", ".*num_workers.*", ".*log_every_n_steps.*", ".*does not have many workers.*")


def train(config: Mapping[str, Any], path: Path) -> RunDir:
    """Train as `config` says and write everything to the new run directory `path`.

    The directory is made once everything in the config has been found to work, so a mistake leaves nothing behind.

    Returns:
        The run; its status is "finished" or "diverged".

    Raises:
        UserError: the config cannot work, or the run exists.
    """
    RunDir(path).require_new()
    gan, data = prepare(config)
    with RunDir.create(path, config) as run:
        try:
            reason = _fit(gan, data, config, run)
        except SIGTERMException:
            run.set_status("failed", gan.step, "stopped by SIGTERM")
            raise SystemExit(143) from None  # Lightning's own exit status would be 0, as if the run had finished
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            run.set_status("failed", gan.step, "interrupted" if interrupted else f"{type(error).__name__}: {error}")
            raise
        run.set_status("diverged" if reason else "finished", gan.step, reason)
    return run


def prepare(config: Mapping[str, Any]) -> tuple[GAN, ImageData]:
    """The initialized model and the loaded data of a config, which also names what in it cannot work."""
    for name in ("steps", "log_every"):
        if config[name] < 1:
            raise UserError(f"`{name}` must be at least 1: got {config[name]}.")
    trainer_options(config["trainer"])
    model = dict(config["model"])
    settings = {**config["data"]}
    settings["batch_size"] *= model["d_steps"]  # a training step takes one batch for each discriminator update
    data = ImageData(**settings, seed=config["seed"])
    data.prepare_data()
    data.setup()
    networks = build_networks(model, data.train.image_size, data.train.channels)
    _initialize(*networks, model, data.train, config["seed"])
    options = {k: v for k, v in model.items() if k not in BUILDING}
    return GAN(*networks, **options, seed=config["seed"]), data


def _initialize(
    generator: Generators, discriminator: Discriminators, model: Mapping[str, Any], images: Images, seed: int
) -> None:
    """Set both networks' weights, and the reference batches of what needs one, from the seed and the data alone."""
    real = images.take(min(REFERENCE_IMAGES, len(images)), seed)
    latents = torch.randn(len(real), generator.latent_dim, generator=stream(seed, "reference"))
    for network, reference, name in ((generator, latents, "generator"), (discriminator, real, "discriminator")):
        randomness = stream(seed, "initialization", name)
        initialize(network, model["initialization"], generator=randomness, reference=reference)
        set_reference(network, reference)
    if model["equalize_bias"]:
        fake = generate(generator, latents, batch_size=len(latents), training=True)
        equalize_bias(discriminator, torch.cat([real, fake]))


def _fit(gan: GAN, data: ImageData, config: Mapping[str, Any], run: RunDir) -> str:
    """Train; why the run diverged, or "" if it did not."""
    metrics, arithmetic = Metrics(config["log_every"]), choose(config)
    callbacks: list[Callback] = [
        metrics,
        BatchDependence(
            config["probe_every"], run, data.test, config["probe_images"], batch_size=config["data"]["batch_size"]
        ),
        Samples(config["sample_every"], run),
        Checkpoints(config["checkpoint_every"], run),
        Describe(config, data, arithmetic),
    ]
    if config["progress"]:
        callbacks.append(Progress(config["log_every"]))
    loggers = [RunDirLogger(run), wandb_logger(run, config, config["wandb"], config["wandb_project"])]
    # Normalizers that draw noise, and dropout, use the global generators.
    pl.seed_everything(config["seed"], verbose=False)
    with warnings.catch_warnings(), arithmetic.applied(gan):
        for remark in LIGHTNING_REMARKS:
            warnings.filterwarnings("ignore", message=remark)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        options = {"enable_model_summary": False, **arithmetic.trainer_options(), **trainer_options(config["trainer"])}
        trainer = pl.Trainer(
            max_steps=config["steps"],
            max_epochs=-1,
            callbacks=callbacks,
            logger=[logger for logger in loggers if logger is not None],
            plugins=[AtomicCheckpoints()],
            default_root_dir=run.path,
            enable_checkpointing=False,
            enable_progress_bar=False,
            **options,
        )
        trainer.fit(gan, datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return metrics.diverged


def trainer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of Lightning's Trainer, checked: known, not decided by us, and plain values.

    Raises:
        UserError: otherwise. Plain values only, so that a config from a stranger cannot name code to import.
    """
    known = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name not in OURS | {"self"}]
    for name, value in options.items():
        if name not in known:
            raise UserError(f"unknown Trainer option 'trainer.{name}': {choices(name, known)}")
        values = value if isinstance(value, list) else [value]
        if not all(v is None or isinstance(v, (str, int, float)) for v in values):
            raise UserError(f"a Trainer option must be a plain value: got trainer.{name}={value!r}.")
    if str(options.get("precision", "")) in ("16", "16-mixed", "16-true"):
        raise UserError("fp16 needs loss scaling, which two optimizers would share: use trainer.precision bf16-mixed.")
    return dict(options)


class Describe(Callback):
    """Says how the run computes, and puts into every checkpoint what is needed to rebuild its networks."""

    def __init__(self, config: Mapping[str, Any], data: ImageData, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.content = {
            "config": dict(config),
            "image_size": data.train.image_size,
            "channels": data.train.channels,
        }

    def on_train_start(self, trainer: pl.Trainer, gan: Any) -> None:
        if trainer.is_global_zero:
            print(f"arithmetic: {self.arithmetic}", flush=True)

    def on_save_checkpoint(self, trainer: Any, gan: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.content)


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear complete under their name, or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(path) as file:
            torch.save(checkpoint, file)
