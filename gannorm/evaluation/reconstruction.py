"""How near a generator comes to images that it has not seen: the reconstruction score.

FID compares two distributions of features, and a generator that omits images can still match. This score measures the
distance to each held-out image separately, in pixels, without an extractor.

    N images, C channels, H W pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gannorm.arithmetic import undisturbed
from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.evaluation.generators import sampler
from gannorm.evaluation.sampling import check_generator
from gannorm.isolate import isolated


@dataclass(frozen=True)
class Reconstruction:
    """The score, its standard error, and the error before the search.

    Attributes:
        error: mean over images of the smallest squared error per pixel, images in [−1, 1]; 0: every image is reached.
        standard_error: of that mean, over images.
        error_at_start: the same at z = 0; a search that does not go well below it has found nothing.
        errors: (N,) of each image.
        steps: of the search.
    """

    error: float
    standard_error: float
    error_at_start: float
    errors: Tensor
    steps: int


def reconstruction_score(
    generator: nn.Module,
    dataset: Images,
    *,
    images: int = 256,
    steps: int = 500,
    batch_size: int = 64,
    seed: int = 0,
    latent_dim: int | None = None,
    quiet: bool | None = None,
) -> Reconstruction:
    """Mean over held-out x of min_z ‖G(z) − x‖² / (C·H·W), z sought by RMSprop (rate 0.01) from 0.

    The generator runs in evaluation mode, where no image of a batch bears on another, so each image is sought alone.

    Args:
        generator: (N, Z) → (N, C, H, W) in [−1, 1]; left bit for bit as it was.
        dataset: held-out images.
        images: how many of them, drawn by `seed`.
        steps: of RMSprop [the number is ours]; the best point on the way counts.
        batch_size: images sought at once.
        seed: of the draw.
        latent_dim: Z; by default the generator's attribute of this name.
        quiet: hide the progress bar; None: show it on a terminal alone.

    Returns:
        The score; 0 where every image lies in the generator's range.

    Raises:
        UserError: fewer images than asked for, or a generator that does not fit them.

    Source: Xiang & Li 2017 (the error and the search).
    """
    if steps < 1 or images < 2 or batch_size < 1:
        raise UserError(
            f"steps and batch_size must be at least 1 and images at least 2: got {steps}, {batch_size}, {images}."
        )
    drawn = sampler(generator, latent_dim=latent_dim)
    check_generator(drawn, dataset, statistics="running")
    like = next(generator.parameters(), torch.empty(0))
    targets = dataset.take(images, seed).to(like)  # (N, C, H, W)
    starts, bests = [], []
    with (
        undisturbed(),
        isolated(generator),
        torch.enable_grad(),
        tqdm(total=images * steps, desc="reconstruction", unit="img·step", leave=False, disable=quiet) as bar,
    ):
        generator.eval()
        for batch in targets.split(batch_size):
            start, best = _search(generator, batch, drawn.latent_shape, steps, bar)
            starts.append(start)
            bests.append(best)
    errors = torch.cat(bests).double().cpu()
    return Reconstruction(
        error=errors.mean().item(),
        standard_error=(errors.std() / images**0.5).item(),
        error_at_start=torch.cat(starts).double().mean().item(),
        errors=errors,
        steps=steps,
    )


def _search(
    generator: nn.Module, target: Tensor, latent_shape: tuple[int, ...], steps: int, bar: tqdm
) -> tuple[Tensor, Tensor]:
    """(N,) squared error per pixel at z = 0 and at the best z on the way."""
    latent = target.new_zeros(len(target), *latent_shape).requires_grad_()
    optimizer = torch.optim.RMSprop([latent], lr=0.01)
    start = best = torch.full_like(target[:, 0, 0, 0], torch.inf)
    for step in range(steps + 1):
        errors = (generator(latent) - target).square().flatten(1).mean(1)  # (N,)
        best = torch.minimum(best, errors.detach())
        if step == 0:
            start = best
        if step < steps:
            (latent.grad,) = torch.autograd.grad(errors.sum(), latent)  # not backward(): the generator gets no gradient
            optimizer.step()
            bar.update(len(target))
    return start, best
