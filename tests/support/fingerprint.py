"""Everything that a caller could notice of a network, its inputs and the random states, in a form that compares."""

from __future__ import annotations

import collections
import random
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.isolate import modules_in


def fingerprint(*values: Any) -> list[Any]:
    """Numbers, types, identities and places of all that `values` hold, and every global random state."""
    seen: dict[int, Any] = {}
    described = [described_value(value, seen) for value in values]
    python, numpy = random.getstate(), np.random.get_state()
    return [described, python, [str(part) for part in numpy], torch.get_rng_state().tolist()]


def described_value(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, str | bytes | int | float | complex | None | torch.dtype):
        return value
    if id(value) in seen:
        return "seen"
    seen[id(value)] = value
    if isinstance(value, Tensor):
        grad = value.grad if value.is_leaf else None
        numbers = value.detach().cpu().resolve_conj().numpy().tobytes()
        return [
            id(value),
            str(value.dtype),
            tuple(value.shape),
            value.data_ptr(),
            value.requires_grad,
            numbers,
            described_value(grad, seen),
        ]
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.ndarray):
        return [id(value), value.tobytes()]
    if isinstance(value, torch.jit.ScriptModule):
        concrete = vars(value).get("_concrete_type")
        names = sorted(concrete.get_attributes()) if concrete is not None else []
        attributes = {name: getattr(value, name) for name in names}
        plain = {k: v for k, v in attributes.items() if not isinstance(v, Tensor | nn.Module)}
        tensors = {k: (str(t.dtype), t.tolist()) for k, t in value.state_dict().items()}
        return [id(value), value.training, plain, tensors, len(value._forward_hooks)]
    if isinstance(value, Mapping):
        return [id(value), [(str(k), described_value(v, seen)) for k, v in value.items()]]
    if isinstance(value, list | tuple | collections.deque | bytearray):
        return [id(value), [described_value(v, seen) for v in value]]
    if isinstance(value, set | frozenset):
        return [id(value), sorted(map(str, value))]
    if isinstance(value, types.FunctionType | types.MethodType):
        return [described_value(m, seen) for m in modules_in(value).values()]
    if hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
        return [id(value), described_value(vars(value), seen)]
    return str(type(value))
