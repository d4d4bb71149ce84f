"""The optimization probes, taken inside a training step, on each of its networks separately.

What is measured belongs to one real update θ_t → θ_{t+1}: the parameters are copied just before the optimizer's step,
and everything is computed just after it, on the batch of that step and at θ_t, then forgotten. Training continues from
θ_{t+1} bit for bit as if nothing had happened. The figures are recorded at step t, the number of updates before.

For one network it costs: landscape 9 forward-backward passes; covariate shift 3 (two layers at a time: one pass a
layer is needed, see `probes.covariate_shift`); noise 5; the turn of the gradient 2, and the signs of the weights
none; gradient statistics a backward pass and the sums over pixels, which are the largest part; moments two forward
passes; units two and a backward pass. All in all that is the time of some tens of training steps, which is why there
is a budget. Where `model.accumulate` divides a batch, the probes see it undivided.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from gannorm import probes
from gannorm.config import TrainConfig
from gannorm.errors import UserError
from gannorm.probes.optimization.internal_covariate_shift import layers_of
from gannorm.probes.optimization.objective import Point, norm, set_to
from gannorm.registry import choices
from gannorm.seeds import stream
from gannorm.training.callbacks.every import record, record_arrays
from gannorm.training.classifier import Classifier
from gannorm.training.gan import GAN
from gannorm.training.trained import Trained, networks_of, trained_in

FIRST_COST = 40  # training steps that a measurement is taken to last before one was timed: 15 to 25 on small networks
SAMPLED_LAYERS = 2  # of the covariate shift: with the gradient before the update 3 backward passes

Figures = tuple[dict[str, float], dict[str, np.ndarray]]  # scalars and arrays by name


class Optimization(Callback):
    """Internal covariate shift, landscape, gradients, noise and moments of every trained network, on a schedule.

    A measurement is due at the steps that `every` divides. It is made if it will fit into the budget: after it, as the
    one before it took, the time in measurements is at most `budget` of the time since the training started. The first
    one, of the initial networks, has no time before it: it is made if all the steps to come can pay for it, at
    FIRST_COST steps; if they cannot, there is none, and a warning says so. What a run skipped is counted in
    optimization/skipped. A probe that cannot be made (gradients that are not finite, a batch that cannot be divided) is
    named once in a warning, counted in optimization/failed, and costs no other.

    Args:
        every: steps between measurements; 0: never.
        budget: in (0, 1]; 1 for no limit.
        layers: where the covariate shift is measured, as "discriminator.logit"; by default two layers of each network,
            drawn again every time.
        seed: of the layers and of the mini-batches of the noise.
    """

    state_key = "Optimization"  # type: ignore[assignment]

    def __init__(self, every: int, budget: float, layers: Sequence[str], seed: int) -> None:
        self.every, self.budget, self.layers, self.seed = every, budget, layers, seed
        self.looks_into_steps = every > 0  # by hooks of the optimizers, which a replayed CUDA graph does not call
        self.spent = 0.0  # seconds in measurements
        self.cost: float | None = None  # seconds of the last one
        self.skipped = self.failed = 0
        # Of the measurement under way:
        self._hooks: list[Any] = []
        self._metrics: dict[str, float] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._seconds = 0.0
        self._warned: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, module: GAN | Classifier) -> None:  # type: ignore[override]
        self._start, left = time.perf_counter(), trainer.max_steps - module.step
        self._long_enough = self.budget == 1 or self.budget * (left + FIRST_COST) >= FIRST_COST
        if self.every and not self._long_enough:
            warnings.warn(
                f"optimization_budget {self.budget:g} of {left} steps does not pay for a measurement of about "
                f"{FIRST_COST}: none is made; raise it, or the steps.",
                stacklevel=2,
            )

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN | Classifier, batch: Any, _: int
    ) -> None:
        if not self.every or module.step % self.every:
            return
        _wait_for(module)
        # All processes measure or none: a synchronized normalizer waits for every one of them.
        if not trainer.strategy.broadcast(self._affordable()):
            self.skipped += 1
            record(trainer, module.step, {"optimization/skipped": self.skipped})
            return
        self._seconds, self._metrics, self._arrays = 0.0, {}, {}
        for trained in trained_in(module, batch):
            self._hooks += [
                trained.optimizer.register_step_pre_hook(partial(self._before, trained)),
                trained.optimizer.register_step_post_hook(partial(self._after, trained, module.step)),
            ]

    def on_train_batch_end(self, trainer: pl.Trainer, module: GAN | Classifier, *_: Any) -> None:  # type: ignore[override]
        if not self._hooks:
            return
        while self._hooks:
            self._hooks.pop().remove()
        self.spent += self._seconds
        self.cost = self._seconds
        share = self.spent / (time.perf_counter() - self._start)
        counts = {"optimization/skipped": self.skipped, "optimization/failed": self.failed}
        times = {"optimization/seconds": self._seconds, "optimization/share_of_time": share}
        record(trainer, module.step - 1, self._metrics | times | counts)
        record_arrays(trainer, module.step - 1, self._arrays)

    def _affordable(self) -> bool:
        if self.cost is None or self.budget == 1:
            return self._long_enough
        elapsed = time.perf_counter() - self._start
        return self.spent + self.cost <= self.budget * (elapsed + self.cost)

    def _before(self, trained: Trained, *_: Any) -> None:
        _wait_for(trained.network)
        start = time.perf_counter()
        trained.before = probes.snapshot(trained.network)
        trained.updates += 1
        self._seconds += time.perf_counter() - start

    def _after(self, trained: Trained, step: int, *_: Any) -> None:
        if trained.updates < trained.last_update:
            return
        _wait_for(trained.network)
        start = time.perf_counter()
        with torch.autocast(next(trained.network.parameters()).device.type, enabled=False):  # float32, like all probes
            self._measure(trained, step)
        self._seconds += time.perf_counter() - start

    def _measure(self, trained: Trained, step: int) -> None:
        network, loss, batch, before = trained.network, trained.loss, trained.batch(), trained.before
        prefix = f"{trained.name}."
        layers = [layer.removeprefix(prefix) for layer in self.layers if layer.startswith(prefix)]
        draws = stream(self.seed, "why", trained.name, step)
        after = probes.snapshot(network)

        def shift() -> Figures:
            chosen = {"layers": layers} if layers else {"sample": SAMPLED_LAYERS, "generator": draws}
            return _shift(probes.internal_covariate_shift(network, loss, batch, before, after, **chosen))

        at_start: dict[str, Callable[[], Figures]] = {
            "covariate_shift": shift,
            "landscape": lambda: _landscape(probes.landscape(network, loss, batch, _step_size(network, before, after))),
            "gradients": lambda: _gradients(probes.gradient_statistics(network, loss, batch)),
            "noise": lambda: _noise(probes.sgd_noise(network, loss, batch, _part(batch), draws)),
            "step": lambda: _step(network, loss, batch, before, after),
            "moments": lambda: _moments(probes.signal_propagation(network, loss, batch)),
            "units": lambda: _units(probes.unit_variance(network, loss, batch)),
        }
        with set_to(dict(network.named_parameters()), before):
            for name, measure in at_start.items():
                try:
                    metrics, arrays = measure()
                except UserError as error:
                    self.failed += 1
                    if (what := f"{name} of the {trained.name}") not in self._warned:
                        self._warned.add(what)
                        warnings.warn(f"no probe of {what} at step {step}: {error}", stacklevel=2)
                    continue
                self._metrics |= {f"optimization/{trained.name}/{key}": value for key, value in metrics.items()}
                self._arrays |= {f"optimization/{trained.name}/{name}/{key}": array for key, array in arrays.items()}


def _wait_for(network: nn.Module) -> None:
    """Until a GPU has done what it was given, so that the time of the training is not counted as a measurement's."""
    device = next(network.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_options(module: GAN | Classifier, config: TrainConfig) -> None:
    """Raises UserError unless every layer of the config is one of a trained network."""
    known = [f"{name}.{layer}" for name, network in networks_of(module).items() for layer in layers_of(network)]
    for layer in config.optimization_layers:
        if layer not in known:
            raise UserError(
                f"`optimization_layers` must name layers with weights: got {layer!r}; {choices(layer, known)}"
            )


def _step_size(network: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The step size η at which −ηg is as long as the real update: the learning rate itself for plain descent."""
    with_gradient = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    update = norm(after[name] - before[name] for name in with_gradient)
    size = norm(with_gradient.values())
    return update / size if size else 0.0


def _part(batch: Any) -> int:
    """The largest divisor of the batch size up to a quarter of it."""
    n = len(batch[0])
    return next(b for b in range(max(1, n // 4), 0, -1) if n % b == 0)


# -- figures: the scalars that a curve shows, and the arrays behind them ----------------------------------------------


def _shift(result: probes.InternalCovariateShift) -> Figures:
    relative = result.distance / np.where(result.gradient_norm > 0, result.gradient_norm, np.nan)
    scalars = {
        "covariate_shift": float(result.distance.mean()),
        "covariate_shift_relative": float(relative.mean()),  # ‖G−G'‖/‖G‖
        "covariate_shift_cosine": float(result.cosine.mean()),
    }
    return scalars, _arrays(result)


def _landscape(result: probes.Landscape) -> Figures:
    (low, high), (near, far) = result.loss_band, result.predictiveness_band
    scalars = {
        "loss": result.loss,
        "loss_low": low,
        "loss_high": high,
        "loss_band": high - low,
        "predictiveness_low": near,
        "predictiveness_high": far,
        "effective_beta": result.effective_beta,
        "gradient_norm": result.gradient_norm,
        "step_size": float(np.median(result.step_sizes)),
    }
    return scalars, _arrays(result)


def _gradients(result: probes.GradientStatistics) -> Figures:
    names = ("kurtosis", "range_ratio", "coherence", "alignment", "effective_rank")
    scalars = {name: float(np.median(getattr(result, name))) for name in names}
    scalars["radial"] = float(np.abs(result.radial[:-1]).max()) if len(result.radial) > 1 else float("nan")
    return scalars, _arrays(result, "coherence")


def _noise(result: probes.SGDNoise) -> Figures:
    scalars = {
        "noise_variance": result.variance,
        "noise_to_signal": result.noise_to_signal,
        "noise_batch_bias": result.batch_bias,
    }
    return scalars, {}


def _step(network: nn.Module, loss: Callable[..., Tensor], batch: Any, before: Point, after: Point) -> Figures:
    signs = probes.sign_changes(network, before, after)
    turn = probes.gradient_consistency(network, loss, batch, [before, after])
    changed = float(np.mean(list(signs.values())))
    return {"gradient_consistency": float(turn.cosine[0]), "sign_changes": changed}, {}


def _moments(result: probes.SignalPropagation) -> Figures:
    scalars = {"input_mean": float(result.means[:-1].mean()), "input_variance": float(result.variances[:-1].mean())}
    for kind in ("activation", "gradient"):
        if (share := getattr(result, f"majority_by_{kind}")) is not None:
            scalars[f"majority_by_{kind}"] = share
    for name, channels in (("skewness", result.channel_skewness), ("kurtosis", result.channel_kurtosis)):
        sizes = np.abs(np.concatenate([np.empty(0), *channels[:-1]]))
        if np.isfinite(sizes).any():  # a constant channel has no shape
            scalars[f"input_{name}"] = float(np.nanmedian(sizes))
    if result.saturated:
        scalars["saturated"] = float(np.mean(list(result.saturated.values())))
    return scalars, _arrays(result, "means", "variances")


def _units(result: probes.UnitVariance) -> Figures:
    ratio = result.ratio[np.isfinite(result.ratio)]
    return ({"unit_variance_ratio": float(np.median(ratio))} if len(ratio) else {}), _arrays(result, "ratio")


def _arrays(result: Any, *more: str) -> dict[str, np.ndarray]:
    """The arrays of a result; the channels of all layers in one row."""
    values = {name: getattr(result, name) for name in (*vars(result), *more)}
    joined = {
        k: np.concatenate(v) if isinstance(v, tuple) and not isinstance(v[0], str) else v for k, v in values.items()
    }
    return {k: np.asarray(v) for k, v in joined.items() if isinstance(v, np.ndarray | tuple)}
