"""What modules and objects hold, and how to put it back: attributes, containers, numbers, random states.

The parts of `isolate`. Nothing is written that has not changed.
"""

from __future__ import annotations

import functools
import io
import itertools
import operator
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from gannorm.errors import UserError

# Objects of these libraries hold no state of a network, and a trainer holds everything else.
FOREIGN = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "wandb", "tqdm", "logging", "threading"}
FOREIGN |= {"multiprocessing", "concurrent", "asyncio", "ray", "pytest", "_pytest", "unittest", "matplotlib", "pandas"}

# Tuples, as every attribute of every module is asked at every call of a network: a union is made again each time.
ATOMS = (str, bytes, int, float, type(None), torch.dtype, torch.device)
CONTAINERS = (list, set, deque, bytearray)
OTHERS: tuple[type, ...] = (type, types.ModuleType, types.FunctionType, types.MethodType, functools.partial, nn.Module)
OTHERS += (torch.utils.data.Dataset, torch.utils.data.DataLoader, BaseException, io.IOBase)


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
    """What the attributes of modules and objects refer to, at any depth: parameters, buffers, hooks, mode, containers.

    Args:
        owners: the modules and objects.
    """

    def __init__(self, owners: Iterable[Any]) -> None:
        self.modules: list[nn.Module] = []
        self.tensors: dict[int, Tensor] = {}
        self.arrays: list[Any] = []
        self.saved: list[tuple[Any, Any]] = []  # a container, and a copy of what it held
        self.empty: list[Any] = []  # containers that held nothing, as most dictionaries of hooks do
        self.scripted: list[tuple[Any, dict[str, Any]]] = []
        self.generators: list[tuple[Callable[[Any], Any], Any]] = []  # how to set a random state, and the state
        self._seen: dict[int, Any] = {}
        stack = list(owners)[::-1]
        while stack:
            value = stack.pop()
            if isinstance(value, ATOMS):
                continue
            if id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if isinstance(value, Tensor):
                self.tensors[id(value)] = value
            elif is_array(value):
                self.arrays.append(value)
            elif state := random_state(value):
                self.generators.append(state)
            else:
                stack.extend(self._inside(value))

    def _inside(self, value: Any) -> list[Any]:
        """Save what `value` holds, and return what is to be looked into."""
        if isinstance(value, nn.Module):
            _require_initialized(value)
            self.modules.append(value)
            if isinstance(value, torch.jit.ScriptModule):
                return self._inside_script(value)
            attributes = vars(value)
            self._save(attributes)
            hooks = [v for k, v in attributes.items() if k.startswith("_") and "hooks" in k and isinstance(v, dict)]
            for hook in hooks:
                self._save(hook)  # whose functions are the caller's own code
            skipped = set(map(id, hooks))
            return [v for v in attributes.values() if id(v) not in skipped]
        if isinstance(value, dict):
            self._save(value)
            return list(value.values())
        if isinstance(value, CONTAINERS):
            self._save(value)
            return list(value)
        if isinstance(value, tuple | frozenset):
            return list(value)
        if is_plain(value):
            self._save(vars(value))
            return list(vars(value).values())
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            raise UserError(
                f"a network that is probed must keep no iterator, which cannot be put back: got a "
                f"{type(value).__name__}; keep a list and an index."
            )
        return []

    def _inside_script(self, module: torch.jit.ScriptModule) -> list[Any]:
        concrete = vars(module).get("_concrete_type")
        names = {"training", *(concrete.get_attributes() if concrete is not None else ())}
        values = {name: getattr(module, name) for name in names if hasattr(module, name)}
        plain = {k: v for k, v in values.items() if not isinstance(v, Tensor | nn.Module)}
        self.scripted.append((module, plain))
        for hooks in vars(module).values():
            if isinstance(hooks, dict):
                self._save(hooks)
        return [*module.parameters(recurse=False), *module.buffers(recurse=False), *module.children()]

    def _save(self, container: Any) -> None:
        if not container:
            self.empty.append(container)
            return
        content: Any = dict(container) if isinstance(container, dict) else list(container)
        self.saved.append((container, content))

    @functools.cached_property
    def _places(self) -> list[tuple[Any, Any, Tensor]]:
        """(container, key, tensor) of every tensor in a container that can be given another one."""
        places = []
        for container, content in self.saved:
            if not isinstance(container, dict | list | deque):
                continue
            items = content.items() if isinstance(content, dict) else enumerate(content)
            places += [(container, key, value) for key, value in items if isinstance(value, Tensor)]
        return places

    @functools.cached_property
    def _held(self) -> _Held:
        return _Held(self.saved)

    def replace(self, new: Callable[[Tensor], Tensor]) -> set[int]:
        """Put new(t) in the place of every tensor t that a container holds; the ids of those that were replaced."""
        made: dict[int, Tensor] = {}
        for container, key, value in self._places:
            if id(value) not in made:
                made[id(value)] = new(value)
            if made[id(value)] is not value:
                container[key] = made[id(value)]
        return {number for number, t in made.items() if t is not self.tensors.get(number)}

    def use_copies(self) -> set[int]:
        """Replace every buffer by a copy: what a call writes is lost, and graphs of earlier calls stay valid."""
        with torch.inference_mode(False):
            return self.replace(lambda t: t if isinstance(t, nn.Parameter) or t.requires_grad else t.detach().clone())

    def is_current(self) -> bool:
        """Whether every container still holds what it held, so that a new walk would find the same.

        Of random generators and TorchScript it is not known, and False.
        """
        return not self.generators and not self.scripted and self._is_held()

    def _is_held(self) -> bool:
        return not any(map(len, self.empty)) and self._held.is_same()

    def restore(self) -> None:
        for container, key, value in self._places:  # the usual change, by `replace`; whatever is left is found below
            if isinstance(container, dict) or key < len(container):
                container[key] = value
        if not self._is_held():
            for container, content in self.saved:
                _refill(container, content)
            for container in self.empty:
                _refill(container, ())
        for module, values in self.scripted:
            for name, value in values.items():
                if getattr(module, name) != value:
                    setattr(module, name, value)
        for set_state, state in self.generators:
            set_state(state)


