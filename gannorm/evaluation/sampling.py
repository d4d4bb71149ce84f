"""Images from a generator that is left as it was found, under a stated choice of its normalization statistics.

A generator with BatchNorm is three generators: it may use the running averages of training, the statistics of the batch
that is being sampled, or standing statistics pooled over many batches. The choice alone moves a FID by several percent,
so it is part of every score's protocol.

    N batch, Z latent, C channels, H W pixels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.data import Images, to_uint8
from gannorm.errors import UserError
from gannorm.isolate import hooked, isolated, switched
from gannorm.normalizers.lp import LpNorm
from gannorm.normalizers.renorm import BatchRenorm
from gannorm.normalizers.sync import alone
from gannorm.registry import choices
from gannorm.seeds import stream

STATISTICS = ("running", "batch", "standing")
STANDING_SAMPLES = 4096  # Wu & Johnson 2021: 10³–10⁴ suffice
NO_POOLING = {
    LpNorm: "divides by another moment",
    BatchRenorm: "leans on the running averages of its training on the way",
}


class NotFiniteError(UserError):
    """A generator's images hold NaN or infinities: it has diverged, and has no score."""


def check_generator(
    generator: nn.Module, dataset: Images, *, latent_dim: int | None, statistics: str, batch_size: int = 64
) -> int:
    """Draw images in the asked mode and return Z, so that a generator that cannot be scored is known early.

    Raises:
        NotFiniteError: its images are not finite.
        UserError: no module, no latent size, an unknown statistics mode, layers that have no running statistics where
            they are asked for or cannot pool them, a batch size that they refuse, images of another shape than the
            data's or outside [−1, 1].
    """
    if not isinstance(generator, nn.Module):
        raise UserError(f"the generator must be an nn.Module: got {type(generator).__name__}; wrap it in one.")
    if statistics not in STATISTICS:
        raise UserError(f"unknown generator statistics {statistics!r}: {choices(statistics, STATISTICS)}")
    if latent_dim is None:
        latent_dim = getattr(generator, "latent_dim", None)
    if not isinstance(latent_dim, int) or latent_dim < 1:
        raise UserError(
            f"the size of the latent must be known: {type(generator).__name__} has latent_dim={latent_dim}; give "
            "latent_dim."
        )
    layers = _averaging_layers(generator)
    stateless = [name for name, layer in layers if layer.running_mean is None]
    if stateless and statistics != "batch":
        raise UserError(
            f"statistics={statistics!r} needs running statistics: {stateless[0]} keeps none; score with "
            "statistics='batch'."
        )
    for name, layer in layers if statistics == "standing" else ():
        if reason := next((why for kind, why in NO_POOLING.items() if isinstance(layer, kind)), None):
            raise UserError(f"statistics='standing' pools variances: {name} {reason}; choose running or batch.")
    with isolated(generator), alone(), torch.no_grad():
        generator.eval()
        for _, layer in layers if statistics != "running" else ():
            layer.train()  # as the batches are drawn, and those that standing statistics pool
        count = 2 if statistics == "running" else batch_size
        images = generator(_latents(np.random.RandomState(0), count, latent_dim, generator))
    if images.shape[1:] != dataset.pixels.shape[1:]:
        raise UserError(
            f"generated and real images must have one shape (C, H, W): got {tuple(images.shape[1:])}, {dataset.name} "
            f"has {tuple(dataset.pixels.shape[1:])}; build the generator for this dataset, or load it at its size."
        )
    _check_range(images)
    return latent_dim


@contextmanager
def generated(
    generator: nn.Module, count: int, *, latent_dim: int, batch_size: int, seed: int, statistics: str = "running"
) -> Iterator[Iterator[Tensor]]:
    """Inside this context, an iterator over `count` uint8 images (N, C, H, W); the generator is restored at its end.

    The latents are those of torch-fidelity for the same seed, so that its scores of the same generator are the same
    bits; they do not depend on the batch size.

    Args:
        generator: (N, Z) → (N, C, H, W) in [−1, 1]; it runs where it is.
        count: how many images.
        latent_dim: Z.
        batch_size: N; with statistics="batch" every batch is normalized at this size.
        seed: of the latents.
        statistics: "running": evaluation mode. "batch": each batch's own. "standing": pooled over STANDING_SAMPLES
            other images. Layers that draw noise in training draw it under "batch", and where "standing" pools.

    Raises:
        UserError: an image outside [−1, 1]; NotFiniteError: an image that is not finite.
    """
    with isolated(generator), alone(), torch.no_grad():
        generator.eval()
        if statistics == "standing":
            set_standing_statistics(generator, latent_dim=latent_dim, batch_size=batch_size, seed=seed)
        for _, layer in _averaging_layers(generator) if statistics == "batch" else ():
            layer.train()
        yield _images(generator, count, latent_dim, batch_size, seed, whole=statistics == "batch")


