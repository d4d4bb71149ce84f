"""Hidden coupling: a layer mixes the batch, but at these weights its effect is multiplied by 0.

With a zero-initialized last layer of a branch, a normalizer with γ = 0 or a zero head, no logit depends on the batch
now, but it does after the first training step. So the test for coupling is repeated at weights with small added noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import isolated, modules_in, switched
from gannorm.probes.batch import Function, batch_size_of, codes, per_sample, running, take, tensors
from gannorm.probes.dependence.coupled_layers import locate_coupling
from gannorm.probes.dependence.swap_test import SwapTest, plan_swaps, swap_test
from gannorm.probes.gradients import graph, sign_change, tolerance

CLEAR = 1e-4  # of the largest output: a change above this is not rounding, whatever the precision

NOISE = 0.01  # standard deviation, relative to the root mean square of a parameter, or of 1 where that is 0


def hidden_coupling(
    f: Function, x: Any, gradient_coupled: bool, generator: torch.Generator, batch_dim: int = 0
) -> tuple[str, ...]:
    """The layers that couple the batch at slightly noised weights, of an f whose logits depend on no other sample.

    Args:
        f, x, batch_dim: as for `coupled_layers`.
        gradient_coupled: whether f's gradients are known to be coupled at its own weights, and not news.
        generator: draws the noise and the swaps.

    Returns:
        Their names, "" for f's own code; empty where nothing is hidden, or where f does not run at such weights.

    Source: defined here.
    """
    roots = list(modules_in(f).values())
    if not any(p.is_floating_point() for root in roots for p in root.parameters()):
        return ()
    try:
        with isolated(f), noised_weights(roots, generator):
            forward = few_swaps(f, x, generator, batch_dim).verdict == "coupled"
            if not forward and (gradient_coupled or not few_signs(f, x, generator, batch_dim)):
                return ()
            return tuple(layer.name for layer in locate_coupling(f, x, generator, batch_dim)) or ("",)
    except UserError:  # outputs that are not finite at other weights
        return ()


def few_swaps(f: Function, x: Any, generator: torch.Generator, batch_dim: int = 0) -> SwapTest:
    """`swap_test` by two swaps: one half of the samples is changed, then the other. The floors are not measured.

    A pair of samples is missed where both are in one half; what couples many samples is seen. Where a change could be
    rounding or noise, the complete test is made.
    """
    n = batch_size_of(x, batch_dim)
    plan = plan_swaps(codes(n, generator)[:1], generator)
    if all(map(torch.equal, tensors(x), tensors(take(x, plan[0][1], batch_dim)))):
        return swap_test(f, x, generator, batch_dim)
    with running(f, x) as run, torch.no_grad():
        base = per_sample(run(x), n, batch_dim)
        change = 0.0
        for kept, source in plan:
            other = per_sample(run(take(x, source, batch_dim)), n, batch_dim)
            change = max(change, _largest(base, other, kept))
        if not change:
            return SwapTest(True, 0.0, None, None, None, None, noise=0.0)
        repeats = _largest(base, per_sample(run(x), n, batch_dim), torch.arange(n)) == 0
    if not repeats or change <= CLEAR * base.abs().max().item():
        return swap_test(f, x, generator, batch_dim)
    return SwapTest(False, change, None, None, None, None, noise=0.0)


def few_signs(f: Function, x: Any, generator: torch.Generator, batch_dim: int = 0) -> float:
    """`sign_change` with the signs of one half of the outputs flipped; 0.0 within rounding."""
    with graph(f, x, batch_dim) as g:
        change = sign_change(g.pull_back, codes(len(g), generator)[:1])
        return change if change > tolerance(g.outputs.dtype) else 0.0


def _largest(first: Tensor, second: Tensor, kept: Tensor) -> float:
    kept = kept.to(first.device)
    return (first[kept] - second[kept]).abs().max().item()


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
    noise = torch.randn(p.shape, generator=generator, device=generator.device).to(p)
    scale = p.detach().float().square().mean().sqrt().item() or 1.0
    return p.detach() + NOISE * scale * noise
