"""Record the calls of a network's layers during a loss: inputs, and outputs to differentiate by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from gannorm.isolate import hooked

KERNELS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module that maps a tensor to a tensor."""

    name: str  # qualified, "" for the network itself
    module: Any
    input: Tensor
    output: Tensor  # in the graph of the loss


@contextmanager
def recorded(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[list[Call]]:
    """Collects the calls of the network itself (name "") and of its modules of the given kinds, in order."""
    calls: list[Call] = []

    def record(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not args or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            return None
        if not output.requires_grad:  # all before it is frozen
            output = output.detach().requires_grad_()
        calls.append(Call(name, module, args[0].detach(), output))
        return output.clone()  # what follows may work in place

    chosen = [(name, m) for name, m in network.named_modules() if isinstance(m, kinds) or m is network]
    with hooked(m.register_forward_hook(partial(record, name)) for name, m in chosen):
        yield calls
