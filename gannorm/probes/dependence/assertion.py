"""An assertion for test suites: a network's output for a sample does not depend on its batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.probes.batch import Function, Output, batch_size_of, codes, default_generator, running, selecting
from gannorm.probes.dependence.coupled_layers import is_coupled, walk_through
from gannorm.probes.dependence.coupling_matrix import coupling_matrix, rows_without_own
from gannorm.probes.dependence.swap_test import SwapTest, compare_swaps, unrepeatable
from gannorm.probes.dependence.walk import LayerCoupling, own_code
from gannorm.probes.gradients import NoGradientError, UntestedGradientError, graph, sign_change, tolerance
from gannorm.probes.progress import Bar, progress
from gannorm.registry import choices

PASSES = 40  # forward passes at most; a large batch is then walked through with fewer swaps
ROWS = 64  # of a coupling matrix that the message may cost


class BatchCouplingError(AssertionError):
    """A network whose output or gradient for a sample depends on the other samples of its batch."""

    def __init__(self, message: str, layers: list[LayerCoupling], swap: SwapTest) -> None:
        super().__init__(message)
        self.layers = layers
        self.swap = swap


def assert_batch_invariant(
    f: Function,
    x: Any,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
    allow: Sequence[type[nn.Module] | str] = (),
    output: Output = None,
) -> None:
    """Raise unless every output and its gradient depend on their own sample alone, in the mode in which f is passed.

    It runs f at most 40 times, on batches of the size of `x`. A second test at weights with small noise finds layers
    that couple but whose effect these weights multiply by zero, as in a fresh network with zero-initialized branches.

    Args:
        f: (N, …) -> (N, …); a module, or a callable over modules.
        x: N ≥ 2 different samples: a tensor, or a tuple (positional arguments) or dict (keywords) of them. A gradient
            is tested where `x` holds floating-point values or embedded tokens; otherwise a warning says so.
        generator: chooses the swaps and draws the noise; by default a fresh one with seed 0.
        batch_dim: the dimension of the samples in every tensor of `x`.
        allow: module classes or qualified names: these layers and all inside them may couple, and nothing else.
        output: which of several outputs, see `selecting`.

    Raises:
        BatchCouplingError: names the first coupled layer and how strong it is; .layers holds all of them. Differences
            that shrink in float64 as rounding does are no coupling.
        UserError: fewer than two samples, samples that are all the same, values that are not finite, answers that
            differ from call to call on the same batch, several outputs, a name in `allow` that is no layer's.

    Source: defined here.

    >>> assert_batch_invariant(torch.nn.GroupNorm(2, 4), torch.randn(8, 4))
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    >>> assert_batch_invariant(net, torch.randn(8, 4), allow=(torch.nn.BatchNorm1d,))
    >>> assert_batch_invariant(net, torch.randn(8, 4))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    gannorm.probes.dependence.assertion.BatchCouplingError: ... the first coupled layer is '1' (BatchNorm1d)...

    """
    __tracebackhide__ = True  # pytest shows the line of the test and the message
    try:
        with progress("assert_batch_invariant", PASSES) as count:
            error = _coupling(selecting(f, output), x, default_generator(generator), batch_dim, tuple(allow), count)
    except UserError as refusal:
        raise refusal.with_traceback(None) from None
    if error is not None:
        raise error


def _coupling(
    f: Function,
    x: Any,
    generator: torch.Generator,
    batch_dim: int,
    allow: tuple[type[nn.Module] | str, ...],
    count: Bar,
) -> BatchCouplingError | None:
    n, last = batch_size_of(x, batch_dim), count.passes + PASSES
    swap = compare_swaps(f, x, generator, batch_dim, floors=False)
    if swap.verdict == "unrepeatable":
        raise UserError(f"the outputs must be repeatable to be compared, but {unrepeatable(swap)}")
    gradient = 0.0
    try:
        gradient = _gradient_coupling(f, x, generator, batch_dim)
    except UntestedGradientError as reason:
        warnings.warn(f"outputs were tested, and gradients were not: {reason}", UserWarning, stacklevel=4)
    except NoGradientError:
        pass  # no gradient, so no coupling of it
    visible = swap.verdict == "coupled" or gradient > 0
    exact = swap.bitwise_equal
    hidden = not visible and is_coupled(f, x, generator, batch_dim, exact=exact, passes=last - count.passes)
    if not visible and not hidden:
        return None
    # One pass is left for the names of what is allowed, and one for the coupling matrix of the message.
    passes = last - 2 - count.passes
    layers = walk_through(f, x, generator, batch_dim, passes=passes)
    forbidden = _without_allowed(f, x, layers, allow)
    if layers and not forbidden:
        return None
    if hidden:
        what = (
            "the effect is multiplied by zero at these weights, but not with small noise on them, as after a training "
            "step"
        )
    else:
        what = (
            f"with the other samples of {n} swapped, outputs change by up to {swap.max_change:.3g}, and with their "
            f"signs flipped, gradients by {gradient:.3g} of their size"
        )
    message = f"the output for a sample must not depend on its batch: {what}; {_culprit(forbidden)}"
    return BatchCouplingError(message + _ignored(f, x, gradient, batch_dim), forbidden, swap)


def gradient_coupling(f: Function, x: Any, generator: torch.Generator, batch_dim: int = 0) -> float:
    """`sign_change` of f as a whole, 0.0 where it is within rounding or where nothing can be differentiated."""
    try:
        return _gradient_coupling(f, x, generator, batch_dim)
    except NoGradientError:
        return 0.0


def _gradient_coupling(f: Function, x: Any, generator: torch.Generator, batch_dim: int) -> float:
    with graph(f, x, batch_dim) as g:
        change = sign_change(g.pull_back, codes(len(g), generator))
        return change if change > tolerance(g.outputs.dtype) else 0.0


def _without_allowed(
    f: Function, x: Any, layers: list[LayerCoupling], allow: tuple[type[nn.Module] | str, ...]
) -> list[LayerCoupling]:
    """The layers that are neither allowed nor inside of one that is."""
    if not allow:
        return layers
    wrong = [entry for entry in allow if not isinstance(entry, str | type)]
    if wrong:
        raise UserError(f"`allow` must hold module classes or qualified names: got {wrong[0]!r:.80}.")
    with running(f, x) as run:
        if any(layer.name not in _names(run.roots) for layer in layers):
            run(x)  # one call, so that the others are known
        names = _names(run.roots)
    for name in (entry for entry in allow if isinstance(entry, str) and entry not in names):
        raise UserError(f"`allow` must name layers: got {name!r}; {choices(name, list(names))}")
    classes = tuple(entry for entry in allow if isinstance(entry, type))
    allowed = {name for name, module in names.items() if name in allow or isinstance(module, classes)}
    return [layer for layer in layers if not any(_is_inside(layer.name, name) for name in allowed)]


def _names(roots: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {f"{prefix}.{name}".strip("."): m for prefix, root in roots.items() for name, m in root.named_modules()}


def _is_inside(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.") or not outer


def _culprit(layers: list[LayerCoupling]) -> str:
    if not layers:
        return "no single layer was found that does it."
    first = layers[0]
    names = [repr(layer.name) if layer.name else own_code(layer.kind) for layer in layers]
    others = ", ".join(names[1:])
    return (
        f"the first coupled layer is {names[0]} ({first.kind}), its outputs by {first.forward:.3g} and its gradients "
        f"by {first.gradient:.3g} of their size" + (f"; then {others}." if others else ".")
    )


def _ignored(f: Function, x: Any, gradient: float, batch_dim: int) -> str:
    """A sentence where logits do not depend on their own sample."""
    if not gradient or batch_size_of(x, batch_dim) > ROWS:
        return ""
    rows = rows_without_own(coupling_matrix(f, x, batch_dim))
    if not rows:
        return ""
    listed = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
    return (
        f" The logits of samples {listed} do not depend on their own sample: "
        "see whether a statistic of a group is tiled in another order than the samples."
    )
