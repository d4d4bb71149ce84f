"""What a run takes of Lightning's Trainer: all options but those that the run decides, and few of its remarks."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gannorm.arithmetic import determinism_kept
from gannorm.distributed import check_processes
from gannorm.errors import UserError
from gannorm.registry import choices

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


def check_trainer_options(options: Mapping[str, Any]) -> pl.Trainer:
    """Options of Lightning's Trainer must be known, not decided by us, plain values, and possible on this machine.

    Returns:
        A Trainer with these options, which knows the processes of the run and which of them this one is.

    Raises:
        UserError: otherwise.
    """
    require_known(options)
    try:  # what Lightning says of values: a device that is not there, an unknown precision or profiler
        with quiet(), determinism_kept():
            trainer = pl.Trainer(logger=False, enable_checkpointing=False, **{**DEVICES, **options})
        check_processes(trainer)
        return trainer
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:  # of a TPU's library, say
        raise UserError(f"Lightning's Trainer refuses its options {dict(options)}: {error}") from None


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
