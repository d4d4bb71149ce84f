"""Virtual batch normalization: each image with a fixed reference batch, never with its own batch.

The reference images pass through the same layers with the same weights, so their statistics move as the network
learns. `set_reference(network, images)` gives them to a whole network once; from then on every training-mode call of
the network first runs them through and lets gradients reach the weights through their statistics, at the price of a
second forward and backward pass. In eval mode, and in a network restored without its reference, the statistics of the
last such pass serve, as running statistics do for BatchNorm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.normalizers.slots import normalizer
from gannorm.normalizers.statistics import affine, batch_dims, moments


@normalizer("virtual", forward_coupling=False, gradient_coupling=False, needs_reference=True)
class VirtualBatchNorm(nn.Module):
    """x̂_n = (x_n − μ_n)/√(q_n − μ_n² + ε), where image n counts as one more image of the reference batch of R.

    μ_n = (mean_HW x_n + R·μ_ref)/(R + 1), q_n = (mean_HW x_n² + R·q_ref)/(R + 1); y = γ·x̂ + β. The reference batch
    itself is normalized by μ_ref and q_ref alone.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.

    Raises:
        UserError: used before `set_reference` was called on the network.

    Source: Salimans et al. 2016, section 3.5; the weights 1 and R are those of its published code.
    """

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

    def forward(self, x: Tensor) -> Tensor:
        if self.collecting:
            mean, variance = self.live = moments(x, batch_dims(x))
            with torch.no_grad():  # in place, as a step that is replayed as a CUDA graph must
                self.ref_mean.copy_(mean)
                self.ref_var.copy_(variance)
                self.ref_size.fill_(len(x))
        else:
            self._check_reference()
            ref_mean, ref_var = self.live or (self.ref_mean, self.ref_var)
            own_mean, own_variance = moments(x, tuple(range(2, x.dim())))
            share = 1 / (self.ref_size + 1)
            # The variance of the image and the reference together, without the cancellation of q − μ².
            difference = own_mean - ref_mean
            mean = ref_mean + share * difference
            variance = torch.lerp(ref_var, own_variance, share) + share * (1 - share) * difference.square()
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return affine(x, scale, self.bias - mean * scale)

    @torch.compiler.disable  # reading a number from a tensor would break the compiled graph
    def _check_reference(self) -> None:
        if not self.referenced and not self.ref_size:
            raise UserError(
                "virtual batch normalization needs its reference batch first: none was set; "
                "call set_reference(network, images)."
            )

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


def set_reference(network: nn.Module, reference: Tensor) -> None:
    """Give every virtual normalizer of a network its reference batch; without one in it, nothing happens.

    Args:
        network: the whole network, whose call takes the batch as its only argument.
        reference: R inputs of the network (images of a discriminator, latents of a generator), chosen once.

    Raises:
        UserError: an empty reference batch.
    """
    if not _virtual_layers(network):
        return
    if len(reference) == 0:
        raise UserError("the reference batch must hold at least one image: got none.")
    if not hasattr(network, "reference"):
        network.register_forward_pre_hook(_refresh)
        network.register_forward_hook(_release, always_call=True)
    # Not in checkpoints: whoever resumes sets it again, and to sample only the statistics are needed.
    network.register_buffer("reference", reference.detach().clone(), persistent=False)
    with torch.no_grad(), collecting(network):
        network(network.reference)
    for layer in _virtual_layers(network):
        layer.referenced = True


def _refresh(network: nn.Module, inputs: Any) -> None:
    if network.training and not any(layer.collecting for layer in _virtual_layers(network)):
        with collecting(network, release=False):
            network(network.reference)


def _release(network: nn.Module, inputs: Any, output: Any) -> None:
    """Let go of the moments' graph, so that the network can be copied and saved between calls."""
    for layer in _virtual_layers(network):
        if not layer.collecting:
            layer.live = None


@contextmanager
def collecting(network: nn.Module, release: bool = True) -> Iterator[None]:
    """In the block, the virtual layers take whatever batch passes for their reference, as BatchNorm would.

    Without `release`, they keep the graph of its moments for the next call.
    """
    layers = _virtual_layers(network)
    try:
        for layer in layers:
            layer.collecting = True
        yield
    finally:
        for layer in layers:
            layer.collecting = False
            layer.live = layer.live if not release else None


def _virtual_layers(network: nn.Module) -> list[VirtualBatchNorm]:
    return [m for m in network.modules() if isinstance(m, VirtualBatchNorm)]
