"""A run's whole state on disk and back: when it is saved, what of it is random, and how a run is asked to stop.

A checkpoint holds the weights, the averaged generator, the optimizers, the step, the loader's place, the state of every
random generator of each process, and the config. So a run that continues from it computes, bit for bit, what it would
have computed had it not been stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gannorm.errors import UserError
from gannorm.files import atomic_write, leave
from gannorm.models.checkpoint import read_checkpoint
from gannorm.rundir import RunDir
from gannorm.training.callbacks.every import Every
from gannorm.training.callbacks.metrics import why_it_ends


class Checkpoints(Every):
    """Saves the whole state, atomically, unless the loss exploded or is not finite: the last good checkpoint is kept.

    A run that is stopped early, by a signal or by the Trainer's max_time, saves where it stopped; once a resumed run
    has saved again, that checkpoint is removed, as a run that was never stopped does not have it.
    """

    state_key = "Checkpoints"  # type: ignore[assignment]
    together = True

    def __init__(self, every: int, run: RunDir) -> None:
        super().__init__(every)
        self.run = run

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._saved = module.step  # 0, or where a resumed run continues

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:  # which writes it
            checkpoint["metrics"] = self.run.sync_metrics()

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.every and module.step != self._saved:
            self.act(trainer, module)

    def act(self, trainer: pl.Trainer, module: Any) -> None:
        if why_it_ends(module):
            return
        trainer.save_checkpoint(self.run.checkpoint_file(module.step))
        if trainer.is_global_zero:
            self.run.set_last(module.step)
            for logger in trainer.loggers:
                if hasattr(logger, "log_checkpoint"):
                    logger.log_checkpoint(self.run.checkpoint_file(module.step), module.step)
            if self._saved % self.every:
                self.run.checkpoint_file(self._saved).unlink(missing_ok=True)
        self._saved = module.step


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: complete under their name or not at all, and verified."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        content = read_checkpoint(Path(path))
        # max_time is of one process: Lightning's timer would count what those before have used.
        content["callbacks"] = {k: v for k, v in content["callbacks"].items() if not k.startswith("Timer")}
        return content


class Randomness(Callback):
    """Keeps the random states of each process in the checkpoints: torch's global ones and the module's own generators.

    The global ones serve dropout and normalizers that draw noise; python's and NumPy's serve nothing in training.
    """

    state_key = "Randomness"  # type: ignore[assignment]
    _restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        device = module.device
        mine = {
            "device": device.type,
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "own": {name: generator.get_state() for name, generator in _generators(module).items()},
        }
        states = [mine] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, mine)
        checkpoint["random"] = states  # by rank

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["random"]
        if len(states) != trainer.world_size:
            raise UserError(
                f"resume needs the original number of processes ({len(states)}), whose random states it restores: got "
                f"{trainer.world_size}; start {len(states)}."
            )
        self._restored = states[trainer.global_rank]

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self._restored is None:
            return
        torch.set_rng_state(self._restored["cpu"])
        cuda, device = self._restored["cuda"], module.device.type
        before = self._restored.get("device", "cpu" if cuda is None else "cuda")
        if device != before:
            warnings.warn(
                f"a run of {before} continues on {device} with other random numbers: those of {before} stay there.",
                stacklevel=2,
            )
            return
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, module.device)
        for name, generator in _generators(module).items():
            generator.set_state(self._restored["own"][name])


class StopOnSignal(Callback):
    """Ends a run after the present step when it is asked to, by one of `signals`; `Checkpoints` saves it then.

    These are Ctrl-C, kill, a terminal that is closed, and what SLURM can send before a time limit. One that was ignored
    when the run began stays so, as under nohup. A second Ctrl-C does not wait for the step. Lightning's own handler of
    SIGTERM would raise an exception there, and what was trained since the last checkpoint would be lost.
    """

    state_key = "StopOnSignal"  # type: ignore[assignment]
    signals = tuple(  # Windows has the first two
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.received = 0  # the signal
        self._speaks = True  # of several processes, the first

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._speaks = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():  # elsewhere python has no handlers
            for number in self.signals:  # Lightning puts back at the end what it found
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        self.received = number
        if number == getattr(signal, "SIGHUP", None):
            leave()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._speaks:
                with contextlib.suppress(OSError):  # not print, which may be what was interrupted
                    os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):  # one process of several suffices
            self.received = self.received or signal.SIGTERM
            trainer.should_stop = True


def _generators(module: Any) -> dict[str, torch.Generator]:
    return {name: value for name, value in vars(module).items() if isinstance(value, torch.Generator)}
