"""One forward pass, many derivatives: the graph from a batch of inputs to one number per sample."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import hooked, modules_in
from gannorm.probes.batch import Function, batch_first, batch_size_of, map_tensors, running, scalars, take, tensors


class NoGradientError(UserError):
    """The outputs do not depend on the inputs by a differentiable path."""


class Graph:
    """The N numbers f_i and the tensors x_j that they are differentiated by."""

    def __init__(self, outputs: Tensor, leaves: list[Tensor], batch_dim: int) -> None:
        self.outputs = outputs  # (N,)
        self.leaves = leaves
        self.batch_dim = batch_dim

    def __len__(self) -> int:
        return len(self.outputs)

    def pull_back(self, weights: Tensor) -> list[Tensor]:
        """∇_x Σ_i weights_i f_i, per leaf as (N, …) in float64 (float32 where the device has no float64).

        Raises:
            NoGradientError: no output depends on any input by a differentiable path.
        """
        weights = weights.to(self.outputs)
        grads: tuple[Tensor | None, ...] = (None,) * len(self.leaves)
        if self.outputs.requires_grad:
            grads = torch.autograd.grad(self.outputs, self.leaves, weights, retain_graph=True, allow_unused=True)
        if all(g is None for g in grads):
            raise NoGradientError(
                "the outputs must depend on the inputs by a differentiable path: no gradient arrived; "
                "remove no_grad, detach or argmax from f, or use swap_test, which needs no gradient."
            )
        wide = torch.float32 if self.outputs.device.type == "mps" else torch.float64
        return [
            (torch.zeros_like(leaf) if g is None else g).movedim(self.batch_dim, 0).to(wide)
            for leaf, g in zip(self.leaves, grads, strict=True)
        ]


@contextmanager
def graph(f: Function, x: Any, batch_dim: int = 0) -> Iterator[Graph]:
    """Run f once on `x` and yield the graph; f is left as it was.

    The derivative is by the floating tensors in `x` and, for integer tokens, by the outputs of the embeddings that
    read them.

    Raises:
        UserError: fewer than two samples, unequal batches, values that are not finite, no input to differentiate by.
    """
    n = batch_size_of(x, batch_dim)
    integers = any(not t.is_floating_point() for t in tensors(x))
    embedded: list[Tensor] = []
    with ExitStack() as stack:
        if integers:
            stack.enter_context(_embeddings_cut(f, embedded))
        run = stack.enter_context(running(f, x))
        by_tokens: list[bool] = []
        if integers:  # which embeddings read the batch, and not positions: those whose output grows with it
            with torch.no_grad():
                run(take(x, torch.arange(n + 1) % n, batch_dim))
            by_tokens = [batch_first(e, n + 1, batch_dim) is not None for e in embedded]
            embedded.clear()
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(eager())
        leaves: list[Tensor] = []
        outputs = scalars(run(map_tensors(lambda t: _leaf(t, leaves), x)), n, batch_dim)
        leaves += [e for e, keep in zip(embedded, by_tokens, strict=True) if keep]
        if not leaves:
            raise NoGradientError(
                "the input must hold floating-point values, or integer tokens read by an nn.Embedding: "
                f"got {', '.join(str(t.dtype) for t in tensors(x))}; convert it, or use swap_test."
            )
        yield Graph(outputs, leaves, batch_dim)


def sign_change(pull_back: Callable[[Tensor], list[Tensor]], bits: list[Tensor]) -> float:
    """How far the gradient by a sample moves when the sign of any other output flips, relative to its largest size.

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
    """The relative change that nondeterministic or reordered kernels may cause where there should be none."""
    return 16 * torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled modules uncompiled: a compiled graph can be neither differentiated twice nor hooked."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _leaf(t: Tensor, leaves: list[Tensor]) -> Tensor:
    if not t.is_floating_point():
        return t.clone()
    leaves.append(t.detach().clone().requires_grad_())
    return leaves[-1].clone()  # the network may begin with an operation in place, which a leaf refuses


def _embeddings_cut(f: Function, embedded: list[Tensor]) -> AbstractContextManager[None]:
    """Make the output of every embedding a leaf, and collect it."""

    def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(torch.is_grad_enabled()))
        return embedded[-1].clone()

    embeddings = {m for root in modules_in(f).values() for m in root.modules() if isinstance(m, nn.Embedding)}
    return hooked(m.register_forward_hook(cut) for m in embeddings)
