"""Networks of the kinds that public code holds, each with the layers that mix its batch.

Every entry is small, written for these tests, and stands for a kind. N batch, T time or tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Case:
    """A network, an input, and the layers that couple."""

    f: Callable[..., Any]
    x: Any
    layers: list[str]
    options: dict[str, Any] = field(default_factory=dict)  # output=, batch_dim=
    state: list[nn.Module] = field(default_factory=list)  # modules whose state must survive, if f is none


CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


def mlp(norm: nn.Module | None = None, inputs: int = 3, width: int = 8) -> nn.Sequential:
    """(N, 3) -> (N, 1), with a normalizer at "1"."""
    return nn.Sequential(nn.Linear(inputs, width), norm or nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1))


def batch(n: int = 8, *shape: int) -> Tensor:
    return torch.randn(n, *(shape or (3,)))