class _Held:
    """Whether containers hold what they held: all of them are compared in one pass, which costs microseconds."""

    def __init__(self, saved: list[tuple[Any, Any]]) -> None:
        pairs = [(container, content) for container, content in saved if isinstance(container, dict)]
        self.others = [(container, content) for container, content in saved if not isinstance(container, dict)]
        self.dictionaries = [container for container, _ in pairs]
        self.sizes = [len(content) for _, content in pairs]
        self.keys = [key for _, content in pairs for key in content]
        self.values = [value for _, content in pairs for value in content.values()]

    def is_same(self) -> bool:
        if list(map(len, self.dictionaries)) != self.sizes:
            return False
        keys = itertools.chain.from_iterable(self.dictionaries)
        values = itertools.chain.from_iterable(d.values() for d in self.dictionaries)
        same = all(map(operator.is_, keys, self.keys)) and all(map(operator.is_, values, self.values))
        return same and all(_holds(container, content) for container, content in self.others)


def _require_initialized(module: nn.Module) -> None:
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise UserError(
            f"a network must have its weights before it is probed: {type(module).__name__} is not initialized; "
            "run the network once first, on one batch."
        )


def _refill(container: Any, content: Any) -> None:
    """Make a container hold what it held, in the same order; untouched if it does."""
    if _holds(container, content):
        return
    if isinstance(container, dict):
        kind = OrderedDict if isinstance(container, OrderedDict) else dict
        kind.clear(container)
        kind.update(container, content)
        return
    container.clear()
    if isinstance(container, set):
        container.update(content)
    else:
        container.extend(content)


def _holds(container: Any, content: Any) -> bool:
    """Whether a container holds the same objects, in the same order where it has one."""
    if not container or not content:
        return not container and not content
    if isinstance(container, dict):
        return _are(container, content) and _are(container.values(), content.values())
    if isinstance(container, set):
        return set(map(id, container)) == set(map(id, content))
    return _are(container, content)


def _are(now: Collection[Any], before: Collection[Any]) -> bool:
    """Whether they hold the same objects in the same order."""
    return len(now) == len(before) and all(map(operator.is_, now, before))


