"""Which layer mixes the batch? Every module of a network tested in place, in one walk, on the inputs that it sees.

Forward: the network runs on a batch and again with some samples swapped (see `swap`). At every module's inputs and
outputs the kept samples are compared with the first run; where they differ, the code since the last comparison has
coupled them. It is blamed, the kept samples are restored, and the walk continues, so that one coupled layer does not
hide another. Backward: the graph is cut at the same places, and each piece is differentiated alone.

A piece is a module without children, or a module's own code between its children: a custom layer, a functional call or
a reshape needs no class of its own. The layout of the samples in a tensor is detected from its changes (`layouts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointError

from gannorm.isolate import hooked
from gannorm.probes.batch import (
    Function,
    Output,
    Run,
    batch_size_of,
    codes,
    default_generator,
    map_tensors,
    per_sample,
    running,
    selecting,
    take,
)
from gannorm.probes.dependence.swap_test import plan_swaps
from gannorm.probes.dependence.walk import LayerCoupling, NotDifferentiable, Walk
from gannorm.probes.gradients import NoGradientError, eager, graph, sign_change, tolerance
from gannorm.probes.layouts import Change, Layout
from gannorm.probes.progress import progress


def coupled_layers(
    f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0, output: Output = None
) -> list[str]:
    """The qualified names of the modules that mix the batch, in forward order.

    Args:
        f: a module or a callable over modules (then a name begins with the variable that holds the module; one that no
            variable holds is called by its class).
        x: N ≥ 2 samples.
        generator: chooses the swaps; by default a fresh one with seed 0.
        batch_dim: the dimension of the samples in the input. Inside, it is found by what moves with which sample.
        output: which of several outputs holds the logits, see `selecting`.

    Returns:
        Names for `f.get_submodule`; "" stands for code in f itself, outside its children. Empty: none was found.

    Raises:
        UserError: fewer than two samples, values that are not finite, answers that differ from call to call.

    Source: defined here.

    >>> coupled_layers(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(9, 3))
    ['1']
    """
    return [layer.name for layer in locate_coupling(f, x, generator, batch_dim, output)]


def locate_coupling(
    f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0, output: Output = None
) -> list[LayerCoupling]:
    """`coupled_layers` with the strength of each.

    The cost is 6 + 4b forward passes and one a coupled layer, and 3 + 2b backward passes, at most, b = ⌈log₂N⌉, so that
    every coupled pair of samples is seen; 2b more where a layer holds the samples in no dimension, as of packed
    sequences. A layer is named only if the chosen output depends on it, and the network as a whole couples at weights
    with small noise: an effect that is multiplied by zero is found, and what is mixed and sorted back again, as by a
    mixture of experts, is not. Under activation checkpointing a layer that couples only the gradient is not found.
    """
    f, generator = selecting(f, output), default_generator(generator)
    with progress("coupled_layers"):
        layers = walk_through(f, x, generator, batch_dim)
        return layers if layers and is_coupled(f, x, generator, batch_dim) else []


def is_coupled(
    f: Function,
    x: Any,
    generator: torch.Generator,
    batch_dim: int = 0,
    exact: bool = False,
    passes: int | None = None,
) -> bool:
    """Whether f as a whole mixes the batch, forward or in the gradient, at weights with small noise.

    With `exact` any change of an output counts: f is known to be free of rounding that depends on other samples. At
    most `passes` forward passes are made, at the cost of fewer swaps.
    """
    n = batch_size_of(x, batch_dim)
    bits = codes(n, generator)
    with running(f, x) as run, torch.no_grad():
        run(x)  # one call, so that all modules are known
        with noised(run, generator):
            base = per_sample(run(x), n, batch_dim).cpu()
            plan = plan_swaps(bits, generator)
            for kept, source in plan if passes is None else plan[: max(passes - 3, 1)]:
                after = per_sample(run(take(x, source, batch_dim)), n, batch_dim).cpu()
                if base.shape != after.shape:
                    return True
                if torch.equal(base[kept], after[kept]):
                    continue
                if exact or Change(after, base, n).of_kept(Layout("plain", 0), kept) > tolerance(base.dtype):
                    return True
            with suppress(NoGradientError), graph(f, x, batch_dim) as g:
                return sign_change(g.pull_back, bits) > tolerance(g.outputs.dtype)
    return False


@contextmanager
def noised(run: Run, generator: torch.Generator) -> Iterator[None]:
    """Inside, the weights of the modules that have run have small noise."""
    from gannorm.probes.dependence.hidden_coupling import noised_weights  # which calls this file

    with noised_weights(run.roots.values(), generator):
        yield


def walk_through(
    f: Function,
    x: Any,
    generator: torch.Generator,
    batch_dim: int = 0,
    passes: int | None = None,
) -> list[LayerCoupling]:
    """The pieces of f that seem to couple, each tested in place, at weights with small noise: γ = 0 hides no layer.

    Args:
        f, x, generator, batch_dim: as for `coupled_layers`.
        passes: at most so many forward passes, at the cost of fewer swaps; then f is known to repeat its answers.
    """
    n = batch_size_of(x, batch_dim)
    bits = codes(n, generator)
    plan = plan_swaps(bits, generator)
    with eager(), running(f, x) as run, torch.no_grad(), ExitStack() as stack:
        per_sample(run(x), n, batch_dim)  # one call, so that all modules are known
        stack.enter_context(noised(run, generator))
        walk = Walk(run.roots, f, n, bits, batch_dim)
        stack.enter_context(hooked(walk.hooks()))
        walk.go(run, x, walk.record)
        if passes is None:
            walk.go(run, x, walk.require_repeated)
        else:
            plan = plan[: max(passes - 4, 1)]
        walk.swap(run, x, plan)
        if walk.learned_rows(plan) and (passes is None or passes >= 4 + 2 * len(plan)):
            walk.swap(run, x, plan)
        passes_left = None if passes is None else passes - 4 - len(plan)
        # Activation checkpointing runs the layers again in backward, out of turn: then only the forward walk counts.
        with suppress(CheckpointError, NotDifferentiable), torch.inference_mode(False), torch.enable_grad():
            walk.go(run, map_tensors(torch.clone, x), walk.differentiate)
        if walk.blamed and (passes_left is None or passes_left >= 0):
            walk.without_side_paths(run, x, plan, passes_left)
    return [layer for _, layer in sorted(walk.blamed.values(), key=lambda blamed: blamed[0])]
