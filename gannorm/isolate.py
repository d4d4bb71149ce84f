"""Run code on modules and leave them as they were: mode, parameters, buffers, gradients and every random state.

A measurement must not change what it measures, and it must not measure its own traces: BatchNorm moves running
statistics, spectral norm turns its power-iteration vectors and dropout draws a new mask at every forward pass. So
`isolated` does both: it yields a version of the function that starts every call from the same state, and it restores
that state, bit for bit, at the end, also after an exception.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def isolated(f: Callable[..., Any], *also: nn.Module) -> Iterator[Callable[..., Any]]:
    """Yield `f` as a pure function of its input; restore `f` and the modules in `also` afterwards.

    Args:
        f: a module or any callable. A callable that closes over modules names them in `also`.
        also: further modules whose state must survive.

    Yields:
        A callable with the signature of `f`. Every call starts from the buffers and random states found on entry, so
        two calls with equal inputs give bitwise equal outputs (on deterministic kernels).

    >>> dropout = nn.Dropout()
    >>> with isolated(dropout) as pure:
    ...     bool(torch.equal(pure(torch.ones(8)), pure(torch.ones(8))))
    True
    """
    modules = [m for m in (f, *also) if isinstance(m, nn.Module)]
    state = _ModuleState(modules)
    random_state = RandomState()

    def pure(*args: Any, **kwargs: Any) -> Any:
        state.restore_buffers()
        random_state.restore()
        return f(*args, **kwargs)

    try:
        yield pure
    finally:
        state.restore()
        random_state.restore()


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


class _ModuleState:
    """Which tensors a set of modules holds, and what is in them."""

    def __init__(self, roots: list[nn.Module]) -> None:
        modules = {id(m): m for root in roots for m in root.modules()}.values()
        self.modes = [(m, m.training) for m in modules]
        self.buffers = [(m, name, b, _copy(b)) for m in modules for name, b in m._buffers.items()]
        parameters = {id(p): p for m in modules for p in m._parameters.values() if p is not None}.values()
        self.slots = [(m, name, p) for m in modules for name, p in m._parameters.items()]
        self.parameters = [(p, _copy(p), p.requires_grad, p.grad, _copy(p.grad)) for p in parameters]

    def restore_buffers(self) -> None:
        for module, name, buffer, content in self.buffers:
            module._buffers[name] = buffer
            _put_back(buffer, content)

    def restore(self) -> None:
        self.restore_buffers()
        for module, name, parameter in self.slots:
            module._parameters[name] = parameter
        for parameter, content, requires_grad, grad, grad_content in self.parameters:
            _put_back(parameter, content)
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
            _put_back(grad, grad_content)
        for module, training in self.modes:
            module.training = training


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


@torch.no_grad()
def _put_back(tensor: Tensor | None, content: Tensor | None) -> None:
    # Writing bumps the version counter, which breaks graphs that saved the tensor: write only what has changed.
    if tensor is not None and content is not None and not torch.equal(tensor, content):
        tensor.copy_(content)
