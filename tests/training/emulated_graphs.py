"""CUDA graphs on a CPU: the operations of a step are recorded once, and replayed on the same memory.

What makes a replay wrong on a GPU makes it wrong here: a number that python computes is repeated as it was, a tensor
that is made anew at every step is looked for where it was, and reading a result back fails. What is left out are the
streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What waits for the device to read from it, and what copies python's numbers to it.
NOT_PERMITTED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal", "lift_fresh")

Losses = dict[str, Tensor]


class EmulatedGraphs:
    """`gannorm.training.capture.Graphs` on a CPU; it counts the replays."""

    def __init__(self) -> None:
        self.replays = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def record(
        self, step: Callable[[], Losses], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Losses]:
        generators = [*generators, torch.default_generator]
        states = [generator.get_state() for generator in generators]
        with _Recorder() as recorder:
            losses = step()
        recorder.undo()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for run in recorder.runs:
                    run()

        return replay, losses


class _Recorder(TorchDispatchMode):
    """Every operation below autograd, in order, with the very tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Callable[[], None]] = []
        self._made: set[int] = set()  # storages of the step's own results
        self._found: dict[int, tuple[Tensor, Tensor]] = {}  # storage → a tensor that was there before, and its content

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::")
        if name in NOT_PERMITTED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self._found:
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self._found[storage._cdata] = whole, whole.clone()
        result = operation(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in inputs}
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        own = [t.untyped_storage()._cdata not in known for t in outputs]  # neither a view nor written in place
        self._made.update(t.untyped_storage()._cdata for t, new in zip(outputs, own, strict=True) if new)

        def run() -> None:
            again = [t for t in tree_leaves(operation(*args, **kwargs)) if isinstance(t, Tensor)]
            for old, new, is_own in zip(outputs, again, own, strict=True):
                if is_own:
                    old.detach().copy_(new)

        if not (outputs and all(v is not None and not v.is_write for v in _aliases(operation))):  # not a plain view
            self.runs.append(run)
        return result

    def undo(self) -> None:
        with torch.no_grad():
            for whole, content in self._found.values():
                whole.copy_(content)


def _aliases(operation: Any) -> list[Any]:
    return [returned.alias_info for returned in operation._schema.returns]
