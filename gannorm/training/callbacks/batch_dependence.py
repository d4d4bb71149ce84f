"""Watch any training: does its discriminator judge images, or batches? A Lightning callback for anybody's module.

    Trainer(callbacks=[gannorm.BatchDependence("netD", fakes=lambda module, n: module.sample(n), real=images)])

It needs neither our GAN nor a run directory, and it imports neither Lightning: the trainer's own, `lightning.pytorch`
or `pytorch_lightning`, is in memory when the callback is made, and is its base class then. So both accept it.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gannorm import probes
from gannorm.errors import UserError, printable
from gannorm.isolate import isolated, modules_in, switched
from gannorm.probes.batch import both_classes, map_tensors, per_sample, running, selecting, take
from gannorm.registry import choices
from gannorm.seeds import stream
from gannorm.training.callbacks.sources import RealImages, draw_fakes, joined, length

MODES = ("train", "eval")
DEPENDENT = ("judges batches", "judges by contrast", "judges both", "learns from batches")  # kinds of a verdict
COUPLED = 8  # real images, and as many fakes, in the matrix of a picture: one backward pass for each
LIBRARIES = ("lightning.pytorch", "pytorch_lightning")
SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")  # strategies by which no process holds the whole discriminator


class BatchDependence:
    """Measures the batch dependence of a discriminator in training, and logs it to every logger of the trainer.

    A measurement is `probes.batch_invariance` of the discriminator on real images and fresh fakes, in each mode: all
    its numbers are logged as batch_dependence/<mode>/<quantity>, beside the rows of the module's own `self.log`, and
    the coupling matrix of 8 real images and 8 fakes as a picture where a logger takes pictures. It draws from its own
    random numbers, computes outside autocast, and leaves weights, buffers, gradients, modes, optimizers and every
    random state bit for bit as they were. Of several processes the first measures alone, on its own batches; sharded
    strategies are refused. What cannot work is one line at the first batch.

    Args:
        discriminator: name of the module's attribute ("netD", "model.critic"), or module -> discriminator. That maps a
            batch of images to one number an image, larger for real.
        fakes: (module, n) -> n fakes, without gradient; for D(images, labels) a tuple (images, labels). It is called
            for one batch at a time, with the module as training leaves it. For our GAN: its generator's.
        real: real images in the same form: a tensor, tuple or dict of tensors; an iterable of batches (a list too); or
            (module, n) -> n images. Of a batch with more parts than the fakes, the first are taken. Default: the
            held-out images of our `ImageData`, else the training batches seen last.
        every_n_batches: training batches between measurements; 0: never.
        modes: "train": as training leaves the discriminator; "eval": in evaluation mode.
        output: which part of the discriminator's output is the logit, where it has several: an index, a key, a path of
            them, or output -> logits.
        on_dependence: where a verdict other than "judges images" and "undecided" is shown, "log" the numbers only,
            "warn" too, or "raise" BatchCouplingError.
        cost: "quick" (the time of at most 64 forward passes of a batch in each mode) or "full", see `batch_invariance`.
        batch_size: of the batches judged, a multiple of 4 and at least 8; default: the training batch, rounded down.
        images: real images and fakes in a measurement; default: four batches of each, from which intervals come.
        threshold: of the logits, for accuracies.
        seed: of everything drawn.
        at_ends: measure before the first batch and after the last step too.
        one_own: measure the AUC at one own image too, see `batch_invariance`.

    Attributes:
        last: mode -> the last result, with its verdict.

    Raises:
        UserError: an argument that is none of these; at the first batch, what cannot be measured.
    """

    state_key = "BatchDependence"

    def __new__(cls, *_: Any, **__: Any) -> BatchDependence:
        libraries = tuple(name for name in LIBRARIES if name in sys.modules)
        return object.__new__(_accepted(cls, libraries))  # type: ignore[arg-type]  # a class is hashable

    def __init__(
        self,
        discriminator: str | Callable[[Any], Callable[..., Any]] = "discriminator",
        fakes: Callable[[Any, int], Any] | None = None,
        real: Any = None,
        every_n_batches: int = 500,
        modes: Sequence[str] = MODES,
        output: Any = None,
        on_dependence: Literal["log", "warn", "raise"] = "log",
        *,
        cost: Literal["quick", "full"] = "quick",
        batch_size: int | None = None,
        images: int | None = None,
        threshold: float = 0.0,
        seed: int = 0,
        at_ends: bool = False,
        one_own: bool = False,
    ) -> None:
        for name, value, known in (
            ("on_dependence", on_dependence, ("log", "warn", "raise")),
            ("cost", cost, ("quick", "full")),
            *(("modes", mode, MODES) for mode in ([modes] if isinstance(modes, str) else modes or [""])),
        ):
            if value not in known:
                raise UserError(f"`{name}` must be one of {', '.join(known)}: got {value!r}; {choices(value, known)}")
        if every_n_batches < 0:
            raise UserError(f"`every_n_batches` must be at least 0: got {every_n_batches}; 0 switches it off.")
        if fakes is not None and not callable(fakes):
            raise UserError(f"`fakes` must be a function (module, n) -> n fakes: got {type(fakes).__name__}.")
        self.discriminator, self.fakes, self.real, self.every_n_batches = discriminator, fakes, real, every_n_batches
        self.modes = (modes,) if isinstance(modes, str) else tuple(modes)
        self.output, self.on_dependence, self.cost = output, on_dependence, cost
        self.batch_size, self.images, self.threshold = batch_size, images, threshold
        self.seed, self.at_ends, self.one_own = seed, at_ends, one_own
        self.last: dict[str, Any] = {}
        self.measurements, self.seconds = 0, 0.0
        self._start = time.perf_counter()
        self._size = self._count = 0  # images in a batch, and in a measurement; known at the first batch
        self._real = RealImages(real, seed)

    def __reduce__(self) -> Any:  # its class was made for the libraries in memory
        return _bare, (), vars(self)

    # -- the trainer's hooks ------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._start, self.measurements, self.seconds, self._size = time.perf_counter(), 0, 0.0, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        if not self.every_n_batches or self._size:
            return
        with self._clock():
            self._prepare(trainer, module, batch)
            if self._count and self.at_ends and trainer.global_step == 0:
                self._act(trainer, module, 0)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if not self.every_n_batches or not self._count:
            return
        number = trainer.fit_loop.total_batch_idx + 1  # of training batches, whatever the optimizers count
        with self._clock():
            self._real.see(batch, -number % self.every_n_batches)
            is_last = self.at_ends and 0 < trainer.max_steps <= trainer.global_step
            if number % self.every_n_batches == 0 or is_last:
                self._act(trainer, module, _step(trainer))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if not trainer.is_global_zero or not self.measurements:
            return
        share = self.seconds / max(time.perf_counter() - self._start, 1e-9)
        print(
            f"batch dependence: {self.measurements} measurements took {self.seconds:.1f} s, {share:.0%} of the "
            "training's time.",
            flush=True,
        )
        for mode, result in self.last.items():
            print(f"  {mode} mode: {result.verdict}", flush=True)

    # -- what can be measured -----------------------------------------------------------------------------------------

    def _prepare(self, trainer: Any, module: Any, batch: Any) -> None:
        """Find out the sizes, and try everything once on one batch. Raises UserError where that cannot work."""
        strategy = type(getattr(trainer, "strategy", None)).__name__
        if any(name in strategy for name in SHARDED):
            raise UserError(f"one process must hold the whole discriminator: got the strategy {strategy}; use ddp.")
        discriminator = self._discriminator(module)
        if self.fakes is None and not _is_our_gan(module):
            raise UserError(
                f"`fakes` must be given for a {type(module).__name__}: a function (module, n) -> n fakes, such as "
                "lambda module, n: module.generator(torch.randn(n, 100, device=module.device))."
            )
        self._size = max(8, (self.batch_size or _batch_size(module, batch)) // 4 * 4)
        with _undisturbed(discriminator, module):
            fake = draw_fakes(self.fakes, module, self._size)
            available = self._real.find(trainer, batch, fake, self.images or 4 * self._size)
            if available < 8:
                message = f"batch dependence needs at least 8 real images: got {available}; pass more as `real`."
                if self.real is not None:
                    raise UserError(message)
                warnings.warn(f"{message} This run is not measured.", stacklevel=2)
                return
            self._size = min(self._size, available // 4 * 4)
            self._count = max(1, min(self.images or 4 * self._size, available) // self._size) * self._size
            self._real.see(batch, 0)
            x = take(self._real.take(module, fake, self._size), torch.arange(4))
            with running(selecting(discriminator, self.output), x) as run:
                try:
                    per_sample(run(x), 4)
                except (TypeError, RuntimeError, IndexError, AttributeError) as error:  # of a network on wrong inputs
                    shapes = map_tensors(lambda t: tuple(t.shape), x)
                    raise UserError(
                        f"`discriminator` must take images in the form in which `fakes` returns them: with {shapes} it "
                        f"raised {type(error).__name__}: {printable(str(error))[:200]}"
                    ) from error

    def _discriminator(self, module: Any) -> Callable[..., Any]:
        if not isinstance(self.discriminator, str):
            return _callable(self.discriminator(module))
        value = module
        for name in self.discriminator.split("."):
            if isinstance(value, Mapping) and name in value:
                value = value[name]
                continue
            if not hasattr(value, name):
                names = [child for child, _ in value.named_children()] if isinstance(value, nn.Module) else []
                if isinstance(value, Mapping):
                    names = list(map(str, value))
                raise UserError(
                    f"`discriminator` must name an attribute of {type(module).__name__}: got {self.discriminator!r}; "
                    f"{choices(name, names) if names else 'or pass a function of the module.'}"
                )
            value = getattr(value, name)
        return _callable(value)

    # -- one measurement ----------------------------------------------------------------------------------------------

    def _act(self, trainer: Any, module: Any, step: int) -> None:
        if not trainer.is_global_zero:
            return
        try:
            metrics, arrays = self.measure(trainer, module)
        except UserError as error:  # such as logits that are no longer finite
            warnings.warn(f"no measurement of batch dependence at step {step}: {error}", stacklevel=2)
            return
        self.measurements += 1
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        _show(trainer.loggers, arrays, step)
        self._report(step)

    def measure(self, trainer: Any, module: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Metrics, and coupling matrices by the name of the network and mode; sets `last`. Leaves no trace.

        Raises:
            UserError: what `batch_invariance` raises.
        """
        metrics: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        discriminator, size = self._discriminator(module), self._size
        f = selecting(discriminator, self.output)
        with_pictures = any(_takes_pictures(logger) for logger in trainer.loggers)
        with _undisturbed(discriminator, module):
            torch.manual_seed(stream(self.seed, "batch_dependence", trainer.global_step).initial_seed())
            fake = joined([draw_fakes(self.fakes, module, size) for _ in range(self._count // size)])
            real = self._real.take(module, fake, self._count)
            if length(real) < size:
                raise UserError(f"the training batches seen last hold {length(real)} images of {size}.")
            trained_on = self._real.trained_on(trainer, module, self._count)
            mixed = both_classes(real, fake, COUPLED)
            for mode in self.modes:
                with _in_mode(discriminator, mode):
                    more = {"cost": self.cost, "training_real": trained_on, "one_own": self.one_own}
                    result = probes.batch_invariance(f, real, fake, size, self.threshold, **more)
                    if with_pictures and result.gradient_change is not None:
                        arrays[f"coupling_{mode}"] = probes.coupling_matrix(f, mixed).cpu().numpy()
                self.last[mode] = result
                metrics |= result.metrics(f"batch_dependence/{mode}/")
            if _is_our_gan(module):
                generator, z = module.generator, torch.randn(2 * COUPLED, module.latent_dim, device=module.device)
                generator.train()
                metrics["batch_dependence/generator/coupling_ratio"] = probes.estimate_coupling(generator, z).ratio
                metrics["batch_dependence/generator/swap_max_change"] = probes.swap_test(generator, z).max_change
                if with_pictures:
                    arrays["coupling_generator"] = probes.coupling_matrix(generator, z).cpu().numpy()
        return metrics, arrays

    def _report(self, step: int) -> None:
        for mode, result in self.last.items():
            kind = result.verdict.kind
            if kind not in DEPENDENT or self.on_dependence == "log":
                continue
            message = f"batch dependence at step {step}, {mode} mode: {result.verdict}"
            if self.on_dependence == "raise":
                raise probes.BatchCouplingError(message, list(result.layers), result.swap)
            warnings.warn(message, stacklevel=2)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begin


# -- the libraries ----------------------------------------------------------------------------------------------------


@cache
def _accepted(cls: type, libraries: tuple[str, ...]) -> type:
    """`cls` as a callback of the libraries in memory; of the first that is installed where none is."""
    if not libraries:
        for name in LIBRARIES:
            try:
                import_module(name)
                return _accepted(cls, (name,))
            except ImportError:
                continue
        raise UserError("BatchDependence needs Lightning: neither is installed; pip install lightning.")
    bases = [sys.modules[name].Callback for name in libraries]
    missing = tuple(base for base in bases if not issubclass(cls, base))
    return type(cls.__name__, (cls, *missing), {"__module__": cls.__module__}) if missing else cls


def _bare() -> BatchDependence:
    return BatchDependence.__new__(BatchDependence)


def _step(trainer: Any) -> int:
    """The step of the rows that the module logs itself: Lightning's, which counts a batch once for all optimizers.

    Where Lightning logs nothing of its own accord, as in our runs, the optimizers' steps: there a run's own rows stand.
    """
    if not trainer.log_every_n_steps:
        return int(trainer.global_step)
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def _is_our_gan(module: Any) -> bool:
    return any((kind.__module__, kind.__name__) == ("gannorm.training.gan", "GAN") for kind in type(module).__mro__)


def _takes_pictures(logger: Any) -> bool:
    is_tensorboard = hasattr(getattr(logger, "experiment", None), "add_image")
    return is_tensorboard or hasattr(logger, "log_image") or hasattr(logger, "log_arrays")


def _show(loggers: Iterable[Any], arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Matrices as arrays or pictures, to the loggers that take either."""
    for logger in loggers if arrays else ():
        if hasattr(logger, "log_arrays"):
            logger.log_arrays(arrays, step)
            continue
        for name, matrix in arrays.items():
            picture, key = heat_map(matrix), f"batch_dependence/{name}"
            if hasattr(logger, "log_image"):
                caption = f"step {step}: logit i by image j, {len(matrix) // 2} real, then as many fakes"
                logger.log_image(key, [picture], step=step, caption=[caption])
            elif _takes_pictures(logger):
                logger.experiment.add_image(key, np.asarray(picture), step, dataformats="HW")


def heat_map(matrix: np.ndarray) -> Any:
    """The coupling matrix in grey, on a logarithmic scale of four decades below its largest entry."""
    from PIL import Image

    top = max(float(np.nanmax(matrix)), np.finfo(np.float32).tiny)
    levels = 1 + np.log10(np.clip(matrix / top, 1e-4, 1)) / 4
    return Image.fromarray((255 * levels).astype(np.uint8)).resize((320, 320), Image.Resampling.NEAREST)


# -- images and networks ----------------------------------------------------------------------------------------------


@contextmanager
def _undisturbed(discriminator: Callable[..., Any], module: nn.Module) -> Iterator[None]:
    """Inside, nothing that is done to the networks and to random states stays, and no other process is waited for."""
    device = next((p.device.type for p in module.parameters()), "cpu")
    switches = []
    if torch.distributed.is_available():  # a synchronized normalizer then takes this process's batch for the whole
        switches.append((torch.distributed, "is_initialized", lambda: False))
    with (
        isolated(discriminator, module),
        switched(*switches),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
        torch.compiler.set_stance("force_eager"),  # nothing is compiled again for shapes that training has not
    ):
        yield


@contextmanager
def _in_mode(discriminator: Callable[..., Any], mode: str) -> Iterator[None]:
    """In "eval", its modules in evaluation mode; in "train", as they are, unless none is in training."""
    modules = [m for root in modules_in(discriminator).values() for m in root.modules()]
    if mode == "eval" or not any(m.training for m in modules):
        with switched(*((m, "training", mode == "train") for m in modules)):
            yield
    else:
        yield


def _callable(discriminator: Any) -> Callable[..., Any]:
    if not callable(discriminator):
        got = type(discriminator).__name__
        raise UserError(
            f"`discriminator` must be a network, or a function of images: got {got}; name it, or return it."
        )
    return discriminator


def _batch_size(module: Any, batch: Any) -> int:
    n = length(batch)
    return n // module.d_steps if _is_our_gan(module) else n  # which draws one batch for each of D's updates
