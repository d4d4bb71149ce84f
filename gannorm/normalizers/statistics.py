"""Parts of the hand-written normalizers: differentiable moments, one affine pass, and running statistics.

A normalizer is a few numbers per channel (or per image and channel) computed from the map, and one multiply-add over
the map. Those two steps are written for speed, each one new map forward and backward; all else is the formula.
Statistics are computed in at least float32, whatever the input.

N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gannorm.errors import UserError

Running = tuple[Tensor, Tensor, Tensor]  # running mean, running variance, forward passes
CACHED = 2**16  # values, 512 KiB in float64


def moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `dims`, in at least float32, with the gradient of both in a single pass.

    ∂L/∂x = (∂L/∂μ + 2·∂L/∂σ²·(x − μ))/n, n values in each mean.

    Args:
        x: a map (N, C, H, W).
        dims: the dimensions averaged over.

    Returns:
        μ and σ² with the other dimensions of x.

    >>> mean, variance = moments(torch.tensor([[1.0, 3.0]]), (1,))
    >>> mean, variance
    (tensor([2.]), tensor([1.]))
    """
    if torch.compiler.is_compiling():  # which fuses plain steps, and in torch 2.11 loses gradients of ours
        variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), dims, correction=0)
        return mean, variance
    return _Moments.apply(x, dims)


def pooled_moments(means: Tensor, variances: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all values from those of K parts: μ = Σ_k w_k·μ_k, σ² = Σ_k w_k·(σ²_k + (μ_k − μ)²).

    Args:
        means: μ_k, (K, C).
        variances: σ²_k, (K, C).
        shares: w_k = n_k/n of the values in part k, (K, 1).

    Returns:
        μ and σ², (C,) each.

    Source: Chan et al. 1979.

    >>> pooled_moments(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1), torch.tensor([[0.5], [0.5]]))
    (tensor([2.]), tensor([1.]))
    """
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale·x + shift in one pass, in the precision of x, for scale and shift of shape (C,) or (N, C).

    It is torch's eval-mode batch normalization with mean 0 and variance 1, whose kernels read and write each map once
    in both directions; with a scale for each image, images take the place of channels.

    >>> affine(torch.ones(1, 2, 1, 1), torch.tensor([2.0, 3.0]), torch.tensor([0.5, 0.0])).flatten()
    tensor([2.5000, 3.0000])
    """
    if scale.dim() == 2 and not x.is_contiguous():  # channels_last: viewing images as channels would copy the map
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None]).to(x.dtype)
    rows = x if scale.dim() == 1 else x.view(1, -1, *x.shape[2:])
    scale, shift = scale.flatten(), shift.flatten()
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    # torch refuses ε = 0; 1 + 1e-30 is 1 in every precision.
    return F.batch_norm(rows, zero, one, scale, shift, training=False, eps=1e-30).view_as(x)


def channel_products(a: Tensor, b: Tensor, origin: Tensor) -> Tensor:
    """Σ a·(b − origin) over everything but the channels, (C,), without a map in between.

    It is the weight gradient of a batch normalization with mean `origin` and variance 1 whose incoming gradient is a.
    """
    one = torch.ones_like(origin)
    backward = torch.ops.aten.native_batch_norm_backward
    return backward(a, b, one, None, None, origin, one, True, 0.0, [False, True, False])[1]


