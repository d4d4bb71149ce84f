"""One run from a resolved configuration: data, networks, trainer, run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from gannorm import recipes, wandb_run
from gannorm.arithmetic import Arithmetic
from gannorm.config import GANModel, TrainConfig, taken_by
from gannorm.data import GREY, ImageData, Images
from gannorm.errors import OutOfMemory, UserError, out_of_memory
from gannorm.isolate import isolated
from gannorm.models import build_networks, equalize_bias, initialize
from gannorm.models.build import Discriminators, Generators
from gannorm.models.initialization import seeded
from gannorm.normalizers import refresh_reference, set_reference
from gannorm.rundir import VERSION, RunDir
from gannorm.seeds import stream
from gannorm.training.accumulation.microbatches import Microbatches
from gannorm.training.callbacks.batch_dependence import BatchDependence
from gannorm.training.callbacks.checkpoints import Checkpoints, Randomness, StopOnSignal
from gannorm.training.callbacks.metrics import Metrics
from gannorm.training.callbacks.optimization_probes import Optimization, check_options
from gannorm.training.callbacks.progress import Progress
from gannorm.training.callbacks.samples import Samples, generate
from gannorm.training.capture import CudaGraph
from gannorm.training.classifier import REFERENCE_IMAGES, Classifier, TestAccuracy, build_classifier
from gannorm.training.gan import GAN
from gannorm.training.loggers import RunDirLogger, WandbLogger
from gannorm.training.place import place
from gannorm.training.trained import networks_of
from gannorm.training.trainer_options import RunTrainer, check_trainer_options, require_known, trainer_of


def train(config: TrainConfig | Mapping[str, Any], path: Path | None = None, repeats: bool = False) -> RunDir:
    """Train as `config` says and write everything to a new run directory.

    The directory is made once everything in the config has been found to work, so a mistake leaves nothing behind.

    Args:
        config: typed, or plain data of one.
        path: the directory; default: <output>/<study>/<name>, with a name by what differs from the recipe.
        repeats: whether it repeats the run of its name, beside it.

    Returns:
        The run; its status is "finished" or "diverged".

    Raises:
        UserError: the config cannot work, the run exists, or this config has been trained.
    """
    config = TrainConfig.of(config)
    with trainer_of(config) as trainer:
        leads = trainer.is_global_zero
        if path is None:
            path = place(config, repeats, follows=not leads)
            config = config.changed(name=path.name)
        if leads:
            RunDir(path).require_new()
        module, data = build(config)
        with RunDir.create(path, config.to_dict()) if leads else contextlib.nullcontext(RunDir(path)) as run:
            train_to_the_end(module, data, config, run, trainer)
    return run


def introduced(module: GAN | Classifier, config: TrainConfig) -> list[str]:
    """What is trained, in lines for a person."""
    networks = [f"{name} {sum(p.numel() for p in n.parameters()):,}" for name, n in networks_of(module).items()]
    others = ", ".join(name for name in recipes.names(of_runs=True) if name != config.recipe)
    known = f" (the others: {others})" if config.recipe in recipes.names() else ""
    recipe = [f"recipe: {config.recipe}{known}"] if config.recipe else []
    return [*recipe, f"parameters: {', '.join(networks)}"]


def train_to_the_end(
    module: GAN | Classifier,
    data: ImageData,
    config: TrainConfig,
    run: RunDir,
    trainer: RunTrainer,
    checkpoint: Path | None = None,
) -> None:
    """Train in a run directory whose lock is held, from a checkpoint if one is given; its status says how it ended.

    Each process of several that are one run calls this.
    """
    try:
        _train_to_the_end(module, data, config, run, trainer, checkpoint)
    finally:
        wandb_run.end_run(run)


def _train_to_the_end(
    module: GAN | Classifier,
    data: ImageData,
    config: TrainConfig,
    run: RunDir,
    trainer: RunTrainer,
    checkpoint: Path | None,
) -> None:
    print(data.describe(), *introduced(module, config), f"run: {run.path}", sep="\n", flush=True)
    stop = StopOnSignal()
    try:
        ended = _fit(module, data, config, run, stop, trainer, checkpoint)
    except SIGTERMException:  # before our own handler was there
        stop.received, ended = signal.SIGTERM, ""
    except BaseException as error:
        if _is_interrupt(error):
            _stopped(run, module.step, "interrupted")
            raise KeyboardInterrupt from None
        too_large = _too_large(error, config, module.step, run)
        reported = too_large or error
        with contextlib.suppress(UserError):  # on a full disk, what could not be written first is the error to report
            _set_status(run, "failed", module.step, f"{type(reported).__name__}: {reported}")
        if too_large:
            raise too_large from error
        raise
    if ended:
        _set_status(run, "diverged", module.step, ended)
    elif module.step == config.steps:
        _set_status(run, "finished", module.step)
    elif stop.received:
        _stopped(run, module.step, f"stopped by {signal.Signals(stop.received).name}")
        if stop.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + stop.received)  # as if the signal had killed it
    else:  # max_time
        _stopped(run, module.step, "stopped by the trainer")


@rank_zero_only
def _set_status(run: RunDir, state: str, step: int, reason: str = "") -> None:
    run.set_status(state, step, reason)


def _stopped(run: RunDir, step: int, reason: str) -> None:
    _set_status(run, "failed", step, reason)
    saved = max(run.checkpoints(), default=0)
    begin = f"from step {saved}" if saved else "from the beginning, without a checkpoint"
    print(f"{reason} at step {step}: --resume {run.path} continues {begin}.", file=sys.stderr)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: torch's file writer, cut short by it, raises an error of its own on top."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__context__))


def _too_large(error: BaseException, config: TrainConfig, step: int, run: RunDir) -> OutOfMemory | None:
    """The line for a person if an allocation failed."""
    reason = out_of_memory(error)
    if not reason:
        return None
    saved = max(run.checkpoints(), default=None)
    kept = "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} is kept"
    return OutOfMemory(
        f"training must fit into memory: after step {step} it did not, with data.batch_size="
        f"{config.data.batch_size}; {kept}; lower --data.batch_size or the networks' width ({reason})."
    )


def prepare(config: TrainConfig | Mapping[str, Any]) -> tuple[GAN | Classifier, ImageData]:
    """The initialized model and the loaded data of a config, which also names what in it cannot work."""
    config = TrainConfig.of(config)
    check_trainer_options(config)
    return build(config)


def build(config: TrainConfig) -> tuple[GAN | Classifier, ImageData]:
    """`prepare`, of a config whose Trainer options have been checked."""
    data = _data(config)
    data.setup()
    return _model(config, data), data


def check(config: TrainConfig | Mapping[str, Any]) -> None:
    """Name what in a config cannot work, as `prepare` does, but without its images: random ones stand in for them.

    Raises:
        UserError: what `prepare` would, unless it depends on the images or on the machine's devices.
    """
    config = TrainConfig.of(config)
    data = _data(config)
    require_known(config.trainer)
    here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    check_trainer_options(dataclasses.replace(config, trainer=config.trainer | here))
    n, channels, size = max(REFERENCE_IMAGES, data.batch_size), 1 if data.name in GREY else 3, max(0, data.image_size)
    pixels = torch.randint(256, (n, channels, size, size), dtype=torch.uint8, generator=stream(0, "check"))
    data.train = data.test = Images(pixels, torch.arange(n) % 2, ("even", "odd"), data.name, "train")
    _model(config, data)


def _data(config: TrainConfig) -> ImageData:
    """The data module of a config, which holds no images yet."""
    options = dataclasses.asdict(config.data)
    if isinstance(config.model, GANModel):
        options["batch_size"] *= config.model.d_steps  # a training step takes one batch for each discriminator update
    return ImageData(**options, seed=config.seed, labelled=config.task == "classifier")


def _model(config: TrainConfig, data: ImageData) -> GAN | Classifier:
    """The initialized model of a config."""
    data.train_dataloader()  # which knows whether the batch size is possible
    build = build_classifier if data.labelled else _build_gan
    module = build(config, data.train)
    check_options(module, config)
    return module


def _build_gan(config: TrainConfig, images: Images) -> GAN:
    model, batch_size = config.model, config.data.batch_size
    assert isinstance(model, GANModel)
    networks = build_networks(model, images.image_size, images.channels)
    _initialize(*networks, model, images, batch_size, config.seed)
    gan = GAN(*networks, **taken_by(GAN, model), seed=config.seed)
    if isinstance(gan.gradients, Microbatches):
        gan.gradients.check(gan, images.take(batch_size, config.seed))
    return gan


def _initialize(
    generator: Generators,
    discriminator: Discriminators,
    model: GANModel,
    images: Images,
    batch_size: int,
    seed: int,
) -> None:
    """Set both networks' weights, and the reference batches of what needs one, from the seed and the data alone.

    Then both networks judge batches as training composes them, so that one which cannot is found here.
    """
    count = max(1, min(REFERENCE_IMAGES, len(images)) // batch_size) * batch_size
    real = images.take(count, seed)
    latents = torch.randn(count, generator.latent_dim, generator=stream(seed, "reference"))
    for network, reference, name in ((generator, latents, "generator"), (discriminator, real, "discriminator")):
        options = model.initialization_options if network is discriminator else {}
        randomness = stream(seed, "initialization", name)
        initialize(network, model.initialization, generator=randomness, reference=reference, **options)
        set_reference(network, reference)
    with seeded(stream(seed, "initialization", "noise")):
        fake = generate(generator, latents, batch_size, training=True)
        refresh_reference(discriminator, real[:batch_size], fake[:batch_size])
        refresh_reference(generator, latents[:batch_size])
        pairs = list(zip(real.split(batch_size), fake.split(batch_size), strict=True))
        d_batches = [batch for pair in pairs for batch in _composed(pair, model.d_composition)]
        if model.equalize_bias:
            equalize_bias(discriminator, d_batches)
        with torch.no_grad(), isolated(discriminator) as pure:
            for batch in (d_batches[0], _composed(pairs[0], model.g_composition)[-1]):
                pure(batch)


def _composed(pair: tuple[Tensor, Tensor], composition: str) -> list[Tensor]:
    """Real and fake images in the batches in which a step shows them to the discriminator."""
    return [torch.cat(pair)] if composition == "joint" else list(pair)


def _fit(
    module: GAN | Classifier,
    data: ImageData,
    config: TrainConfig,
    run: RunDir,
    stop: StopOnSignal,
    trainer: RunTrainer,
    checkpoint: Path | None,
) -> str:
    """Train; why the run ended by itself (loss exploded, non-finite), or "" if it did not."""
    metrics = Metrics(config.log_every)
    callbacks: list[Any] = [metrics]
    if isinstance(module, GAN):
        callbacks += [
            BatchDependence(
                every_n_batches=config.probe_every,
                images=config.probe_images,
                batch_size=config.data.batch_size,
                cost="full",
                seed=config.seed,
                at_ends=True,
                one_own=config.probe_one_own,
            ),
            Samples(config.sample_every),
        ]
        if isinstance(config.model, GANModel) and config.model.cuda_graph:
            callbacks.append(CudaGraph())
    else:
        callbacks.append(TestAccuracy(config.test_every, data.test, data.train, config.seed))
    callbacks += [
        Optimization(config.optimization_every, config.optimization_budget, config.optimization_layers, config.seed),
        Checkpoints(config.checkpoint_every, run),
        Randomness(),
        stop,
        Provenance(config.to_dict(), data, trainer.arithmetic),
    ]
    if config.progress:
        callbacks.append(Progress(config.log_every))
    loggers: list[Logger] = []
    if trainer.is_global_zero:
        parameters = {name: sum(p.numel() for p in n.parameters()) for name, n in networks_of(module).items()}
        facts = {"arithmetic": str(trainer.arithmetic), "parameters": parameters}
        loggers.append(RunDirLogger(run))
        if wandb := wandb_run.start_run(run, config.to_dict(), config.wandb, config.wandb_project, facts):
            loggers.append(WandbLogger(wandb, config.wandb_checkpoints))
    # Normalizers that draw noise, and dropout, use the global generators.
    pl.seed_everything(config.seed, verbose=False)
    trainer.arithmetic.lay_out(module)
    trainer.prepare_for(run, callbacks, loggers)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        if trainer.interrupted and not isinstance(error, SIGTERMException):
            raise KeyboardInterrupt from None
        raise
    return metrics.ended


class Provenance(Callback):
    """Says how the run computes, and puts what rebuilds the networks and continues the run into every checkpoint."""

    state_key = "Provenance"  # type: ignore[assignment]
    before = ""  # a resumed run's arithmetic

    def __init__(self, config: Mapping[str, Any], data: ImageData, arithmetic: Arithmetic) -> None:
        self.arithmetic, self.images = arithmetic, data.train
        self.content = {
            "version": VERSION,
            "config": dict(config),
            "arithmetic": str(arithmetic),
            "image_size": data.train.image_size,
            "channels": data.train.channels,
        }

    def on_train_start(self, trainer: pl.Trainer, gan: Any) -> None:
        if trainer.is_global_zero:
            print(f"arithmetic: {self.arithmetic}", flush=True)
            if self.before not in ("", str(self.arithmetic)):
                warnings.warn(f"the run computed otherwise before it was stopped: {self.before}.", stacklevel=2)

    def on_load_checkpoint(self, trainer: Any, gan: Any, checkpoint: dict[str, Any]) -> None:
        self.before = checkpoint["arithmetic"]

    def on_save_checkpoint(self, trainer: Any, gan: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.content | {"data": self.images.fingerprint})  # which reads all images, once
