"""CUDA graphs on a CPU: the operations of a step are recorded once, and replayed on the same memory.

What makes a replay wrong on a GPU makes it wrong here: a number that python computes is repeated as it was, a tensor
that is made anew at every step is looked for where it was, and reading a result back fails. Not seen are what is
particular to a GPU, such as streams, and tensors that a step makes on the CPU, where here everything is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# What waits for the device to read from it, and what copies python's numbers to it.
NOT_PERMITTED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal", "lift_fresh")
NOT_PERMITTED += ("allclose", "bincount", "repeat_interleave", "tensor_split")

Losses = dict[str, Tensor]


class EmulatedGraphs:
    """`gannorm.training.capture.Graphs` on a CPU; it counts the replays.

    Args:
        drop: (operation, how many of its name were before it) → whether replays leave it out, which spoils them.
    """

    def __init__(self, drop: Callable[[str, int], bool] = lambda name, number: False) -> None:
        self.drop, self.replays = drop, 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        yield

    @contextmanager
    def strict(self) -> Iterator[None]:
        with _Strict():
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
        seen: Counter[str] = Counter()
        kept = []
        for name, run in recorder.runs:
            if not self.drop(name, seen[name]):
                kept.append(run)
            seen[name] += 1

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for run in kept:
                    run()

        return replay, losses


class _Strict(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        require_permitted(operation)
        return operation(*args, **(kwargs or {}))


def require_permitted(operation: Any) -> str:
    name = operation._schema.name.removeprefix("aten::")
    if name in NOT_PERMITTED:
        raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
    return name


class _Recorder(TorchDispatchMode):
    """Every operation below autograd, in order, with the very tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple[str, Callable[[], None]]] = []
        self._made: set[int] = set()  # storages of the step's own results
        self._found: dict[int, tuple[Tensor, Tensor]] = {}  # storage → a tensor that was there before, and its content

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = require_permitted(operation)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self._found:
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self._found[storage._cdata] = whole, whole.clone()
        # On the same memory; the tensor itself may be another view of it by the time of the replay (`transpose_`).
        again_args, again_kwargs = tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, (args, kwargs))
        result = operation(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in inputs}
        outputs = [t.detach() for t in tree_leaves(result) if isinstance(t, Tensor)]
        own = [t.untyped_storage()._cdata not in known for t in outputs]  # neither a view nor written in place
        self._made.update(t.untyped_storage()._cdata for t, new in zip(outputs, own, strict=True) if new)

        def run() -> None:
            again = [t for t in tree_leaves(operation(*again_args, **again_kwargs)) if isinstance(t, Tensor)]
            for old, new, is_own in zip(outputs, again, own, strict=True):
                if is_own:
                    old.copy_(new)

        is_view = outputs and all(v is not None and not v.is_write for v in _aliases(operation))
        if not is_view and torch.Tag.inplace_view not in operation.tags:
            self.runs.append((name, run))
        return result

    def undo(self) -> None:
        with torch.no_grad():
            for whole, content in self._found.values():
                whole.copy_(content)


def _aliases(operation: Any) -> list[Any]:
    return [returned.alias_info for returned in operation._schema.returns]