@torch.no_grad()
def set_standing_statistics(
    generator: nn.Module, *, latent_dim: int, batch_size: int, seed: int, samples: int = STANDING_SAMPLES
) -> None:
    """Replace the running statistics of every BatchNorm by statistics pooled exactly over many batches, in place.

    μ = E[μ_B], σ² = E[σ_B² + μ_B²] − μ², each batch B normalized by its own statistics on the way.

    Args:
        generator: changed: its BatchNorm buffers.
        latent_dim: Z.
        batch_size: of B.
        seed: of the latents, which are others than those that `generated` scores with this seed.
        samples: at least this many images, in whole batches.

    Source: Wu & Johnson 2021 (PreciseBN); with the population variance σ_B², so that one layer's pooled
    variance is that of all its inputs together [here].
    """
    layers = [layer for _, layer in _averaging_layers(generator)]
    sums = {layer: torch.zeros(2, len(layer.running_mean), dtype=torch.float64) for layer in layers}
    values = dict.fromkeys(layers, 0)  # of a channel; a layer may be called twice in a pass, or never

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double() if inputs[0].device.type != "mps" else inputs[0].cpu().double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        sums[layer] += torch.stack([x.sum(axes), x.square().sum(axes)]).cpu()
        values[layer] += x.numel() // x.shape[1]

    draw = np.random.RandomState([seed, 1])
    averaging = switched(*((layer, "training", True) for layer in layers))
    with averaging, hooked(layer.register_forward_pre_hook(collect) for layer in layers):
        for _ in range(-(-samples // batch_size)):
            generator(_latents(draw, batch_size, latent_dim, generator))
    for layer in (layer for layer in layers if values[layer]):
        mean, square = sums[layer] / values[layer]
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((square - mean.square()).clamp(min=0))


def _images(
    generator: nn.Module, count: int, latent_dim: int, batch_size: int, seed: int, whole: bool
) -> Iterator[Tensor]:
    draw = np.random.RandomState(seed)
    for number, start in enumerate(range(0, count, batch_size)):
        wanted = min(batch_size, count - start)
        # A batch that is normalized by itself is drawn whole also where only a part of it is wanted.
        latents = _latents(draw, batch_size if whole else wanted, latent_dim, generator)
        torch.manual_seed(stream(seed, "batch", number).initial_seed())  # noise in layers: a function of the seed
        images = generator(latents)[:wanted]
        _check_range(images)
        yield to_uint8(images)


def _averaging_layers(generator: nn.Module) -> list[tuple[str, Any]]:
    """(name, layer) of all that keep running averages of their batches, torch's and ours, and of BatchNorm without."""
    return [
        (name, layer)
        for name, layer in generator.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or layer._buffers.get("running_mean") is not None
    ]


def _latents(draw: np.random.RandomState, count: int, latent_dim: int, generator: nn.Module) -> Tensor:
    """(N, Z) standard normal, where and as precise as the generator's parameters."""
    like = next(generator.parameters(), torch.empty(0))
    return torch.from_numpy(draw.randn(count, latent_dim)).float().to(like)


def _check_range(images: Tensor) -> None:
    low, high = images.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise NotFiniteError(
            f"a generator's images must be finite: got values from {low.item():.4g} to {high.item():.4g}; it has "
            "diverged, score an earlier checkpoint."
        )
    if not (low >= -1 and high <= 1):
        raise UserError(
            f"a generator's images must lie in [−1, 1]: got values from {low.item():.4g} to {high.item():.4g}; end it "
            "with tanh."
        )
