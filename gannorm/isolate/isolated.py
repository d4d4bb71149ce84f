"""Run code on modules and leave them as they were: mode, parameters, buffers, gradients, hooks, every random state.

A measurement must not change what it measures, and it must not measure its own traces: BatchNorm moves running
statistics, spectral norm turns its power-iteration vectors and dropout draws a new mask at every forward pass. So
`isolated` does both: it yields a version of the function that starts every call from the same state, and it restores
that state, bit for bit, at the end, also after an exception.

What a module keeps is followed through dictionaries, lists, tuples, sets, deques and plain objects, at any depth.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gannorm.errors import UserError
from gannorm.isolate.state import AttributeState, Contents, RandomState, Written, is_plain

AS_MANY_AS = 10_000  # objects that a callable can reach are looked at for modules; those that run are found anyway
WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


@contextmanager
def isolated(f: Callable[..., Any], *also: nn.Module) -> Iterator[Isolated]:
    """Yield `f` as a pure function of its input; restore `f` and the modules in `also` afterwards.

    A call works on copies of the buffers and starts from the random states found on entry, so it leaves no trace:
    two calls with equal inputs give bitwise equal outputs (on deterministic kernels), in any order with their backward
    passes. What the block itself changes stays until its end. Modules are found where they hang (`modules_in`) or when
    they run. Variables that a function closes over are its own affair (it may count its calls): they are not put back.

    Args:
        f: a module or any callable. A wrapper for several devices or processes is left out: its module is run.
        also: further modules whose state must survive.

    Yields:
        A callable with the signature of `f`.

    Raises:
        UserError: a lazy module that never ran, or an iterator kept by a module: nothing could put them back.

    >>> dropout = nn.Dropout()
    >>> with isolated(dropout) as pure:
    ...     bool(torch.equal(pure(torch.ones(8)), pure(torch.ones(8))))
    True
    """
    isolation = Isolated(f, also)
    try:
        yield isolation
    finally:
        isolation.restore()


class Isolated:
    """`f` as a pure function; see `isolated`."""

    def __init__(self, f: Callable[..., Any], also: Iterable[nn.Module]) -> None:
        self.f = f
        self.roots = modules_in(f)  # by name; modules that are met when they run are added
        self.random_state = self.entry_random_state = RandomState()
        self.owners: list[Any] = [*_objects_of(f), *self.roots.values(), *also]
        self.known: set[int] = set()
        self.entry: list[tuple[AttributeState, Contents]] = []
        self.during: list[AttributeState] = []  # the state before the call in progress
        self.watched = Contents(())  # what the call in progress may write to in place
        self.last: tuple[AttributeState, set[int], Contents] | None = None  # of all owners, before the last call
        self.written: list[Written] = []  # parameters that the last call wrote to
        self._enter(AttributeState(self.owners))

    @property
    def modules(self) -> list[nn.Module]:
        return [m for attributes, _ in self.entry for m in attributes.modules]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._undo_writing()
        self.random_state.restore()
        self.during, self.watched = [], Contents(())
        with register_module_forward_pre_hook(lambda module, _: self._meet(module)), eager():
            try:
                self._begin_again()
                return self.f(*args, **kwargs)
            finally:
                for attributes in reversed(self.during):
                    attributes.restore()
                self.written = self.watched.changes()

    def start_from_here(self) -> None:
        """From now on, calls start from the random states of this moment."""
        self.random_state = RandomState()

    def restore(self) -> None:
        self._undo_writing()
        for attributes, contents in reversed(self.entry):
            attributes.restore()
            contents.restore()
        self.entry_random_state.restore()

    def _enter(self, attributes: AttributeState) -> None:
        """Note a state to be restored at the end, then make it one that can be run again and again."""
        self.known.update(map(id, attributes.modules))
        self.entry.append((attributes, Contents(attributes.tensors.values(), attributes.arrays, gradients=True)))
        with torch.inference_mode(False):  # parameters made under it could neither be differentiated by nor written to
            attributes.replace(_without_inference)
        for module in attributes.modules:
            if isinstance(module, WRAPPERS):  # its forward may wait for other processes
                vars(module)["forward"] = functools.partial(_without_wrapper, module)

    def _begin(self, owners: list[Any]) -> tuple[AttributeState, set[int]]:
        """Note a state to be restored after the call, and let the call have copies of the buffers."""
        attributes = AttributeState(owners)
        self.during.append(attributes)
        copied = attributes.use_copies()
        self.watched.add((t for t in attributes.tensors.values() if id(t) not in copied), attributes.arrays)
        return attributes, copied

    def _begin_again(self) -> None:
        """`_begin` with all owners. What was noted before the last call is used again if nothing has changed since.

        To look into every object takes longer than a small network runs.
        """
        if self.last is not None and self.last[0].is_current():
            attributes, copied, watched = self.last
            self.during.append(attributes)
            if attributes.use_copies() == copied:
                watched.refresh()
                self.watched = watched
                return
            self.during.pop().restore()
        attributes, copied = self._begin(self.owners)
        self.last = attributes, copied, self.watched

    def _meet(self, module: nn.Module) -> None:
        """Take in a module that is about to run and hangs where it was not looked for."""
        if id(module) in self.known:
            return
        if isinstance(module, WRAPPERS):
            raise UserError(f"`f` must not run a {type(module).__name__}, which may wait for others; pass its .module.")
        names = (f"{type(module).__name__}{number}" for number in ("", *range(2, len(self.roots) + 3)))
        self.roots[next(name for name in names if name not in self.roots)] = module
        self.owners.append(module)
        self._enter(AttributeState([module]))
        self._begin([module])
        self.last = None

    def _undo_writing(self) -> None:
        for written in self.written:
            written.undo()
        self.written = []


def _without_inference(t: Tensor) -> Tensor:
    if not t.is_inference():
        return t
    return nn.Parameter(t.clone(), t.requires_grad) if isinstance(t, nn.Parameter) else t.clone()


def _without_wrapper(wrapper: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return wrapper.module(*args, **kwargs)  # type: ignore[operator]


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy of a module.

    Raises:
        UserError: a layer cannot be copied; it is named, with the remedy.

    >>> layer = nn.Linear(2, 1)
    >>> copy_of(layer) is layer
    False
    """
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:  # of torch, and of pickle
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"a network must be copyable: {_not_copyable(module, reason)}") from error


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are there for the length of the block.

    Args:
        handles: what registering returns; a generator, so that none stays where a later one cannot be registered.

    >>> calls, layer = [], nn.ReLU()
    >>> with hooked(m.register_forward_hook(lambda *_: calls.append(1)) for m in [layer]):
    ...     _ = layer(torch.ones(1))
    >>> _ = layer(torch.ones(1))
    >>> calls
    [1]
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled modules uncompiled.

    A compiled graph can be neither differentiated twice nor hooked, and every hook of ours would make torch compile it
    again, until it gives up at its limit and the caller's own calls stay slow for good.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="Using `torch.compile")  # of hooks, of which it does not compile any
        yield


