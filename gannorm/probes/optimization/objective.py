"""A loss as a function of a network's parameters, for the optimization probes.

Every optimization probe takes (network, loss, batch): a module, a closure loss(network, batch) that returns a scalar
tensor, and whatever that closure reads. The closure may call the network several times and use other modules; for a
generator's loss the network is the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import isolated, switched
from gannorm.probes.batch import map_tensors
from gannorm.registry import choices

Loss = Callable[[nn.Module, Any], Tensor]
Point = Mapping[str, Tensor]  # values of parameters, by qualified name

REPEATS_WITHIN = 1e-4  # relative; reordered GPU kernels change a loss by 1e-7, and cancellation may enlarge that


class Objective:
    """θ -> loss(network with parameters θ, batch), at the network's own parameters or, inside `at`, at others."""

    def __init__(self, network: nn.Module, loss: Callable[..., Any], batch: Any) -> None:
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.batch = batch  # may be exchanged for another
        self._network, self._loss = network, loss

    def forward(self) -> Tensor:
        """The loss with its graph. Raises UserError unless it is one number that can be differentiated."""
        value = self._evaluate()
        if not value.requires_grad:
            raise UserError(
                "the loss must depend on what is differentiated: no gradient arrived; unfreeze the network's "
                "parameters and remove no_grad, detach and item from the closure."
            )
        return value

    def value(self) -> float:
        """The loss."""
        return self._evaluate().item()

    def gradient(self, names: Iterable[str] | None = None) -> tuple[float, dict[str, Tensor]]:
        """(loss, ∇loss by parameter), by one forward and one backward pass; `names` ends the backward pass earlier."""
        names = list(self.parameters if names is None else names)
        chosen = [self.parameters[name] for name in names]
        value = self.forward()
        grads = torch.autograd.grad(value, chosen, allow_unused=True)
        zeros_for_none = (torch.zeros_like(p) if g is None else g for p, g in zip(chosen, grads, strict=True))
        return value.item(), dict(zip(names, zeros_for_none, strict=True))

    def checked_gradient(self) -> tuple[float, dict[str, Tensor]]:
        """`gradient`, and one more forward pass that must agree.

        Raises:
            UserError: nothing to train, a gradient that is not finite, or a closure that is not deterministic.
        """
        if not self.parameters:
            raise UserError("a network to differentiate must have parameters that require gradients: it has none.")
        value, grads = self.gradient()
        self.require_finite(value, grads)
        self.require_repeatable(value)
        return value, grads

    def require_finite(self, value: float, grads: Mapping[str, Tensor]) -> None:
        bad = "the loss" if not math.isfinite(value) else ""
        bad = bad or next((f"the gradient of {name!r}" for name, g in grads.items() if not g.isfinite().all()), "")
        if bad:
            raise UserError(
                f"loss and gradients must be finite: {bad} holds NaN or infinity; check the data and the step before."
            )

    def require_repeatable(self, value: float) -> None:
        again = self._evaluate().item()
        if not math.isclose(value, again, rel_tol=REPEATS_WITHIN):
            raise UserError(
                f"`loss` must be deterministic: two calls on the same batch gave {value:.6g} and {again:.6g}; draw "
                "batches and latents before, and pass them as `batch`."
            )

    def at(self, point: Point) -> AbstractContextManager[None]:
        """Inside, the parameters named in `point` hold its values; their own storage is not written."""
        return set_to(self.parameters, point)

    def _evaluate(self) -> Tensor:
        with enough_values():
            value = self._loss(self._network, map_tensors(torch.clone, self.batch))  # which it may work on in place
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"`loss` must return a tensor with one number: got {got}; take the mean.")
        return value.reshape(())


@contextmanager
def objective(network: nn.Module, loss: Loss, batch: Any) -> Iterator[Objective]:
    """Yield the objective; every evaluation starts from the same buffers and random states, and leaves no trace."""
    with isolated(loss, network) as pure, torch.inference_mode(False), torch.enable_grad():
        yield Objective(network, pure, batch)


@contextmanager
def enough_values() -> Iterator[None]:
    """Inside, torch's refusal of batch statistics over a single value is one line for the user."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1" not in str(error):
            raise
        raise UserError(
            f"batch statistics need more than one value a channel: a normalizer of the network got fewer ({error}); "
            "pass a larger batch, or the network in eval mode."
        ) from None


def set_to(parameters: Point, point: Point) -> AbstractContextManager[None]:
    """Inside, the parameters named in `point` hold its values; their own storage is not written."""
    require_shapes(parameters, point)
    # Pointing .data elsewhere, unlike copying, changes no version counter: existing graphs stay valid.
    pairs = [(parameters[name], value) for name, value in point.items()]
    return switched(*((own, "data", value.detach().to(own)) for own, value in pairs))


def require_shapes(parameters: Point, point: Point) -> None:
    """Raises UserError where a value of the point has another shape than the parameter of its name."""
    for name in parameters.keys() & point.keys():
        if (own := tuple(parameters[name].shape)) != (got := tuple(point[name].shape)):
            raise UserError(
                f"a point must hold values of the network's parameters: {name!r} has the shape {own}, got {got}; pass "
                "snapshots of the same network."
            )


def norm(tensors: Iterable[Tensor]) -> float:
    """‖·‖₂ of all entries together."""
    return math.hypot(*(torch.linalg.vector_norm(at_least_single(t)).item() for t in tensors))


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """⟨a, b⟩ over all entries of `a`."""
    return math.fsum((at_least_single(t) * at_least_single(b[name])).sum().item() for name, t in a.items())


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """a − b, over the entries of `a`."""
    return {name: at_least_single(t) - at_least_single(b[name]) for name, t in a.items()}


def moved(point: Point, direction: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """θ + step·direction."""
    return {name: value.detach() + step * direction[name] for name, value in point.items()}


def at_least_single(t: Tensor) -> Tensor:
    """`t`, in float32 if it is of half precision, which overflows in sums of squares."""
    return t.float() if t.element_size() < 4 else t


def chosen(known: Iterable[str], wanted: Sequence[str] | None, kind: str) -> list[str]:
    """The wanted layers, each once, or all that are known. Raises UserError for an unknown layer, or an empty list."""
    known = list(known)
    for name in wanted or ():
        if name not in known:
            raise UserError(f"a layer must be {kind}: got {name!r}; {choices(name, known)}")
    if wanted is not None and not wanted:
        raise UserError("`layers` must name at least one: got none; leave it out for all.")
    return known if wanted is None else list(dict.fromkeys(wanted))


class Result:
    """A probe's result: a dataclass, whose properties are derived from its fields."""

    def to_dict(self) -> dict[str, Any]:
        """Properties and fields in plain JSON types; NaN and infinities become None."""
        return plain(self)  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """`value` in JSON types: arrays and tuples become lists, dataclasses dictionaries, NaN and infinities None."""
    if is_dataclass(value):
        derived = [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        value = {name: getattr(value, name) for name in (*derived, *vars(value))}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