def is_plain(value: Any) -> bool:
    """Whether it is an object with attributes, and neither code nor somebody else's machinery."""
    if isinstance(value, OTHERS) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    return not _is_foreign(type(value))  # type: ignore[arg-type]  # of mypy, a class has no hash


@functools.lru_cache(maxsize=1024)
def _is_foreign(kind: type) -> bool:
    """Whether a class is of these libraries, or made from one, such as somebody's own Trainer. Of torch's, a network
    may well hold its own kinds."""
    own, *bases = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return own in FOREIGN or not FOREIGN.isdisjoint(set(bases) - {"torch"})


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def random_state(value: Any) -> tuple[Callable[[Any], Any], Any] | None:
    """How to set the state of a random generator, and the state that it has; None if it is none."""
    if isinstance(value, torch.Generator):
        return value.set_state, value.get_state()
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.setstate, value.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return value.set_state, value.get_state()
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state"), value.bit_generator.state
    return None


@dataclass
class Written:
    """A tensor or an array that a call wrote to: its place and content before, and its content after."""

    tensor: Any
    place: Any
    before: Any
    after: Any

    def undo(self) -> None:
        """Put back what it held, unless somebody else has written to it since."""
        if _is_same(self.tensor, None, self.after):
            _put_back(self.tensor, self.place, self.before)


class Contents:
    """The numbers in tensors and arrays, where a tensor keeps them, and each leaf's gradient."""

    def __init__(self, tensors: Iterable[Tensor], arrays: Iterable[Any] = (), gradients: bool = False) -> None:
        self.contents: list[tuple[Any, Any, Any]] = []
        self.add(tensors, arrays)
        leaves = [t for t, _, _ in self.contents if isinstance(t, Tensor) and t.is_leaf and gradients]
        self.leaves = [(t, t.requires_grad, t.grad, None if t.grad is None else t.grad.clone()) for t in leaves]

    def add(self, tensors: Iterable[Tensor], arrays: Iterable[Any] = ()) -> None:
        # .data is another tensor at the same place: what replaces it does not replace that.
        self.contents += [(t, t.data, t.detach().clone()) for t in tensors if t.layout == torch.strided]
        self.contents += [(a, None, a.copy()) for a in arrays]

    def refresh(self) -> None:
        """Take the numbers as they are now."""
        for i, (t, place, content) in enumerate(self.contents):
            if not _is_same(t, place, content):
                now = t.data if isinstance(t, Tensor) else None
                self.contents[i] = (t, now, _copy(t))

    def changes(self) -> list[Written]:
        """What was written to since."""
        changed = [(t, place, content) for t, place, content in self.contents if not _is_same(t, place, content)]
        return [Written(t, place, content, _copy(t)) for t, place, content in changed]

    def restore(self) -> None:
        for tensor, place, content in self.contents:
            if not _is_same(tensor, place, content):
                _put_back(tensor, place, content)
        for leaf, requires_grad, grad, grad_content in self.leaves:
            if leaf.requires_grad != requires_grad:
                leaf.requires_grad_(requires_grad)
            if leaf.grad is not grad:
                leaf.grad = grad
            if grad is not None and grad_content is not None and not _is_same(grad, None, grad_content):
                _put_back(grad, None, grad_content)


def _copy(t: Any) -> Any:
    return t.detach().clone() if isinstance(t, Tensor) else t.copy()


def _is_same(t: Any, place: Tensor | None, content: Any) -> bool:
    """Whether a tensor or an array holds the content, at its place."""
    if not isinstance(t, Tensor):
        return bool((t == content).all())
    return _is_at(t, place) and t.dtype == content.dtype and t.shape == content.shape and torch.equal(t, content)


def _is_at(t: Tensor, place: Tensor | None) -> bool:
    return place is None or (t.dtype == place.dtype and t.is_set_to(place))


def _put_back(t: Any, place: Tensor | None, content: Any) -> None:
    # Writing bumps the version counter, which breaks the caller's graphs that saved the tensor: write only a change.
    if not isinstance(t, Tensor):
        t[...] = content
        return
    with torch.inference_mode(t.is_inference()), torch.no_grad():  # in that order: the first enables gradients
        if place is not None and not _is_at(t, place):
            t.data = place
        if not torch.equal(t, content):
            t.copy_(content)
