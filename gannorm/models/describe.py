"""A network as a table: its layers, shapes, parameters, and what its normalizers do to the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gannorm.isolate import isolated
from gannorm.normalizers import NORMALIZERS


@dataclass(frozen=True)
class Layer:
    """One leaf of a network.

    Attributes:
        name: qualified name.
        kind: its class.
        shape: of its output, without the batch.
        parameters: how many.
        coupling: for a normalizer, what it declares of training mode: "none", "forward", "gradient" or both.
        batch: for a coupled layer, the images whose statistics it takes together.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    coupling: str = ""
    batch: int | None = None


def describe(network: nn.Module, x: Tensor, norm: str, batch: int) -> list[Layer]:
    """The leaves of a network in the order in which they run, normalizers with their declared coupling.

    Args:
        network: one of this package's networks; left as it was.
        x: two inputs, to learn the shapes.
        norm: the name of its activation normalizer.
        batch: images in the batches that it is trained on.

    >>> from gannorm.models import Discriminator
    >>> rows = describe(Discriminator(8, 1, 4, "batch"), torch.zeros(2, 1, 8, 8), "batch", 64)
    >>> [(row.name, row.shape, row.coupling, row.batch) for row in rows if row.coupling][0]
    ('features.1.norm', (4, 4, 4), 'forward, gradient', 64)
    """
    rows: list[Layer] = []

    def note(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            parameters = sum(p.numel() for p in module.parameters())
            coupling, seen = "", None
            source = NORMALIZERS[norm] if name.endswith("norm") else module
            if hasattr(source, "forward_coupling"):
                kinds = {"forward": source.forward_coupling, "gradient": source.gradient_coupling}
                coupling = ", ".join(kind for kind, couples in kinds.items() if couples) or "none"
                seen = getattr(module, "size", batch) if coupling != "none" else None  # a ghost batch has a size
            rows.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), parameters, coupling, seen))

        handles.append(module.register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    with isolated(network), torch.no_grad():
        network.eval()  # a ghost batch or a group of images does not fit into two
        for name, module in network.named_modules():
            inner = [m for key, m in module.named_children() if key != "parametrizations"]
            if not inner and name and ".parametrizations." not in name:
                note(name, module)
        try:
            network(x)
        finally:
            for handle in handles:
                handle.remove()
    return rows
