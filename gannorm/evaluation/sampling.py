"""Images from a generator, which is left unchanged, under a stated choice of its normalization statistics.

A generator with BatchNorm is three generators: it may use the running averages of training, the statistics of the batch
that is being sampled, or standing statistics pooled over many batches. The choice alone moves a FID by several percent,
so it is part of every score's protocol.

    N batch, C channels, H W pixels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.evaluation.generators import Draws, RangeWatch, Sampler
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
    BatchRenorm: "also uses the running averages of its training",
}


def check_generator(sampler: Sampler, dataset: Images, *, statistics: str, batch_size: int = 64) -> None:
    """Draw images in the asked mode, so that a generator that cannot be scored is known early.

    Raises:
        NotFiniteError: its images are not finite.
        UserError: an unknown statistics mode, layers that have no running statistics where they are asked for or cannot
            pool them, a batch size that they refuse, latents or labels that the generator refuses, images of another
            shape than the data's.
    """
    if statistics not in STATISTICS:
        raise UserError(f"unknown generator statistics {statistics!r}: {choices(statistics, STATISTICS)}")
    if not sampler.latent_shape and statistics != "running":
        raise UserError(
            f"a function that takes the number of images decides on its statistics itself: got statistics="
            f"{statistics!r}; leave it out, or give a function of the latents with latent_shape."
        )
    layers = _averaging_layers(sampler)
    stateless = [name for name, layer in layers if layer.running_mean is None]
    if stateless and statistics != "batch" and sampler.latent_shape:
        raise UserError(
            f"statistics={statistics!r} needs running statistics: {stateless[0]} keeps none; score with "
            "statistics='batch'."
        )
    for name, layer in layers if statistics == "standing" else ():
        if reason := next((text for kind, text in NO_POOLING.items() if isinstance(layer, kind)), None):
            raise UserError(f"statistics='standing' pools variances: {name} {reason}; choose running or batch.")
    with isolated(sampler.generator), alone(), torch.no_grad():
        _set_mode(sampler, statistics != "running")
        count = 2 if statistics == "running" else batch_size  # as batches are drawn, and as standing statistics pool
        images = sampler.first(count)
    require_one_shape(images, dataset)


def image_shape(sampler: Sampler) -> tuple[int, ...]:
    """(C, H, W) of what a generator makes, which is left as it was."""
    with isolated(sampler.generator), alone(), torch.no_grad():
        _set_mode(sampler, False)
        return tuple(sampler.first(2).shape[1:])


def require_one_shape(images: Tensor, dataset: Images) -> None:
    """Raises UserError unless generated images (N, C, H, W) have the channels and the size of the real ones."""
    if images.shape[1:] != dataset.pixels.shape[1:]:
        raise UserError(
            f"generated and real images must have one shape (C, H, W): got {tuple(images.shape[1:])}, {dataset.name} "
            f"has {tuple(dataset.pixels.shape[1:])}; build the generator for this dataset, or load it at its size."
        )


@contextmanager
def generated(
    sampler: Sampler, count: int, *, batch_size: int, seed: int, statistics: str = "running"
) -> Iterator[Iterator[Tensor]]:
    """Inside this context, an iterator over `count` uint8 images (N, C, H, W); the generator is restored at its end.

    The latents do not depend on the batch size.

    Args:
        sampler: the generator; it runs where it is.
        count: how many images.
        batch_size: N; with statistics="batch" every batch is normalized at this size.
        seed: of the latents and labels.
        statistics: "running": evaluation mode. "batch": each batch's own. "standing": pooled over STANDING_SAMPLES
            other images. Layers that draw noise in training draw it under "batch", and where "standing" pools. A
            function of the number of images runs as it is.

    Raises:
        NotFiniteError: an image that is not finite.

    Warns:
        UserWarning: images that are not what was assumed of them, see `RangeWatch`.
    """
    with isolated(sampler.generator), alone(), torch.no_grad():
        _set_mode(sampler, False)
        if statistics == "standing":
            set_standing_statistics(sampler, batch_size=batch_size, seed=seed)
        _set_mode(sampler, statistics == "batch")
        yield _images(sampler, count, batch_size, seed, whole=statistics == "batch")


@torch.no_grad()
def set_standing_statistics(sampler: Sampler, *, batch_size: int, seed: int, samples: int = STANDING_SAMPLES) -> None:
    """Replace the running statistics of every BatchNorm by statistics pooled exactly over many batches, in place.

    μ = E[μ_B], σ² = E[σ_B² + μ_B²] − μ², each batch B normalized by its own statistics on the way.

    Args:
        sampler: its generator's BatchNorm buffers are changed.
        batch_size: of B.
        seed: of the latents, which differ from those of `generated` with this seed.
        samples: at least this many images, in whole batches.

    Source: Wu & Johnson 2021 (PreciseBN); with the population variance σ_B², so that one layer's pooled
    variance is that of all its inputs together [here].
    """
    layers = [layer for _, layer in _averaging_layers(sampler)]
    sums = {layer: torch.zeros(2, len(layer.running_mean), dtype=torch.float64) for layer in layers}
    values = dict.fromkeys(layers, 0)  # of a channel; a layer may be called twice in a pass, or never

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double() if inputs[0].device.type != "mps" else inputs[0].cpu().double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        sums[layer] += torch.stack([x.sum(axes), x.square().sum(axes)]).cpu()
        values[layer] += x.numel() // x.shape[1]

    draws = Draws(seed, 1)
    averaging = switched(*((layer, "training", True) for layer in layers))
    with averaging, hooked(layer.register_forward_pre_hook(collect) for layer in layers):
        for _ in range(-(-samples // batch_size)):
            sampler(draws, batch_size)
    for layer in (layer for layer in layers if values[layer]):
        mean, square = sums[layer] / values[layer]
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((square - mean.square()).clamp(min=0))


def _images(sampler: Sampler, count: int, batch_size: int, seed: int, whole: bool) -> Iterator[Tensor]:
    draws, watch = Draws(seed), RangeWatch(sampler.value_range)
    for number, start in enumerate(range(0, count, batch_size)):
        wanted = min(batch_size, count - start)
        torch.manual_seed(stream(seed, "batch", number).initial_seed())  # noise in layers: a function of the seed
        # A batch that is normalized by itself is drawn whole also where only a part of it is wanted.
        images = sampler(draws, batch_size if whole else wanted)[:wanted]
        watch.see(images)
        yield sampler.bytes(images)


def _set_mode(sampler: Sampler, batch: bool) -> None:
    """Evaluation mode, but for layers that average when `batch`; a function of a count keeps its own modes."""
    if not sampler.latent_shape:
        return
    for module in sampler.modules:
        module.eval()
    if batch:
        for _, layer in _averaging_layers(sampler):
            layer.train()


def _averaging_layers(sampler: Sampler) -> list[tuple[str, Any]]:
    """(name, layer) of all that keep running averages of their batches, torch's and ours, and of BatchNorm without."""
    return [
        (name, layer)
        for module in sampler.modules
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or layer._buffers.get("running_mean") is not None
    ]