class BatchStatistics(nn.Module):
    """A normalizer with statistics over the batch, which keeps running averages for eval mode.

    It holds the names of torch's BatchNorm2d (weight γ, bias β, running_mean, running_var), so that state dicts can be
    exchanged with it, and it is BatchNorm2d in eval mode.

    In training mode it is made of three steps, which a subclass gives: the statistics of a batch, differentiable and
    small; the output, given statistics; what the running statistics move toward. Exact accumulation of gradients
    (`gannorm.training.accumulation`) uses the steps by themselves, and one more: pooling the statistics of several
    microbatches into those of all of them.

    A class whose steps may be used so says `taken_apart = True`; this is not inherited, since a subclass may compute
    something else. `pools = False`: its statistics belong to a part of a batch, and there is nothing to pool.

    Args:
        channels: C.
        eps: ε > 0, added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].
    """

    taken_apart = False
    pools = True

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def normalize(self, x: Tensor) -> Tensor:
        """The training-mode forward pass; it moves the running statistics."""
        running = self.running()  # first: a compiled graph breaks here, and no value with a gradient may cross it
        statistics = self.statistics(x)
        for mean, variance in self.targets([statistics.detach()], [x.numel() // x.shape[1]]):
            self.track(mean, variance)
        return self.output(x, statistics, running)

    def statistics(self, x: Tensor) -> Tensor:
        """(2, C), differentiable, in at least float32: here the mean and the biased variance."""
        return torch.stack(moments(x, batch_dims(x)))

    def output(self, x: Tensor, statistics: Tensor, running: Running) -> Tensor:
        """y by the statistics of its batch; `running` are the layer's own before this pass."""
        return self.by_moments(x, *statistics)

    def by_moments(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """γ·(x − mean)/√(variance + ε) + β."""
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return affine(x, scale, self.bias - mean * scale)

    def pool(self, table: Tensor, counts: list[int]) -> Tensor:
        """(K, 2, C) and the values a channel behind each of the K -> (2, C), differentiable."""
        if len(table) == 1:
            return table[0]
        return torch.stack(pooled_moments(table[:, 0], table[:, 1], shares(table, counts)))

    def targets(self, table: list[Tensor], counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The targets of the running statistics, one after the other."""
        mean, variance = self.pool(torch.stack(table), counts)
        yield mean, variance * unbiased(sum(counts))

    def together(self, images: int) -> int:
        """The number of images that share statistics, in a batch of this size."""
        return images

    @torch.compiler.disable  # a compiled backward pass would read these buffers again, after `track` has moved them
    def running(self) -> Running:
        """Copies of the running mean, variance and the number of forward passes."""
        return self.running_mean.clone(), self.running_var.clone(), self.num_batches_tracked.clone()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        require_values(x)
        self.num_batches_tracked.add_(1)
        return self.normalize(x)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics toward those of one batch."""
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, momentum={self.momentum}"


def batch_dims(x: Tensor) -> tuple[int, ...]:
    """The batch and the pixels: everything but the channels."""
    return (0, *range(2, x.dim()))


def require_values(x: Tensor) -> None:
    """Raises UserError for a batch, or part of one, without a variance."""
    if x.numel() == x.shape[1]:
        raise UserError(
            f"batch statistics need more than one value a channel: got a batch of shape {tuple(x.shape)}; "
            "use more images, larger maps or eval mode."
        )


def shares(table: Tensor, counts: list[int]) -> Tensor:
    """n_k/n, (K, 1), on the device of a table (K, …)."""
    return table.new_tensor([count / sum(counts) for count in counts])[:, None]


def unbiased(count: int) -> float:
    """The factor that makes the biased variance of this number of values unbiased."""
    return count / (count - 1)


def _exact_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The mean in float64, over chunks of images whose float64 copies fit into a CPU cache."""
    within = tuple(d for d in dims if d)
    if not within:
        return x.mean(dims, dtype=torch.float64)
    parts = x.split(max(1, CACHED // max(1, x[:1].numel())))
    wide = torch.empty_like(parts[0], dtype=torch.float64)  # one for all: fresh memory takes longer than the sums
    means = torch.cat([wide[: len(part)].copy_(part).mean(within) for part in parts])
    return means.mean(0) if 0 in dims else means


class _Moments(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if not dims:  # torch would reduce all
            return x.clone(), torch.zeros_like(x)
        trailing = dims == tuple(range(x.dim() - len(dims), x.dim()))
        by_channel = x.dim() > 2 and dims == batch_dims(x)
        if x.device.type != "cpu" or not (by_channel or (trailing and x.is_contiguous())):
            variance, mean = torch.var_mean(x, dims, correction=0)
            return mean, variance
        # On a CPU var_mean takes six times as long as this: Σ x·(x − o) − n·o·(μ − o) = n·σ² with o = μ in the map's
        # precision. It takes a μ that is exact to more bits than that: σ² would be off by μ²·2⁻²⁴.
        exact = _exact_mean(x, dims)
        mean = exact.to(x.dtype)
        rows = x.reshape(1, mean.numel(), -1) if trailing else x
        products = channel_products(rows, rows, mean.flatten()).view_as(mean) * (mean.numel() / x.numel())
        return mean, (products - mean * (exact - mean).to(x.dtype)).clamp_(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.dims = inputs
        ctx.save_for_backward(x, output[0])

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        n = x.numel() // mean.numel()
        slope = grad_variance * (2 / n)
        shape = [1 if d in ctx.dims else size for d, size in enumerate(x.shape)]
        grad = torch.addcmul((grad_mean / n - slope * mean).view(shape), x, slope.view(shape))
        return grad.to(x.dtype), None
