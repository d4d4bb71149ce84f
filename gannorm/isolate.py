"""Run code on modules and leave them as they were: mode, parameters, buffers, gradients, hooks, every random state.

A measurement must not change what it measures, and it must not measure its own traces: BatchNorm moves running
statistics, spectral norm turns its power-iteration vectors and dropout draws a new mask at every forward pass. So
`isolated` does both: it yields a version of the function that starts every call from the same state, and it restores
that state, bit for bit, at the end, also after an exception.
"""

from __future__ import annotations

import copy
import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gannorm.errors import UserError


@contextmanager
def isolated(f: Callable[..., Any], *also: nn.Module) -> Iterator[Callable[..., Any]]:
    """Yield `f` as a pure function of its input; restore `f` and the modules in `also` afterwards.

    A call works on copies of the buffers and starts from the random states found on entry, so it leaves no trace:
    two calls with equal inputs give bitwise equal outputs (on deterministic kernels), in any order with their backward
    passes. What the block itself changes stays until its end. Not covered: state outside the modules' attributes, and
    what lies two levels deep in them (in a list of dictionaries) or in other containers than dictionaries and lists.

    Args:
        f: a module or any callable; see `modules_in` for the modules that are found in a callable.
        also: further modules whose state must survive.

    Yields:
        A callable with the signature of `f`.

    >>> dropout = nn.Dropout()
    >>> with isolated(dropout) as pure:
    ...     bool(torch.equal(pure(torch.ones(8)), pure(torch.ones(8))))
    True
    """
    modules = list({id(m): m for root in (*modules_in(f).values(), *also) for m in root.modules()}.values())
    attributes, contents, random_state = AttributeState(modules), _Contents(modules), RandomState()

    def pure(*args: Any, **kwargs: Any) -> Any:
        random_state.restore()
        before = AttributeState(modules)
        before.use_copies()
        try:
            return f(*args, **kwargs)
        finally:
            before.restore()

    try:
        yield pure
    finally:
        attributes.restore()
        contents.restore()
        random_state.restore()


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
def switched(*wanted: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes that have another value in the block, each (owner, name, value): torch's global switches, say."""
    found = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    try:
        for switch in wanted:
            setattr(*switch)
        yield
    finally:
        for switch in found:
            setattr(*switch)


@contextmanager
def determinism_kept() -> Iterator[None]:
    """Whatever the block sets of torch's determinism, as a Trainer does for good, is put back."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def in_float32() -> AbstractContextManager[None]:
    """Products of float32 numbers in float32, on every device, and not in TF32 or bf16."""
    backends: Any = torch.backends  # its precision settings have no type stubs
    owners = [backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    owners += [backends.cudnn.conv, backends.cudnn.rnn]
    return switched(*((owner, "fp32_precision", "ieee") for owner in owners))


def modules_in(f: Callable[..., Any]) -> dict[str, nn.Module]:
    """The modules that a callable runs, by name: itself (""), or what it is bound to, closes over or holds.

    Functions that it calls are followed within its own python module; modules hidden deeper are not found.

    >>> scale, net = 2.0, nn.Linear(3, 1)
    >>> list(modules_in(net)), list(modules_in(lambda x: scale * net(x)))
    ([''], ['net'])
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()

    def visit(value: Any, name: str) -> None:
        if isinstance(value, nn.Module):
            if all(value is not module for module in found.values()):
                found[name] = value
        elif id(value) not in seen:
            seen.add(id(value))
            for key, inner in _held(value, is_root=value is f).items():
                visit(inner, f"{name}.{key}" if name else key)

    visit(f, "")
    return found


class RandomState:
    """The state of every global generator: python, NumPy if it is loaded, torch on the CPU and on each device."""

    def __init__(self) -> None:
        self.python = random.getstate()
        numpy = sys.modules.get("numpy")
        self.numpy = numpy.random.get_state() if numpy else None
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore(self) -> None:
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


class AttributeState:
    """What each module's attributes refer to: parameters, buffers, hooks, mode, and whatever else it keeps."""

    def __init__(self, modules: list[nn.Module]) -> None:
        # One level into dictionaries and lists: _parameters, _buffers, _modules, the hooks, and a module's own records.
        self.saved: list[tuple[Any, dict[Any, Any]]] = [
            (held, dict(enumerate(held)) if isinstance(held, list) else dict(held))
            for m in modules
            for held in (*(v for v in vars(m).values() if isinstance(v, dict | list)), vars(m))
        ]
        generators = {id(v): v for _, saved in self.saved for v in saved.values() if isinstance(v, torch.Generator)}
        self.generators = [(g, g.get_state()) for g in generators.values()]

    def use_copies(self) -> None:
        """Replace every buffer by a copy: what the call writes is lost, and graphs of earlier calls stay valid."""
        copies: dict[int, Tensor] = {}
        for held, saved in self.saved:
            for key, value in saved.items():
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.requires_grad:
                    held[key] = copies.setdefault(id(value), value.detach().clone())

    def restore(self) -> None:
        for held, saved in self.saved:
            if isinstance(held, list):
                held[:] = saved.values()
                continue
            for name in held.keys() - saved.keys():
                del held[name]
            held.update(saved)
        for generator, state in self.generators:
            generator.set_state(state)


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
            except Exception:
                what = f"{where} keeps {key!r}, {type(value).__name__}"
                return f"{what}: {reason}; give the class a __deepcopy__, or drop it."
    return f"{type(root).__name__}: {reason}; give the class a __deepcopy__."


def _held(value: Any, is_root: bool) -> Mapping[str, Any]:
    """The named objects that a callable can reach directly."""
    if isinstance(value, functools.partial):
        return {"func": value.func, **{str(i): argument for i, argument in enumerate(value.args)}, **value.keywords}
    if inspect.ismethod(value):
        owner = value.__self__
        return {"self": owner} if isinstance(owner, nn.Module) else getattr(owner, "__dict__", {})
    if inspect.isfunction(value):
        value = inspect.unwrap(value)
        variables = inspect.getclosurevars(value)
        names = {**variables.globals, **variables.nonlocals}
        return {k: v for k, v in names.items() if not inspect.isfunction(v) or v.__module__ == value.__module__}
    # An object with __call__, where it is what we were given; other objects (python modules, classes) are not searched.
    return getattr(value, "__dict__", {}) if is_root else {}


class _Contents:
    """The numbers in each tensor of the modules, and each parameter's gradient."""

    def __init__(self, modules: list[nn.Module]) -> None:
        held = (
            t for m in modules for t in (*m.parameters(recurse=False), *m.buffers(recurse=False), *vars(m).values())
        )
        tensors = {id(t): t for t in held if isinstance(t, Tensor)}.values()
        self.contents = [(t, t.detach().clone()) for t in tensors]
        leaves = [t for t in tensors if t.is_leaf]
        self.leaves = [(t, t.requires_grad, t.grad, None if t.grad is None else t.grad.clone()) for t in leaves]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, content in self.contents:
            _put_back(tensor, content)
        for leaf, requires_grad, grad, grad_content in self.leaves:
            leaf.requires_grad_(requires_grad)
            leaf.grad = grad
            if grad is not None and grad_content is not None:
                _put_back(grad, grad_content)


def _put_back(tensor: Tensor, content: Tensor) -> None:
    # Writing bumps the version counter, which breaks the caller's graphs that saved the tensor: write only a change.
    if not torch.equal(tensor, content):
        tensor.copy_(content)
