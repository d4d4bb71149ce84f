"""The walk of `coupled_layers`: runs of one network, with a visit at every module's inputs and outputs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.checkpoint import CheckpointError
from torch.utils.hooks import RemovableHandle

from gannorm.errors import UserError, out_of_memory
from gannorm.probes.batch import (
    Function,
    Run,
    map_tensors,
    project,
    take,
)
from gannorm.probes.gradients import as_leaf, sign_change, tolerance
from gannorm.probes.layouts import Change, Layout, candidates, owners_of_rows


@dataclass(frozen=True)
class LayerCoupling:
    """One module that mixes the batch, and how strongly; 0 means not in that direction."""

    name: str  # its qualified name; "" is f's own code
    kind: str  # its class
    forward: float  # largest change of an output when only other samples change, relative to the largest output
    gradient: float  # largest change of a sample's gradient when other outputs change sign, relative (`sign_change`)


class NotDifferentiable(Exception):
    """The backward pass of a piece failed."""


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
    is_leaf: bool = False
    sources: list[_Source] = field(default_factory=list)  # in the backward walk
    inputs: list[tuple[torch.Size, Layout]] = field(default_factory=list)  # that hold the batch cleanly

    @property
    def layouts(self) -> set[Layout]:
        return {layout for _, layout in self.inputs}


class Walk:
    """Runs of one network, with a visit at every module's inputs and outputs; visits are numbered in order."""

    def __init__(self, roots: dict[str, nn.Module], f: Function, n: int, bits: list[Tensor], batch_dim: int) -> None:
        self.n, self.bits, self.batch_dim = n, bits, batch_dim
        self.modules: dict[int, tuple[str, nn.Module]] = {}
        for prefix, root in roots.items():
            for name, module in root.named_modules():
                qualified = f"{prefix}.{name}".strip(".").replace("_orig_mod.", "").replace("_orig_mod", "")
                self.modules.setdefault(id(module), (qualified, module))
        inside_script = {
            id(m)
            for _, module in self.modules.values()
            if isinstance(module, torch.jit.ScriptModule)
            for m in list(module.modules())[1:]
        }
        self.modules = {number: named for number, named in self.modules.items() if number not in inside_script}
        f = inspect.unwrap(f)
        own = type(f).__name__ if isinstance(f, nn.Module) else "function"
        self.kinds = {"": own} | {name: type(m).__name__ for name, m in self.modules.values()}
        self.base: list[list[Tensor]] = []  # what was seen at each visit of the first run
        self.sizes: dict[tuple[int, int], float] = {}  # the largest entry of each of these
        self.layouts: dict[tuple[int, int], list[Layout]] = {}  # how the tensor (visit, place) can be read
        self.rows_moved: dict[tuple[int, int], dict[int, Tensor]] = {}  # where it cannot: which rows, by swap
        self.blamed: dict[str, tuple[int, LayerCoupling]] = {}
        self.strongest: dict[str, int] = {}  # the swap in which a layer coupled most
        self.swap_number, self.kept = 0, torch.arange(n)
        self.stack: list[_Frame] = []

    def go(self, run: Run, x: Any, visit: Callable[..., Tensor]) -> Any:
        self.visit, self.visits = visit, 0
        self.stack = [_Frame("")]
        x = self._visit(None, self.stack[0], x)
        return self._visit(self.stack[0], None, run(x))

    def swap(self, run: Run, x: Any, plan: list[tuple[Tensor, Tensor]]) -> None:
        self.blamed.clear()
        self.rows_moved.clear()
        for number, (kept, source) in enumerate(plan):
            self.swap_number, self.kept = number, kept
            self.go(run, take(x, source, self.batch_dim), self.compare)

    def learned_rows(self, plan: list[tuple[Tensor, Tensor]]) -> bool:
        """Whether tensors without a dimension for the samples turn out to hold one sample in each row."""
        if len(plan) < 2 * len(self.bits):
            return False
        for key, moved in self.rows_moved.items():
            still = torch.zeros_like(next(iter(moved.values())))
            layout = owners_of_rows([moved.get(number, still) for number in range(len(plan))], self.bits)
            if layout is not None:
                self.layouts[key] = [layout]
        return any(layouts and layouts[0].kind == "rows" for layouts in self.layouts.values())

    def without_side_paths(self, run: Run, x: Any, plan: list[tuple[Tensor, Tensor]], passes: int | None) -> None:
        """Clear the blame of layers that the chosen output does not depend on, though another output may.

        One forward pass finds those that the graph of the output does not reach; a pass for each of these sees whether
        it is reached without a derivative.
        """
        self.traced: dict[str, list[Tensor]] = {name: [] for name in self.blamed}
        inputs: list[Tensor] = []
        try:
            with torch.inference_mode(False), torch.enable_grad():
                output = self.go(run, map_tensors(partial(as_leaf, leaves=inputs), x), self.trace)
                pairs = [(name, t) for name, traced in self.traced.items() for t in traced]
                grads = torch.autograd.grad(output.abs().sum(), [t for _, t in pairs], allow_unused=True)
        except (RuntimeError, CheckpointError):
            return  # not differentiable: every blame stays
        reached = {name for (name, _), g in zip(pairs, grads, strict=True) if g is not None}
        for name in [name for name in self.blamed if name not in reached][:passes]:
            if not self.blamed[name][1].forward or not self._moves_output(run, x, name, plan):
                del self.blamed[name]

    def _moves_output(self, run: Run, x: Any, name: str, plan: list[tuple[Tensor, Tensor]]) -> bool:
        """Whether a layer's coupling alone changes the output of a kept sample."""
        self.alone, (self.kept, source) = name, plan[self.strongest[name]]
        output = self.go(run, take(x, source, self.batch_dim), self.put_back_others)
        base = self.base[-1][0]
        if output.shape != base.shape or not self.layouts.get((len(self.base) - 1, 0)):
            return True
        layout = self.layouts[len(self.base) - 1, 0][0]
        return Change(output, base, self.n).of_kept(layout, self.kept) > tolerance(base.dtype)

    def hooks(self) -> Iterator[RemovableHandle]:
        """Visits to the inputs and outputs of every module call."""
        for name, module in self.modules.values():
            if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks of its own
                yield module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
                yield module.register_forward_hook(self._leave)
        yield register_module_forward_pre_hook(self._enter_script)
        yield register_module_forward_hook(self._leave_script)

    def _enter_script(self, module: nn.Module, args: Any) -> Any:
        if isinstance(module, torch.jit.ScriptModule) and id(module) in self.modules:
            return self._enter(self.modules[id(module)][0], module, args, {})[0]
        return None

    def _leave_script(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(module, torch.jit.ScriptModule) and id(module) in self.modules:
            return self._leave(module, args, output)
        return None

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self.stack.append(_Frame(name, is_leaf=not any(True for _ in module.children())))
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

    # -- the kinds of visit: to a tensor made by `owner`, about to be read by `reader` --------------------------------

    def record(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Record the tensors of the first run."""
        self.base[number].append(t.detach().clone())
        return t

    def require_repeated(
        self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None
    ) -> Tensor:
        """Refuse a network whose outputs differ between calls by more than rounding."""
        base = self._base(number, place, t)
        if base is not None and not torch.equal(t, base) and t.numel():
            change = Change(t, base, self.n).largest if t.dim() else 1.0
            if change > tolerance(t.dtype):
                raise UserError(
                    "the answers must repeat themselves to be compared, but two calls on the same batch differ first "
                    f"after {self.name_of(owner)}, by {change:.3g} of their size; let it draw from the global "
                    "generators of torch, numpy or random, and keep its state in a module."
                )
        return t

    def name_of(self, owner: _Frame | None) -> str:
        name = owner.name if owner is not None else ""
        return own_code(self.kinds[""]) if not name else f"{name!r} ({self.kinds[name]})"

    def compare(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Blame `owner` if the kept samples differ from the first run's, and put them back."""
        base = self._base(number, place, t)
        if base is None or not t.dim() or not t.numel() or torch.equal(t, base):
            return t  # a weight or a position: it does not move with the batch
        key = (number, place)
        if key not in self.layouts:
            self.layouts[key] = candidates(t, self.n, self.batch_dim)
        known = self.layouts[key]
        rows: list[Layout] = []
        if owner is not None and all(k.kind != "rows" for k in known):  # as those of its layer's input are
            rows = [k for shape, k in owner.inputs if k.kind == "rows" and shape == t.shape]
        change = Change(t, base, self.n, self.sizes.get(key))
        self.sizes[key] = change.size
        changes = {k: change.of_kept(k, self.kept) for k in dict.fromkeys((*known, *rows))}
        fitting = [k for k, moved in changes.items() if moved <= tolerance(t.dtype)]
        if fitting and not self._is_transposed(t, fitting, owner):
            self.layouts[key] = fitting
        else:
            chosen = self._layout_of_coupled(t, changes, owner)
            if chosen is None:
                self.rows_moved.setdefault(key, {})[self.swap_number] = change.along(0) > tolerance(t.dtype)
                return t
            if owner is not None:
                self._blame(owner, number, forward=changes.get(chosen, change.largest))
            t = chosen.put_back(t, base, self.kept, self.n)
            self.layouts[key] = [chosen, *(k for k in known if k != chosen)]
        if reader is not None:
            reader.inputs += [(t.shape, k) for k in self.layouts[key]]
        return t

    def trace(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Record the outputs of the blamed layers, in the graph."""
        if owner is not None and owner.name in self.traced and t.requires_grad:
            t = t.clone()  # what follows may work in place
            self.traced[owner.name].append(t)
        return t

    def put_back_others(
        self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None
    ) -> Tensor:
        """Put the kept samples back at every blamed layer but one."""
        base, layouts = self._base(number, place, t), self.layouts.get((number, place))
        if owner is None or owner.name == self.alone or owner.name not in self.blamed or base is None or not layouts:
            return t
        return layouts[0].put_back(t, base, self.kept, self.n)

    def _is_transposed(self, t: Tensor, fitting: list[Layout], owner: _Frame | None) -> bool:
        """Whether a layer hands on a matrix of the same shape with its samples in the other dimension."""
        if owner is None or not owner.is_leaf or t.dim() != 2:
            return False
        before = [k for shape, k in owner.inputs if shape == t.shape]
        return bool(before) and not set(before) & set(fitting)

    def _layout_of_coupled(self, t: Tensor, changes: dict[Layout, float], owner: _Frame | None) -> Layout | None:
        """How a tensor that no layout fits is to be read: as its owner's inputs are, or the only way there is."""
        if owner is None or not changes:
            return None
        same = [k for shape, k in owner.inputs if shape == t.shape and k in changes]
        alike = [k for k in changes if k in owner.layouts]
        plain = [k for k in changes if k.kind == "plain"]
        for choice in (same, alike, list(changes) if len(changes) == 1 else []):
            if choice:
                return choice[0]
        return min(plain, key=changes.__getitem__, default=None)

    def differentiate(self, t: Tensor, number: int, place: int, owner: _Frame | None, reader: _Frame | None) -> Tensor:
        """Blame `owner` if its own code couples the gradient; cut the graph here."""
        layouts = self.layouts.get((number, place))
        differentiable = t.is_floating_point() or t.is_complex()
        if not layouts or (number, place) in self.rows_moved or not differentiable:
            return t
        if self._base(number, place, t) is None:
            return t
        layout = layouts[0]
        if owner is not None and owner.sources:
            passed_on = any(source.is_untouched(t) for source in owner.sources)
            change = 0.0 if passed_on else self._gradient_change(t, layout, owner.sources)
            if change > tolerance(t.dtype):
                self._blame(owner, number, gradient=change)
        elif owner is not None:
            return t  # its inputs could not be read, so it belongs to the piece around it
        leaf = t.detach().clone().requires_grad_()
        copy = leaf.clone()
        if reader is not None:
            reader.sources.append(_Source(leaf, copy, layout))
        return copy

    def _gradient_change(self, t: Tensor, layout: Layout, sources: list[_Source]) -> float:
        """`sign_change` of one number per sample of `t` with respect to the sources that it depends on."""
        real = torch.view_as_real(t) if t.is_complex() else t
        numbers = project(layout.view(real, self.n).reshape(self.n, -1))
        if not numbers.requires_grad:
            return 0.0
        leaves = [source.leaf for source in sources]

        def pull_back(signs: Tensor) -> list[Tensor]:
            try:
                grads = torch.autograd.grad(numbers, leaves, signs.to(numbers), retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                if out_of_memory(error) or isinstance(error, CheckpointError):
                    raise
                raise NotDifferentiable from error
            pairs = [(g, source.layout) for g, source in zip(grads, sources, strict=True) if g is not None]
            return [k.view(torch.view_as_real(g) if g.is_complex() else g, self.n) for g, k in pairs]

        return sign_change(pull_back, self.bits)

    def _base(self, number: int, place: int, t: Tensor) -> Tensor | None:
        """The first run's tensor, where the network took the same path."""
        if number < len(self.base) and place < len(self.base[number]):
            base = self.base[number][place]
            return base if base.shape == t.shape and base.dtype == t.dtype else None
        return None

    def _blame(self, owner: _Frame, number: int, forward: float = 0.0, gradient: float = 0.0) -> None:
        number, known = self.blamed.get(
            owner.name, (number, LayerCoupling(owner.name, self.kinds[owner.name], 0.0, 0.0))
        )
        if forward > known.forward:
            self.strongest[owner.name] = self.swap_number
        known = replace(known, forward=max(known.forward, forward), gradient=max(known.gradient, gradient))
        self.blamed[owner.name] = number, known


def own_code(kind: str) -> str:
    """The name "" in words."""
    if kind == "function":
        return "the function's own code, outside any module"
    return "the network's own code, outside its layers"
