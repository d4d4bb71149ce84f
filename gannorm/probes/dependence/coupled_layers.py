"""Which layer mixes the batch? Every module of a network tested in place, in one walk, on the inputs that it sees.

Forward: the network runs on a batch and again with some samples swapped (see `swap`). At every module's inputs and
outputs the kept samples are compared with the first run; where they differ, the code since the last comparison has
coupled them. It is blamed, the kept samples are put back to what they were, and the walk goes on, so that one coupled
layer does not hide another. Backward: the graph is cut at the same places, and each piece is differentiated alone.

A piece is a module without children, or a module's own code between its children: a custom layer, a functional call or
a reshape needs no class of its own to be found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError
from torch.utils.hooks import RemovableHandle

from gannorm.isolate import hooked, modules_in
from gannorm.probes.batch import (
    Function,
    Run,
    batch_size_of,
    codes,
    default_generator,
    map_tensors,
    project,
    running,
    take,
)
from gannorm.probes.dependence.swap_test import plan_swaps
from gannorm.probes.gradients import eager, sign_change, tolerance


@dataclass(frozen=True)
class LayerCoupling:
    """One module that mixes the batch, and how strongly; 0 means not in that direction."""

    name: str  # its qualified name; "" is f's own code
    kind: str  # its class
    forward: float  # largest change of an output when only other samples change, relative to the largest output
    gradient: float  # largest change of a sample's gradient when other outputs change sign, relative (`sign_change`)


def coupled_layers(f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0) -> list[str]:
    """The qualified names of the modules that mix the batch, in forward order.

    Args:
        f: a module or a callable over modules (then a name begins with the variable that holds the module).
        x: N ≥ 2 samples.
        generator: chooses the swaps; by default a fresh one with seed 0.
        batch_dim: the dimension of the samples; where a tensor has other than N entries there, dimension 0 and foldings
            of the batch with another dimension, (N·T, …) or (T·N, …), are recognized.

    Returns:
        Names for `f.get_submodule`; "" stands for code in f itself, outside its children. Empty: none was found.

    Raises:
        UserError: fewer than two samples, values that are not finite.

    Source: defined here.

    >>> coupled_layers(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(9, 3))
    ['1']
    """
    return [layer.name for layer in locate_coupling(f, x, generator, batch_dim)]


def locate_coupling(
    f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0
) -> list[LayerCoupling]:
    """`coupled_layers` with the strength of each.

    The cost is 2 + 2b forward and 1 + b backward passes, b = ⌈log₂N⌉, so that every coupled pair of samples is seen.
    Under activation checkpointing a layer that couples only the gradient is not found.
    """
    n = batch_size_of(x, batch_dim)
    generator = default_generator(generator)
    walk = _Walk(f, codes(n, generator), batch_dim)
    with eager(), hooked(walk.hooks()), running(f, x) as run:
        with torch.no_grad():
            walk.go(run, x, walk.record)
            for kept, source in plan_swaps(walk.codes, generator):
                walk.kept = kept
                walk.go(run, take(x, source, batch_dim), walk.compare)
        # Activation checkpointing runs the layers again in backward, out of turn: then only the forward walk counts.
        with suppress(CheckpointError), torch.inference_mode(False), torch.enable_grad():
            walk.go(run, map_tensors(torch.clone, x), walk.differentiate)
    return [layer for _, layer in sorted(walk.found.values(), key=lambda found: found[0])]


Layout = tuple[str, int]  # how a tensor holds the batch, and in which dimension; see `_layouts`


@dataclass
class _Source:
    """Where the graph was cut: a leaf, and its copy that the code reads in its place."""

    leaf: Tensor
    copy: Tensor
    layout: Layout

    def is_untouched(self, t: Tensor) -> bool:
        """Whether `t` is the copy itself, passed on as it is (an operation in place would raise its version)."""
        return t is self.copy and t._version == 0


@dataclass
class _Frame:
    """A module call in progress: its name, and the tensors that its own code can read."""

    name: str
    sources: list[_Source] = field(default_factory=list)  # in the backward walk
    layouts: set[Layout] = field(default_factory=set)  # of its inputs, where they hold the batch cleanly


class _Walk:
    """Runs of one network, with a visit at every module's inputs and outputs; visits are numbered in order."""

    def __init__(self, f: Function, codes: list[Tensor], batch_dim: int) -> None:
        self.codes, self.n, self.batch_dim = codes, len(codes[0]), batch_dim
        self.modules = [
            (f"{prefix}.{name}".strip(".").replace("_orig_mod.", "").replace("_orig_mod", ""), module)
            for prefix, root in modules_in(f).items()
            for name, module in root.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        self.kinds = {"": "function"} | {name: type(m).__name__ for name, m in self.modules}
        self.base: list[list[Tensor]] = []  # what was seen at each visit of the first run
        self.layouts: dict[tuple[int, int], Layout] = {}  # of each tensor (visit, place) that moves with the batch
        self.found: dict[str, tuple[int, LayerCoupling]] = {}
        self.kept = torch.arange(self.n)
        self.stack: list[_Frame] = []

    def go(self, run: Run, x: Any, visit: Callable[..., Tensor]) -> None:
        self.visit, self.visits = visit, 0
        self.stack = [_Frame("")]
        x = self._visit(None, self.stack[0], x)
        self._visit(self.stack[0], None, run(x))

    def hooks(self) -> Iterator[RemovableHandle]:
        """Visits to the inputs and outputs of every module call."""
        for name, module in self.modules:
            yield module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
            yield module.register_forward_hook(self._leave)

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self.stack.append(_Frame(name))
        return self._visit(self.stack[-2], self.stack[-1], (args, kwargs))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        frame = self.stack.pop()
        return self._visit(frame, self.stack[-1], output)

    def _visit(self, owner: _Frame | None, reader: _Frame | None, values: Any) -> Any:
        number, places = self.visits, itertools.count()
        self.visits += 1
        if self.visit == self.record:
            self.base.append([])
        return map_tensors(lambda t: self.visit(t, number, next(places), owner, reader), values)

    # -- the three kinds of visit: to a tensor made by `owner`, about to be read by `reader` --------------------------

    def record(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Keep what the first run saw."""
        self.base[number].append(t.detach().clone())
        return t

    def compare(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Blame `owner` if the kept samples differ from the first run's, and put them back."""
        base = self._base(number, place, t)
        if base is None or torch.equal(t, base):
            return t  # a weight or a position: it does not move with the batch
        kept = self.kept.to(t.device)
        layouts = _layouts(t, self.n, self.batch_dim)
        difference, size = _difference(t, base)
        changes = [_largest(_view(difference, k, self.n), kept) / size for k in layouts]
        layout = next((k for k, change in zip(layouts, changes, strict=True) if change <= tolerance(t.dtype)), None)
        if layout is None and owner is not None:  # coupled, if we know how it should be read
            layout = layouts[0] if len(layouts) == 1 else next((k for k in layouts if k in owner.layouts), None)
            if layout is not None:
                self._blame(owner, number, forward=changes[layouts.index(layout)])
                t = t.clone()
                _view(t, layout, self.n)[kept] = _view(base, layout, self.n)[kept]
        if layout is not None:
            self.layouts[number, place] = layout
            if reader is not None:
                reader.layouts.add(layout)
        return t

    def differentiate(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Blame `owner` if its own code couples the gradient; cut the graph here."""
        layout = self.layouts.get((number, place))
        if layout is None or not t.is_floating_point() or self._base(number, place, t) is None:
            return t
        if owner is not None and owner.sources:
            passed_on = any(source.is_untouched(t) for source in owner.sources)
            change = 0.0 if passed_on else _gradient_change(t, layout, owner.sources, self.codes)
            if change > tolerance(t.dtype):
                self._blame(owner, number, gradient=change)
        elif owner is not None:
            return t  # its inputs could not be read, so it belongs to the piece around it
        leaf = t.detach().clone().requires_grad_()
        copy = leaf.clone()
        if reader is not None:
            reader.sources.append(_Source(leaf, copy, layout))
        return copy

    def _base(self, number: int, place: int, t: Tensor) -> Tensor | None:
        """The first run's tensor, where the network took the same path."""
        if number < len(self.base) and place < len(self.base[number]):
            base = self.base[number][place]
            return base if base.shape == t.shape else None
        return None

    def _blame(self, owner: _Frame, number: int, forward: float = 0.0, gradient: float = 0.0) -> None:
        number, known = self.found.get(
            owner.name, (number, LayerCoupling(owner.name, self.kinds[owner.name], 0.0, 0.0))
        )
        known = replace(known, forward=max(known.forward, forward), gradient=max(known.gradient, gradient))
        self.found[owner.name] = number, known


def _layouts(t: Tensor, n: int, batch_dim: int) -> list[Layout]:
    """The ways to view `t` as (N, …): plainly; else with the batch folded into a dimension, or in another dimension."""
    dims = [dim for dim in dict.fromkeys((batch_dim, 0)) if dim < t.dim()]
    for dim in dims:
        if t.shape[dim] == n:
            return [("plain", dim)]
    folded = [(kind, dim) for dim in dims if t.shape[dim] and t.shape[dim] % n == 0 for kind in ("major", "minor")]
    return folded + [("plain", dim) for dim in range(1, t.dim()) if t.shape[dim] == n]


def _view(t: Tensor, layout: Layout, n: int) -> Tensor:
    """`t` as (N, …)."""
    kind, dim = layout
    if kind == "major":
        return t.unflatten(dim, (n, -1)).movedim(dim, 0)
    if kind == "minor":
        return t.unflatten(dim, (-1, n)).movedim(dim + 1, 0)
    return t.movedim(dim, 0)


def _difference(t: Tensor, base: Tensor) -> tuple[Tensor, float]:
    """t − base, and the largest |base|."""
    if not t.is_floating_point():
        t, base = t.double(), base.double()
    difference = t - base
    if not torch.isfinite(difference.sum()):  # equal infinities (masks) differ by 0, not by NaN
        difference = torch.where(t == base, 0.0, difference)
    return difference, max(float(base.max()), -float(base.min()), torch.finfo(torch.float32).tiny)


def _largest(difference: Tensor, kept: Tensor) -> float:
    """The largest |difference| in the rows `kept`; abs() would take ten times as long as both extremes."""
    rows = difference.reshape(len(difference), -1)
    return max(rows.amax(1)[kept].max().item(), -rows.amin(1)[kept].min().item())


def _gradient_change(t: Tensor, layout: Layout, sources: list[_Source], bits: list[Tensor]) -> float:
    """`sign_change` of one number per sample of `t` with respect to the sources that it depends on."""
    n = len(bits[0])
    numbers = project(_view(t, layout, n).reshape(n, -1))
    if not numbers.requires_grad:
        return 0.0
    leaves = [source.leaf for source in sources]

    def pull_back(signs: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad(numbers, leaves, signs.to(numbers), retain_graph=True, allow_unused=True)
        return [_view(g, source.layout, n) for g, source in zip(grads, sources, strict=True) if g is not None]

    return sign_change(pull_back, bits)
