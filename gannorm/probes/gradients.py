"""One forward pass, many derivatives: the graph from a batch of inputs to one number per sample."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError, out_of_memory, printable
from gannorm.isolate import hooked
from gannorm.probes.batch import (
    Function,
    Output,
    Run,
    batch_size_of,
    map_tensors,
    running,
    scalars,
    selecting,
    take,
    tensors,
)
from gannorm.probes.layouts import Layout, candidates


class NoGradientError(UserError):
    """The outputs do not depend on the inputs by a differentiable path."""


class UntestedGradientError(NoGradientError):
    """There may be a gradient, but it cannot be computed here."""


class Graph:
    """The N numbers f_i and the tensors x_j that they are differentiated by."""

    def __init__(self, outputs: Tensor, leaves: list[tuple[Tensor, Layout]]) -> None:
        self.outputs = outputs  # (N,)
        self.leaves = [leaf for leaf, _ in leaves]
        self.layouts = [layout for _, layout in leaves]

    def __len__(self) -> int:
        return len(self.outputs)

    def pull_back(self, weights: Tensor) -> list[Tensor]:
        """∇_x Σ_i weights_i f_i, per leaf as (N, …) in float64 (float32 where the device has no float64).

        Raises:
            NoGradientError: no output depends on any input by a differentiable path.
            UntestedGradientError: the network does not let itself be differentiated so.
        """
        weights = weights.to(self.outputs)
        grads: tuple[Tensor | None, ...] = (None,) * len(self.leaves)
        if self.outputs.requires_grad:
            try:
                grads = torch.autograd.grad(self.outputs, self.leaves, weights, retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                raise UntestedGradientError(untested(error)) from error
        if all(g is None for g in grads):
            raise NoGradientError(
                "the outputs must depend on the inputs by a differentiable path: no gradient arrived; "
                "remove no_grad, detach or argmax from f, or use swap_test, which needs no gradient."
            )
        wide = torch.float32 if self.outputs.device.type == "mps" else torch.float64
        filled = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(self.leaves, grads, strict=True)]
        real = [torch.view_as_real(g) if g.is_complex() else g for g in filled]
        return [layout.view(g, len(self)).to(wide) for g, layout in zip(real, self.layouts, strict=True)]


@contextmanager
def graph(f: Function, x: Any, batch_dim: int = 0, output: Output = None) -> Iterator[Graph]:
    """Run f once on `x` and yield the graph; f is left unchanged.

    The derivative is by the floating tensors in `x` and, for integer tokens, by the outputs of the embeddings that
    read them.

    Raises:
        UserError: fewer than two samples, unequal batches, values that are not finite, no input to differentiate by.
    """
    f = selecting(f, output)
    n = batch_size_of(x, batch_dim)
    with ExitStack() as stack:
        run = stack.enter_context(running(f, x))
        embedded: list[Tensor] = []
        by_tokens: list[Layout | None] = []
        if any(not _has_gradient(t) for t in tensors(x)):
            by_tokens = _layouts_of_embeddings(run, x, n, batch_dim, embedded)
            stack.enter_context(_embeddings_cut(run, embedded))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(eager())
        inputs: list[Tensor] = []
        outputs = scalars(run(map_tensors(lambda t: as_leaf(t, inputs), x)), n, batch_dim)
        leaves = [(leaf, Layout("plain", batch_dim)) for leaf in inputs]
        leaves += [(e, layout) for e, layout in zip(embedded, by_tokens, strict=False) if layout is not None]
        if not leaves:
            raise UntestedGradientError(
                "the input must hold floating-point values, or integer tokens read by an nn.Embedding: "
                f"got {', '.join(str(t.dtype) for t in tensors(x))}; convert it, or use swap_test."
            )
        yield Graph(outputs, leaves)


def untested(error: RuntimeError) -> str:
    """The reason why a network could not be differentiated, and the remedy."""
    if "use_reentrant" in str(error):
        return "reentrant checkpointing refuses it; pass use_reentrant=False to torch.utils.checkpoint."
    return f"its backward pass failed: {printable(str(error))[:160]}"


def sign_change(pull_back: Callable[[Tensor], list[Tensor]], bits: list[Tensor]) -> float:
    """The largest change of a sample's gradient when the signs of other outputs flip, relative to its largest entry.

    max_{k,j} ‖h_j^k − h_j^0‖ / max_{k,j} ‖h_j^k‖ with h_j = v_j·∂(Σ_i v_i f_i)/∂x_j, v^0 = 1 and v^k = −1 where bit k
    of the sample is set (`codes`). As any two samples differ in some bit, every coupled pair is seen, which random
    signs could miss. 0 means no gradient coupling.
    """
    first: Tensor | None = None
    change = size = 0.0
    for bit in [torch.zeros_like(bits[0]), *bits]:
        signs = 1.0 - 2.0 * bit
        n = len(signs)
        parts = [g.reshape(n, -1) * signs.to(g)[:, None] for g in pull_back(signs)]
        if not parts:
            return 0.0
        h = torch.cat(parts, dim=1)
        first = h if first is None else first
        change = max(change, (h - first).norm(dim=1).max().item())
        size = max(size, h.norm(dim=1).max().item())
    return change / size if size else 0.0


def tolerance(dtype: torch.dtype) -> float:
    """The relative change that is allowed for nondeterministic or reordered kernels."""
    return 16 * torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled modules uncompiled: a compiled graph can be neither differentiated twice nor hooked."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _has_gradient(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def as_leaf(t: Tensor, leaves: list[Tensor]) -> Tensor:
    """A copy of `t` to be differentiated by, the leaf of which is added to `leaves`; integers are copied alone."""
    if not _has_gradient(t):
        return t.clone()
    leaves.append(t.detach().clone().requires_grad_())
    return leaves[-1].clone()  # the network may begin with an operation in place, which a leaf refuses


def _layouts_of_embeddings(run: Run, x: Any, n: int, batch_dim: int, embedded: list[Tensor]) -> list[Layout | None]:
    """How the output of each call of an embedding holds the samples; None where it reads positions, say.

    With the samples in another order a table that reads them has its rows in that order, and any other stays as it is.
    """
    order = torch.arange(n).roll(1)
    with torch.no_grad():
        run(x)  # one call, so that all embeddings are known
        with _embeddings_cut(run, embedded):
            run(x)
            calls = list(embedded)
            embedded.clear()
            run(take(x, order, batch_dim))
    moved = list(embedded)
    embedded.clear()
    if len(moved) != len(calls):
        return []

    def layout_of(e: Tensor, other: Tensor) -> Layout | None:
        if e.shape != other.shape or torch.equal(e, other):
            return None
        where = order.to(e.device)
        fitting = (k for k in candidates(e, n, batch_dim) if torch.equal(k.view(e, n)[where], k.view(other, n)))
        return next(fitting, None)

    return [layout_of(e, other) for e, other in zip(calls, moved, strict=True)]


def _embeddings_cut(run: Run, embedded: list[Tensor]) -> AbstractContextManager[None]:
    """Make the output of every embedding a leaf, and collect it."""

    def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(torch.is_grad_enabled()))
        return embedded[-1].clone()

    embeddings = {
        m: None for root in run.roots.values() for m in root.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }
    return hooked(m.register_forward_hook(cut) for m in embeddings)
