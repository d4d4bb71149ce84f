"""Data parallel training: every process holds both networks whole, and steps them by the mean gradient of all.

Lightning starts the processes and knows their ranks. Its wrapper, DistributedDataParallel, is left out: it expects one
forward and one backward pass of the module that it wraps, with a gradient for each parameter, and a GAN's step makes
several of each, through parts of it and, accumulated, again and again. Here the gradients that an optimizer is about to
step by are averaged over the processes, in one message, whatever made them. A training step needs to know nothing of
the other processes, and with equal batches the mean gradient is that of the joined batch.

Running statistics are averaged after each step, so that all processes hold one model to the last bit, which is the one
that is saved, sampled and resumed: with `batch` they estimate the statistics of one device's batch, which is what it
normalizes by, from the images of all devices; with `sync` they are equal before. Other buffers move alike in all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed, nn

from gannorm.arithmetic import best_device
from gannorm.errors import UserError
from gannorm.seeds import stream

RUNNING = ("running_mean", "running_var")


@contextmanager
def one_run(trainer: Trainer) -> Iterator[bool]:
    """Several processes are one run: yields whether this is the first of them, which alone writes the run directory.

    The others are silent inside, whatever they are asked to print (but for a bug's traceback), and after a mistake,
    which the first reports, they exit with status 2.

    The processes' connection ends with the block too. Left to the interpreter's exit, its threads may still be handling
    that another process has gone; a finished process was once seen to end by SIGABRT there.
    """
    connected = distributed.is_initialized()  # by the caller, whose connection it then is
    try:
        if trainer.is_global_zero:
            yield True
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield False
    except UserError as mistake:
        _report(trainer, str(mistake))
        if trainer.is_global_zero:
            raise
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if trainer.is_global_zero:
            raise
        raise SystemExit(130) from None
    finally:
        if distributed.is_initialized() and not connected:
            distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the first of a run's, which alone writes its directory and reports."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def processes(options: Mapping[str, Any]) -> int:
    """How many processes options of Lightning's Trainer ask for. What the Trainer refuses counts as one.

    >>> [processes(options) for options in ({}, {"devices": 2, "num_nodes": 3}, {"devices": "0,1"}, {"devices": [1]})]
    [1, 6, 2, 1]
    """
    devices, nodes = options.get("devices", 1), str(options.get("num_nodes", 1))
    accelerator = str(options.get("accelerator", "auto"))
    if accelerator in ("auto", "gpu"):
        accelerator = best_device().type
    if isinstance(devices, str) and "," in devices:  # "0,1": these two, to Lightning
        devices = [device for device in devices.split(",") if device.strip()]
    if isinstance(devices, list):
        here = len(devices)
    elif str(devices) in ("auto", "-1") and accelerator == "cuda":
        here = torch.cuda.device_count()
    else:
        here = int(devices) if str(devices).isdigit() else 1
    return here * (int(nodes) if nodes.isdigit() else 1)


def check_processes(trainer: Trainer) -> None:
    """Raises ValueError if whoever started the processes started another number than the Trainer's options say."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
    if environment is not None:
        environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)


class Replicas(DDPStrategy):
    """Lightning's DDP without its wrapper; for modules with `losses` and `parts` of their last step, also averaged."""

    mistake = ""  # of this process, found before the others were there

    def setup_distributed(self) -> None:
        super().setup_distributed()
        if mistake := _first_mistake(self.mistake):
            raise UserError(mistake)

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert module is not None
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                distributed.broadcast(tensor, 0)  # seeds make them equal, but for what other hardware rounds otherwise
        if self.global_rank:  # dropout and normalizers that draw noise
            torch.manual_seed(stream(torch.initial_seed(), "noise", self.global_rank).initial_seed())

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            optimizer.register_step_pre_hook(_average_gradients)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().training_step(*args, **kwargs)
        module: Any = self.lightning_module
        average([*module.losses.values(), *module.parts.values(), *running_statistics(module)])
        return output


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, which end with equal bits."""
    tensors = list(tensors)
    if not tensors:
        return
    joined = torch.cat([t.flatten() for t in tensors])
    distributed.all_reduce(joined)
    joined /= distributed.get_world_size()
    for tensor, mean in zip(tensors, joined.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def running_statistics(module: nn.Module) -> Iterator[Tensor]:
    """The running means and variances of every normalizer in a module."""
    for name, buffer in module.named_buffers():
        if name.rsplit(".", 1)[-1] in RUNNING:
            yield buffer


def _report(trainer: Trainer, mistake: str) -> None:
    """Keep the others from waiting for a process that ends before training, where something else started them all."""
    strategy = trainer.strategy
    if not isinstance(strategy, Replicas) or isinstance(strategy.cluster_environment, LightningEnvironment):
        return
    if not distributed.is_initialized():
        strategy.mistake = mistake
        with suppress(UserError):  # the mistake, which this process reports itself
            strategy.setup_environment()


def _first_mistake(mistake: str) -> str:
    """Of all processes, each of which gives its own or ""."""
    mistakes = [""] * distributed.get_world_size()
    distributed.all_gather_object(mistakes, mistake)
    return next(filter(None, mistakes), "")


def _average_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    average(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
