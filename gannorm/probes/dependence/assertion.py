"""A test for other people's test suites: this network's answer for a sample does not depend on its batch."""

from __future__ import annotations

from typing import Any

import torch

from gannorm.errors import UserError
from gannorm.probes.batch import Function, batch_size_of, codes, default_generator
from gannorm.probes.dependence.coupled_layers import LayerCoupling, locate_coupling
from gannorm.probes.dependence.swap_test import SwapTest, swap_test, unrepeatable
from gannorm.probes.gradients import NoGradientError, graph, sign_change, tolerance


class BatchCouplingError(AssertionError):
    """A network whose output or gradient for a sample depends on the other samples of its batch."""

    def __init__(self, message: str, layers: list[LayerCoupling], swap: SwapTest) -> None:
        super().__init__(message)
        self.layers = layers
        self.swap = swap


def assert_batch_invariant(f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0) -> None:
    """Raise unless every output and its gradient depend on their own sample alone, in the mode in which f is passed.

    Args:
        f: (N, …) -> any output with a batch; a module, or a callable over modules.
        x: N ≥ 2 different samples; a gradient is tested where `x` holds floating-point values or embedded tokens.
        generator: chooses the swaps; by default a fresh one with seed 0.
        batch_dim: the dimension of the samples in every tensor of `x`.

    Raises:
        BatchCouplingError: names the first coupled layer and how strong it is; .layers holds all of them. Differences
            that shrink in float64 as rounding does are no coupling.
        UserError: fewer than two samples, samples that are all the same, values that are not finite, answers that
            differ from call to call on the same batch.

    Source: defined here.

    >>> assert_batch_invariant(torch.nn.GroupNorm(2, 4), torch.randn(8, 4))
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    >>> assert_batch_invariant(net, torch.randn(8, 4))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    gannorm.probes.dependence.assertion.BatchCouplingError: ... the first coupled layer is '1' (BatchNorm1d)...

    """
    swap = swap_test(f, x, generator, batch_dim)
    if swap.verdict == "unrepeatable":
        raise UserError(f"the answers must repeat themselves to be compared, but {unrepeatable(swap)}")
    gradient = gradient_coupling(f, x, default_generator(generator), batch_dim)
    if swap.verdict != "coupled" and not gradient:
        return
    layers = locate_coupling(f, x, generator, batch_dim)
    n = batch_size_of(x, batch_dim)
    raise BatchCouplingError(
        f"the answer for a sample must not depend on its batch: with the other samples of {n} swapped, outputs change "
        f"by up to {swap.max_change:.3g}, and with their signs flipped, gradients by {gradient:.3g} of their size; "
        f"{_culprit(layers)}",
        layers,
        swap,
    )


def gradient_coupling(f: Function, x: Any, generator: torch.Generator, batch_dim: int = 0) -> float:
    """`sign_change` of f as a whole, 0.0 where it is within rounding or where nothing can be differentiated."""
    try:
        with graph(f, x, batch_dim) as g:
            change = sign_change(g.pull_back, codes(len(g), generator))
            return change if change > tolerance(g.outputs.dtype) else 0.0
    except NoGradientError:
        return 0.0


def _culprit(layers: list[LayerCoupling]) -> str:
    if not layers:
        return "no single layer was found that does it."
    first = layers[0]
    names = [repr(layer.name) if layer.name else "the network's own code, outside its layers" for layer in layers]
    others = ", ".join(names[1:])
    return (
        f"the first coupled layer is {names[0]} ({first.kind}), its outputs by {first.forward:.3g} and its gradients "
        f"by {first.gradient:.3g} of their size" + (f"; then {others}." if others else ".")
    )
