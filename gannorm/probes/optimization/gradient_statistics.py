"""Statistics of the layers' gradients: their tails, and the agreement of the images.

A kernel's gradient is a sum over images and pixels, Σ_bxy d^{bxy} with d = (input) × (gradient by the output). Without
normalization the summands have the same sign and point to few channels; with it they nearly cancel (Bjorck 2018).

N images, I inputs, O outputs, k × l the kernel, P positions of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import UserError
from gannorm.probes.calls import KERNELS, Call, recorded
from gannorm.probes.optimization.objective import Loss, Result, at_least_single, chosen, objective

CHUNK = 2**22  # numbers held of the summands at one time


@dataclass(frozen=True, eq=False)
class GradientStatistics(Result):
    """The gradients of L layers' kernels, in forward order."""

    layers: tuple[str, ...]
    gradient_norm: np.ndarray  # (L,) ‖∇W‖; the figures below are NaN where it is 0
    histogram: np.ndarray  # (L, bins) counts of the entries of ∇W
    edges: np.ndarray  # (L, bins + 1), symmetric around 0
    kurtosis: np.ndarray  # (L,) E(g−ḡ)⁴ / (E(g−ḡ)²)²; 3 for a Gaussian, more for heavy tails
    range_ratio: np.ndarray  # (L,) (max − min) / standard deviation of the entries; defined here
    sum_of_sizes: np.ndarray  # (L,) a: mean over the kernel of Σ|d|
    size_of_sum: np.ndarray  # (L,) b: mean over the kernel of |Σd|
    alignment: np.ndarray  # (L,) σ_1²/Σσ_k² of M_io, in (0, 1]; 1 for rank 1
    effective_rank: np.ndarray  # (L,) exp(−Σ p_k ln p_k), p_k = σ_k/Σσ, of M_io; ≥ 1
    radial: np.ndarray  # (L,) ⟨W, ∇W⟩ / (‖W‖‖∇W‖), in [−1, 1]; 0 where the loss ignores the length of W

    @property
    def coherence(self) -> np.ndarray:
        """(L,) a/b ≥ 1; 1 means that all summands have the same sign, much more that they cancel."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.sum_of_sizes / self.size_of_sum


def gradient_statistics(
    network: nn.Module, loss: Loss, batch: Any, layers: Sequence[str] | None = None, bins: int = 51
) -> GradientStatistics:
    """Tails, coherence, channel alignment and radial part of the gradient of each layer's kernel.

    With d^{bxy} the summands of a kernel's gradient ∇W = Σ_bxy d^{bxy}: coherence a/b, a = Σ|d|, b = |Σd|, each
    averaged over the kernel; alignment of the channels M_io = Σ_xy |Σ_b d^{bxy}_io|, summed over the kernel's positions
    and over calls too; the radial part ⟨W, ∇W⟩, which is 0 for weights that feed a normalizer through whose statistics
    gradients flow. W is the kernel that multiplies the input, after any weight normalization.

    M holds sizes, so that summands without any order give nearly rank 1 too, the more so the more positions there are:
    compare its rank between networks on one batch, and do not read it alone. The coherence of n summands without any
    order is of order √n. The cost is two forward passes, a backward pass and the sums: five to ten times the time of a
    training step.

    Args:
        network, loss, batch: see `objective`. The first dimension of every layer's input is that of the images.
        layers: names of Linear, Conv2d or ConvTranspose2d modules; by default all that the loss uses.
        bins: of the histogram.

    Returns:
        GradientStatistics.

    Raises:
        UserError: a layer that does not exist or is not used, gradients that are not finite, a loss that is not
            deterministic.

    Source: Bjorck et al. 2018, §3 (a, b, M and the histogram); effective rank: Roy & Vetterli 2007; the radial
    identity: Santurkar et al. 2018; kurtosis is Pearson's; range ratio: defined here.

    >>> net = nn.Linear(1, 1, bias=False)  # the summands of the gradient are the inputs: 3 and −1, over 2 images
    >>> result = gradient_statistics(net, lambda f, x: f(x).mean(), torch.tensor([[3.0], [-1.0]]))
    >>> result.coherence.tolist()
    [2.0]
    """
    if bins < 1:
        raise UserError(f"`bins` must be at least 1: got {bins}; try 51.")
    with objective(network, loss, batch) as o:
        with recorded(network, KERNELS) as calls:
            value = o.forward()
        by_name: dict[str, list[Call]] = {}
        for call in calls:
            if isinstance(call.module, KERNELS):
                by_name.setdefault(call.name, []).append(call)
        if not by_name:
            raise UserError("the loss must use a Linear, Conv2d or ConvTranspose2d layer of the network: it uses none.")
        names = chosen(by_name, layers, "a Linear, Conv2d or ConvTranspose2d that the loss uses")
        used = [call for name in names for call in by_name[name]]
        grads = torch.autograd.grad(value, [c.output for c in used], allow_unused=True)
        cotangents = {id(c): torch.zeros_like(c.output) if g is None else g for c, g in zip(used, grads, strict=True)}
        o.require_finite(value.item(), {c.name: cotangents[id(c)] for c in used})
        o.require_repeatable(value.item())
        with torch.no_grad():
            rows = [_layer([(c, cotangents[id(c)]) for c in by_name[name]], bins) for name in names]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return GradientStatistics(tuple(names), **columns)


def _layer(calls: list[tuple[Call, Tensor]], bins: int) -> dict[str, Any]:
    module = calls[0][0].module
    gradient, sizes, alignment = _sums(calls)
    g = gradient.flatten().cpu().double()
    weight = module.weight.detach().flatten().cpu().double()
    deviation = g - g.mean()
    variance = deviation.square().mean().item()
    top = g.abs().max().item()
    counts, edges = np.histogram(g.numpy(), bins, (-top, top) if top else (-1.0, 1.0))
    singular = torch.linalg.svdvals(alignment.cpu().double())
    share = singular / singular.sum()
    size, length = g.norm().item(), weight.norm().item()
    return {
        "gradient_norm": size,
        "histogram": counts,
        "edges": edges,
        "kurtosis": deviation.pow(4).mean().item() / variance**2 if variance else math.nan,
        "range_ratio": (g.max() - g.min()).item() / math.sqrt(variance) if variance else math.nan,
        "sum_of_sizes": sizes.cpu().double().mean().item(),
        "size_of_sum": g.abs().mean().item(),
        "alignment": (singular[0].square() / singular.square().sum()).item(),
        "effective_rank": torch.special.entr(share).sum().exp().item(),
        "radial": torch.dot(weight, g).item() / (length * size) if length and size else math.nan,
    }


def _sums(calls: list[tuple[Call, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Over all calls of one layer: Σd and Σ|d|, of the kernel's shape, and M as one matrix (groups on its diagonal)."""
    module = calls[0][0].module
    gradient = torch.zeros((), device=calls[0][1].device)
    sizes, by_channel = gradient, gradient
    for call, cotangent in calls:
        for single, patches in _factors(call.module, call.input, cotangent):
            d = torch.einsum("bgow,bgiwkl->wgoikl", single, patches)
            gradient = gradient + d.sum(0)
            by_channel = by_channel + d.abs().sum((0, 4, 5))
            sizes = sizes + torch.einsum("bgow,bgiwkl->goikl", single.abs(), patches.abs())
    return gradient.reshape(module.weight.shape), sizes.reshape(module.weight.shape), torch.block_diag(*by_channel)


