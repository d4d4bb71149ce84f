"""Normalizers whose statistics come from a reference batch, which passes through the same layers but gets no logit.

The reference passes with the same weights, so its statistics move as the network learns: every training-mode call of
the network first runs the reference through, at the price of a second pass. In eval mode, and in a network restored
without its reference, the statistics of the last such pass serve, as running statistics do for BatchNorm.

A layer class declares which reference it wants: "fixed", chosen once, or "fresh", another one at every training step.
This is one mechanism for both:

    set_reference(network, batch)               # once, for every kind
    refresh_reference(network, real, fake)      # after each training step; only "fresh" layers take it

N batch, R reference batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import affine, batch_dims, moments


class ReferenceStatistics(nn.Module):
    """A normalizer by the moments of a reference batch; a subclass says how they enter in `combined`.

    The reference batch itself is normalized by its own moments, as BatchNorm does.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.

    Raises:
        UserError: used before `set_reference` was called on the network.
    """

    reference_kind = "fixed"  # or "fresh"
    gradient = True  # whether gradients pass through the moments of the reference

    ref_mean: Tensor
    ref_var: Tensor
    ref_size: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("ref_mean", torch.zeros(channels))
        self.register_buffer("ref_var", torch.ones(channels))
        self.register_buffer("ref_size", torch.zeros(()))  # R; 0 until the reference is set
        self.collecting = False
        self.live: tuple[Tensor, Tensor] | None = None  # the reference's moments with their graph, within a call
        self.referenced = False  # whether `set_reference` was called, which is known without asking the device

    def combined(self, x: Tensor, ref_mean: Tensor, ref_var: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and variance that normalize x, (C,) or (N, C) each, from the reference's, (C,)."""
        return ref_mean, ref_var

    def forward(self, x: Tensor) -> Tensor:
        if self.collecting:
            mean, variance = moments(x, batch_dims(x))
            if not self.gradient:
                mean, variance = mean.detach(), variance.detach()
            self.live = mean, variance
            with torch.no_grad():  # in place, as a step that is replayed as a CUDA graph must
                self.ref_mean.copy_(mean)
                self.ref_var.copy_(variance)
                self.ref_size.fill_(len(x))
        else:
            self._check_reference()
            mean, variance = self.combined(x, *(self.live or (self.ref_mean, self.ref_var)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return affine(x, scale, self.bias - mean * scale)

    @torch.compiler.disable  # reading a number from a tensor would break the compiled graph
    def _check_reference(self) -> None:
        if not self.referenced and not self.ref_size:
            raise UserError(
                "this normalizer needs its reference batch first: none was set; call set_reference(network, images)."
            )

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


@normalizer(
    "reference",
    title="reference BatchNorm",
    forward_coupling=False,
    gradient_coupling=False,
    channels_last=True,
    note="normalizes by images of the step before, half real and half fake, which pass beside each batch",
)
class ReferenceBatchNorm(ReferenceStatistics):
    """x̂ = (x − μ_ref)/√(σ²_ref + ε), y = γ·x̂ + β: BatchNorm with the statistics of a fresh batch that gets no logit.

    The reference of a discriminator is as large as a batch, half real and half fake images of the training step before;
    that of a generator or classifier is the step before's latents or images. So no image with a logit is in the
    statistics. Beside `batch` and `detached` it separates the companions in the statistics from the gradient
    through them; its composition differs too, since `batch` sees pure batches in separate steps. Before the first step
    the reference is made of the images that initialize the network. In the generator's step nothing that is trained
    stands behind the discriminator's reference, so there no gradient passes through it.

    Args:
        channels: C.
        gradient: whether gradients reach the weights through μ_ref and σ²_ref; without, the reference passes without a
            backward pass.
        eps: ε > 0, added to the variance.

    Raises:
        UserError: used before `set_reference` was called on the network.

    Source: defined here, after the virtual batch normalization of Salimans et al. 2016, section 3.5.
    """

    reference_kind = "fresh"

    def __init__(self, channels: int, gradient: bool = True, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.gradient = gradient

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gradient={self.gradient}"


def set_reference(network: nn.Module, reference: Tensor) -> None:
    """Set the reference batch of every layer that needs one; does nothing for a network without such layers.

    Args:
        network: the whole network, whose call takes the batch as its only argument.
        reference: R inputs of the network (images of a discriminator, latents of a generator).

    Raises:
        UserError: an empty reference batch.
    """
    if not _layers(network):
        return
    if len(reference) == 0:
        raise UserError("the reference batch must hold at least one image: got none.")
    if not hasattr(network, "reference"):
        network.register_forward_pre_hook(_run_reference)
        network.register_forward_hook(_release, always_call=True)
    # Not in state dicts: a resumed run sets it again, and sampling needs the statistics only.
    network.register_buffer("reference", reference.detach().clone(), persistent=False)
    with torch.no_grad(), collecting(network):
        network(network.reference)
    for layer in _layers(network):
        layer.referenced = True


@torch.no_grad()
def refresh_reference(network: nn.Module, *batches: Tensor, view: Callable[[Tensor], Tensor] | None = None) -> None:
    """Replace a fresh reference by an equal part of each of `batches`, (N, …) each, N in all, as they are now.

    Only the next call of the network runs it through. A network without a "fresh" layer is left as it is.

    Args:
        network: the network that `set_reference` was called on.
        batches: inputs of the network that are not in the next call; half real and half fake ones.
        view: what the network is shown of them, an augmentation say.
    """
    if not wants_fresh(network):
        return
    count, kinds = len(batches[0]), len(batches)
    parts = [batch[:count][k::kinds] for k, batch in enumerate(batches)]
    images = torch.cat(parts).detach()
    if view is not None:
        images = view(images)
    present: Any = network.reference
    if present.shape == images.shape:
        present.copy_(images)  # in place, as a step that is replayed as a CUDA graph must
    else:
        network.register_buffer("reference", images.to(present).clone(), persistent=False)


def wants_fresh(network: nn.Module) -> bool:
    """Whether a layer of the network takes a new reference at every step."""
    return any(layer.reference_kind == "fresh" for layer in _layers(network))


def fresh_references(module: nn.Module) -> dict[str, Tensor]:
    """Name of each network inside → its fresh reference: what a checkpoint must hold for a run to continue from it."""
    networks = {name: m for name, m in module.named_modules() if "reference" in m._buffers and wants_fresh(m)}
    return {name: network.get_buffer("reference") for name, network in networks.items()}


@torch.no_grad()
def restore_references(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Give the networks inside a module the references that `fresh_references` returned."""
    for name, reference in saved.items():
        refresh_reference(module.get_submodule(name), reference)


@contextmanager
def collecting(network: nn.Module, release: bool = True) -> Iterator[None]:
    """In the block, layers with a reference use the current batch instead, as BatchNorm does.

    Without `release`, they keep the graph of its moments for the next call.
    """
    layers = _layers(network)
    try:
        for layer in layers:
            layer.collecting = True
        yield
    finally:
        for layer in layers:
            layer.collecting = False
            layer.live = layer.live if not release else None


def _run_reference(network: nn.Module, inputs: Any) -> None:
    layers = _layers(network)
    if not network.training or any(layer.collecting for layer in layers):
        return
    gradient = any(layer.gradient for layer in layers)
    with torch.set_grad_enabled(gradient and torch.is_grad_enabled()), collecting(network, release=False):
        network(network.reference)
    if not gradient:
        torch.clear_autocast_cache()  # it may hold weights that were cast without gradient


def _release(network: nn.Module, inputs: Any, output: Any) -> None:
    """Free the moments' graph, so that the network can be copied and saved between calls."""
    for layer in _layers(network):
        if not layer.collecting:
            layer.live = None


def _layers(network: nn.Module) -> list[ReferenceStatistics]:
    return [m for m in network.modules() if isinstance(m, ReferenceStatistics)]
