"""Small noise on the weights: at them, what the weights multiply by zero shows."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from gannorm.isolate import switched

NOISE = 0.01  # standard deviation, relative to the root mean square of a parameter, or of 1 where that is 0


def noised_weights(modules: Iterable[nn.Module], generator: torch.Generator) -> AbstractContextManager[None]:
    """Inside, every floating parameter of the modules has small Gaussian noise added.

    p + 0.01·s·ε, ε ~ N(0, 1) and s = rms(p), or 1 where all of p is 0. The parameters' own storage is not written.

    Args:
        modules: roots; a parameter that several share gets one noise.
        generator: draws the noise.

    Source: defined here.

    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> with noised_weights([layer], torch.Generator().manual_seed(0)):
    ...     bool(layer.weight.any())
    True
    >>> bool(layer.weight.any())
    False
    """
    parameters = {id(p): p for root in modules for p in root.parameters() if p.is_floating_point() and p.numel()}
    return switched(*((p, "data", _noised(p, generator)) for p in parameters.values()))


def _noised(p: Tensor, generator: torch.Generator) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be differentiated by
        noise = torch.randn(p.shape, generator=generator, device=generator.device).to(p)
        scale = p.detach().float().square().mean().sqrt().item() or 1.0
        return p.detach() + NOISE * scale * noise