def _factors(module: Any, x: Tensor, cotangent: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The factors of the summands d = single × patch, a few positions w at a time: (N,g,O,w) and (N,g,I,w,k,l).

    For a transposed convolution, input and output change places.
    """
    x, cotangent = at_least_single(x), at_least_single(cotangent)
    transposed = isinstance(module, nn.ConvTranspose2d)
    if isinstance(module, nn.Linear):
        x, cotangent = (torch.atleast_2d(t) for t in (x, cotangent))
        flat = (t.reshape(len(t), 1, -1, 1, t.shape[-1]).transpose(2, 4) for t in (x, cotangent))  # (N,1,C,1,P)
        windows, single = next(flat)[..., None, None], next(flat)
    elif transposed:
        single = x.unflatten(1, (module.groups, -1))
        windows = _windows(module, F.pad(cotangent, _both_sides(module.padding)))
        windows = windows[:, :, :, : x.shape[2], : x.shape[3]]  # output padding may add more
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        windows = _windows(module, F.pad(x, module._reversed_padding_repeated_twice, mode))
        single = cotangent.unflatten(1, (module.groups, -1))
    wide = max(1, CHUNK // max(module.weight.numel(), windows[:, :, :, 0, 0].numel()))
    for rows, patches in zip(single.unbind(3), windows.unbind(3), strict=True):
        yield from zip(rows.split(wide, 3), patches.split(wide, 3), strict=True)


def _both_sides(padding: Sequence[int]) -> list[int]:
    return [p for p in reversed(padding) for _ in range(2)]


def _windows(module: Any, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, g, C/g, positions, positions, k, l), a view."""
    for dim, (k, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        x = x.unfold(dim, dilation * (k - 1) + 1, stride)[..., ::dilation]
    return x.unflatten(1, (module.groups, -1))
