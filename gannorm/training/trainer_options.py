"""The Trainer of a run: it takes all options of Lightning's but those that the run decides, and few of its remarks."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gannorm.config import TrainConfig
from gannorm.distributed import Replicas, check_processes, one_run, processes
from gannorm.errors import UserError
from gannorm.registry import choices
from gannorm.rundir import RunDir
from gannorm.training.callbacks.checkpoints import CheckpointFiles
from gannorm.training.precision import choose

# Trainer options that a run decides itself, and what to do instead.
OURS = {
    "max_steps": "use --steps",
    "max_epochs": "use --steps",
    "min_epochs": "use --steps",
    "min_steps": "use --steps",
    "fast_dev_run": "use --steps 1",
    "overfit_batches": "use a smaller folder",
    "limit_train_batches": "use --steps",
    "logger": "use --wandb",
    "callbacks": "register them in python",
    "plugins": "register them in python",
    "default_root_dir": "use --output",
    "enable_checkpointing": "use --checkpoint_every",
    "enable_progress_bar": "use --progress",
    "log_every_n_steps": "use --log_every",
    "barebones": "use --probe_every 0 and the like",
    "sync_batchnorm": "use the normalizer sync",
    "gradient_clip_val": "two optimizers alternate here, and Lightning clips for one",
    "accumulate_grad_batches": "two optimizers alternate here, and Lightning accumulates for one",
}
DEVICES = {"devices": 1}  # not all that there are: that would change the batch of an update from machine to machine
# Lightning's remarks about itself and about loaders with worker processes, of which there are none here.
LIGHTNING_REMARKS = (".*LeafSpec.*", ".*num_workers.*", ".*log_every_n_steps.*", ".*does not have many workers.*")


class RunTrainer(pl.Trainer):
    """The one Trainer of a run. It gets its folder, callbacks and loggers once the run has its name.

    Attributes:
        arithmetic: how the run computes; to make the Trainer sets some of torch's switches, which `applied` puts back.
        folder: of the run.
    """

    folder: Path | None = None

    def __init__(self, config: TrainConfig) -> None:
        self.arithmetic = choose(config)
        options = {"enable_model_summary": False, **self.arithmetic.trainer_options(), **DEVICES, **config.trainer}
        if processes(config.trainer) > 1:
            options["strategy"] = Replicas()
        super().__init__(
            max_steps=config.steps,
            max_epochs=-1,
            log_every_n_steps=0,  # `Metrics` logs, at our steps
            logger=False,
            plugins=[CheckpointFiles()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            **options,
        )

    @property
    def default_root_dir(self) -> str:
        return str(self.folder or super().default_root_dir)

    def prepare_for(self, run: RunDir, callbacks: Sequence[Callback], loggers: Sequence[Logger]) -> None:
        """Take what belongs to the run. Our callbacks come before those that options add."""
        self.folder = run.path
        self.callbacks[:0] = callbacks  # type: ignore[attr-defined]
        self.loggers = list(loggers)


@contextmanager
def trainer_of(config: TrainConfig) -> Iterator[RunTrainer]:
    """The Trainer of a run, in the run's arithmetic. Of several processes, all but the first are silent inside.

    Raises:
        UserError: Trainer options that are unknown, decided by the run, no plain values, or impossible on this machine.
    """
    require_known(config.trainer)
    with quiet(), choose(config).applied():
        try:  # what Lightning says of values: a device that is not there, an unknown precision or profiler
            trainer = RunTrainer(config)
            check_processes(trainer)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:  # of a TPU's library, say
            raise UserError(f"Lightning's Trainer refuses its options {dict(config.trainer)}: {error}") from None
        with one_run(trainer):
            yield trainer


def check_trainer_options(config: TrainConfig) -> None:
    """Raises UserError unless a Trainer takes the config's options on this machine."""
    with trainer_of(config):
        pass


def require_known(options: Mapping[str, Any]) -> None:
    """Options of Lightning's Trainer must be known, not decided by us, and plain values, on any machine.

    Raises:
        UserError: otherwise. Plain values only, so that a config from somebody else cannot name code to import.
    """
    known = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name not in {"self", *OURS}]
    for name, value in options.items():
        if name in OURS:
            raise UserError(f"`trainer.{name}` is decided by the run: {OURS[name]}.")
        if name not in known:
            raise UserError(f"unknown Trainer option 'trainer.{name}': {choices(name, known)}")
        values = value if isinstance(value, list) else [value]
        if not all(v is None or isinstance(v, (str, int, float)) for v in values):
            raise UserError(f"a Trainer option must be a plain value: got trainer.{name}={value!r}.")
    if str(options.get("precision", "")) in ("16", "16-mixed", "16-true"):
        raise UserError("fp16 needs loss scaling, which two optimizers would share: use trainer.precision bf16-mixed.")
    if options.get("strategy", "auto") not in ("auto", "ddp"):
        raise UserError(
            f"several devices each hold both networks, which is `trainer.strategy` ddp: got {options['strategy']!r}."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks about itself."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for remark in LIGHTNING_REMARKS:
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