@contextmanager
def switched(*wanted: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes that have another value in the block, each (owner, name, value): torch's global switches, say."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    try:
        for switch in wanted:
            setattr(*switch)
        yield
    finally:
        for switch in before:
            setattr(*switch)


def modules_in(f: Callable[..., Any]) -> dict[str, nn.Module]:
    """The modules that a callable can reach, by name: itself (""), or what it is bound to, closes over or holds.

    They are looked for in containers and plain objects too. Functions are followed within their own python module.

    >>> scale, net = 2.0, nn.Linear(3, 1)
    >>> list(modules_in(net)), list(modules_in(lambda x: scale * net(x)))
    ([''], ['net'])
    """
    modules: dict[str, nn.Module] = {}
    f = inspect.unwrap(f)
    queue: deque[tuple[Any, str]] = deque([(f, "")])
    seen: dict[int, Any] = {}
    while queue and len(seen) < AS_MANY_AS:
        value, name = queue.popleft()
        if id(value) in seen or isinstance(value, str | bytes | int | float | None):
            continue
        seen[id(value)] = value  # kept: another object may get the number of one that is gone
        if isinstance(value, nn.Module):
            modules[name] = value
        elif not isinstance(value, Tensor):
            queue.extend((inner, f"{name}.{key}" if name else str(key)) for key, inner in _held(value))
    inner_modules = {id(m) for root in modules.values() for m in list(root.modules())[1:]}
    return {name: m for name, m in modules.items() if id(m) not in inner_modules}


def _not_copyable(root: nn.Module, reason: str) -> str:
    """The layer that cannot be copied, why, and what to do."""
    for name, module in root.named_modules():
        where = f"{name or 'it'} ({type(module).__name__})"
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                return (
                    f"{where} keeps the computed tensor {key!r}, as the old torch.nn.utils.weight_norm and "
                    "spectral_norm do; use those of torch.nn.utils.parametrizations, or keep it detached."
                )
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value)
            except Exception:  # a foreign __deepcopy__ may raise anything; it is named, with the first error's reason
                what = f"{where} keeps {key!r}, {type(value).__name__}"
                return f"{what}: {reason}; give the class a __deepcopy__, or drop it."
    return f"{type(root).__name__}: {reason}; give the class a __deepcopy__."


def _held(value: Any) -> Iterable[tuple[Any, Any]]:
    """The named objects that an object can reach directly."""
    if isinstance(value, functools.partial):
        return [("func", value.func), *enumerate(value.args), *value.keywords.items()]
    if inspect.ismethod(value):
        owner = value.__self__
        return vars(owner).items() if is_plain(owner) else [("self", owner)]
    if inspect.isfunction(value):
        return _variables(inspect.unwrap(value)).items()
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(enumerate(value))
    return list(vars(value).items()) if is_plain(value) else ()


def _variables(function: types.FunctionType) -> dict[str, Any]:
    """The variables that a function reads: globals, what it closes over, and defaults; functions of its own module."""
    code, codes = function.__code__, [function.__code__]
    for inner in codes:  # comprehensions and functions inside are code of their own
        codes += [constant for constant in inner.co_consts if isinstance(constant, types.CodeType)]
    held = {name: function.__globals__[name] for c in codes for name in c.co_names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if cell != types.CellType():  # an empty one
            held[name] = cell.cell_contents
    defaults = function.__defaults__ or ()
    held |= zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    held |= function.__kwdefaults__ or {}
    return {k: v for k, v in held.items() if not inspect.isfunction(v) or v.__module__ == function.__module__}


def _objects_of(f: Callable[..., Any]) -> list[Any]:
    """The plain object that f is, or whose method it is."""
    f = inspect.unwrap(f)
    owner = f.__self__ if inspect.ismethod(f) else f
    return [owner] if is_plain(owner) else []
