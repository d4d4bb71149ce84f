"""A network as a table: its layers, shapes, parameters, and the coupling of its normalizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gannorm.isolate import isolated
from gannorm.losses import LOSSES, PENALTIES
from gannorm.models.blocks import is_normalizer
from gannorm.normalizers import NORMALIZERS, set_reference


@dataclass(frozen=True)
class Layer:
    """One row: a layer, a whole normalizer, or a block with parameters of its own beside its layers'.

    Attributes:
        name: qualified name.
        kind: its class.
        shape: of its output, without the batch.
        parameters: how many; those of all rows together are the network's.
        weight_norm: the parametrization of its weight, "" for none.
        coupling: for a normalizer, what it declares of training mode: "none", "forward", "gradient" or both.
        batches: for a coupled layer, how many images it takes together, in each kind of batch.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    weight_norm: str = ""
    coupling: str = ""
    batches: Mapping[str, int] = field(default_factory=dict)


def describe(network: nn.Module, x: Tensor, norm: str, batches: Mapping[str, int]) -> list[Layer]:
    """The layers of a network in the order in which they finish, normalizers with their declared coupling.

    Args:
        network: one of this package's networks; left as it was.
        x: two inputs, to learn the shapes.
        norm: the name of its activation normalizer.
        batches: kind of batch that it is trained on → images in it.

    >>> from gannorm.models import Discriminator
    >>> rows = describe(Discriminator(8, 1, 4, "batch"), torch.zeros(2, 1, 8, 8), "batch", {"D step": 64})
    >>> [(row.name, row.shape, row.coupling, row.batches) for row in rows if row.coupling][0]
    ('features.0.norm', (4, 8, 8), 'forward, gradient', {'D step': 64})
    """
    rows: list[Layer] = []

    def note(name: str, module: nn.Module, parameters: int) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A minibatch layer declares its coupling itself.
            declared = NORMALIZERS[norm] if is_normalizer(name) else module
            flags = {kind: getattr(declared, f"{kind}_coupling", None) for kind in ("forward", "gradient")}
            coupling = ", ".join(kind for kind, couples in flags.items() if couples)
            is_declared = None not in flags.values()
            rows.append(
                Layer(
                    name,
                    parametrize.type_before_parametrizations(module).__name__,
                    tuple(output.shape[1:]),
                    parameters,
                    _weight_norm(module),
                    coupling or ("none" if is_declared else ""),
                    {kind: _together(module, images) for kind, images in batches.items()} if coupling else {},
                )
            )

        module.register_forward_hook(hook)

    with isolated(network), torch.no_grad():  # which takes the hooks away again
        network.eval()  # a ghost batch or a group of images does not fit into two
        set_reference(network, x)
        for name, module, parameters in _rows(network):
            note(name, module, parameters)
        network(x)
    return rows


def remarks(model: Mapping[str, Any], images: int) -> list[str]:
    """Remarks beside the tables of a GAN's networks: further passes, and coupling outside the layers.

    Args:
        model: the `model` part of a config.
        images: in the batch that a network is shown in one pass.

    Returns:
        One line each.
    """
    loss, lines = LOSSES[model["loss"]], []
    for name in ("generator", "discriminator"):
        entry = NORMALIZERS[model[name]["norm"]]
        passes = "" if name == "generator" else f": {_passes(model)}"
        if entry.reference == "fresh":
            lines.append(f"{name}: every pass in training also takes {images} of the step before as reference{passes}")
        elif entry.reference:
            lines.append(f"{name}: every pass in training also takes its fixed reference batch{passes}")
        if entry.note:
            lines.append(f"{name}: {entry.name} {entry.note}")
        if entry.eval_coupling:
            lines.append(f"{name}: {entry.name} couples the batch in eval mode, too")
    if loss.needs_real and model["g_composition"] == "fake":
        lines.append(f"G step: loss {model['loss']} compares with the real images, which pass too")
    if loss.couples_batch:
        entry = NORMALIZERS[model["discriminator"]["norm"]]
        if entry.forward_coupling or entry.gradient_coupling:
            beside = "as the discriminator does"
        else:
            beside = "although no normalizer of the discriminator does: its probes cannot see it"
        lines.append(f"loss {model['loss']} couples the images of a batch, {beside}")
    lines += _penalties(model, images)
    if model.get("augment", "none") != "none":
        lines.append(f"discriminator: real and fake images alike pass through {model['augment']} first")
    return lines


def _penalties(model: Mapping[str, Any], images: int) -> list[str]:
    """What the penalties show the discriminator, and what they couple."""
    lines, name = [], model.get("penalty", "none")
    if name != "none" and model["penalty_weight"]:
        points = " and ".join(f"{images} {kind}" for kind in PENALTIES[name].passes)
        entry = NORMALIZERS[model["discriminator"]["norm"]]
        beside = ""
        if entry.forward_coupling or entry.gradient_coupling:
            beside = ", which the discriminator couples: no slope is that of one image alone"
        lines.append(f"D step: penalty {name} takes the slopes at {points}, in passes of their own{beside}")
    if model.get("moment_weight"):
        lines.append("D step: moment_weight pulls each layer's mean and variance over a batch: it couples its images")
    return lines


def _passes(model: Mapping[str, Any]) -> str:
    """The number of runs of the discriminator, and of its reference, in a step of each kind."""
    d_step = 1 if model["d_composition"] == "joint" else 2
    separate = LOSSES[model["loss"]].needs_real and model["g_composition"] == "fake"
    return f"{d_step} in a D step, {2 if separate else 1} in a G step"


def _rows(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, parameters) of each row; a normalizer is one row, whatever it is made of."""
    children = [(key, child) for key, child in module.named_children() if key != "parametrizations"]
    whole = not children or is_normalizer(name) or hasattr(module, "forward_coupling")
    parameters = sum(p.numel() for p in module.parameters(recurse=whole))
    if whole or parameters:
        yield name, module, parameters
    if not whole:
        for key, child in children:
            yield from _rows(child, f"{name}.{key}" if name else key)


def _weight_norm(module: nn.Module) -> str:
    if not parametrize.is_parametrized(module, "weight"):
        return ""
    return type(module.parametrizations.weight[0]).__name__.lstrip("_")  # type: ignore[union-attr, index]


def _together(module: nn.Module, images: int) -> int:
    """The number of a batch's images that a coupled layer joins: all, unless it declares otherwise."""
    declared = getattr(module, "together", None)
    return declared(images) if declared else images
