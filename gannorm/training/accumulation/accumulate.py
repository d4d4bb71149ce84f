"""Gradients of a large batch from microbatches, exact also where a normalizer couples the batch.

A batch normalizer reads its batch through a few numbers per channel, and those of the whole batch follow from those of
its microbatches. So microbatches can stand in for a batch if each has the statistics of the others. Let S_l be the
statistics of the l-th call of a batch normalizer, l = 1…L in forward order, s_l(x_k) what microbatch k contributes,
S_l = pool(s_l(x_1), …, s_l(x_K)), and ℓ_k the loss of microbatch k. Exact accumulation takes 2L + 1 sweeps over them:

    1. forward sweeps, l = 1…L:   S_l from s_l(x_k; S_{<l});
    2. adjoint sweeps, l = L…1:   λ_l = Σ_k [∂ℓ_k/∂S_l + Σ_{l'>l} a_{l'k}ᵀ ∂s_{l'}(x_k)/∂S_l],
                                  and from it a_lk = (∂S_l/∂s_l(x_k))ᵀ λ_l;
    3. a final sweep:             ∇ = Σ_k [∂ℓ_k/∂θ + Σ_l a_lkᵀ ∂s_l(x_k)/∂θ].

The memory is that of one microbatch. A layer that is called twice is two of the calls l. Only the batch normalizers of
`pooling` can be treated so; what couples the batch in another way is found by a test in every call, and refused.

N batch, n microbatch, K microbatches, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError, require_positive
from gannorm.isolate import eager, modules_in
from gannorm.probes import coupled_layers
from gannorm.probes.batch import take, tensors
from gannorm.probes.gradients import tolerance
from gannorm.registry import UnknownNameError, choices
from gannorm.training.accumulation.pooling import taken_apart
from gannorm.training.accumulation.sweeps import Sweeps

MODES = ("naive", "frozen", "exact")


def accumulate_gradients(
    f: Callable[..., Any],
    loss: Callable[[Any], Tensor],
    x: Tensor | tuple[Tensor, ...],
    microbatch: int = 16,
    mode: str = "exact",
) -> Tensor:
    """Add the gradient of the mean loss of a batch to `.grad`, with the activations of one microbatch in memory.

    By which statistics a batch normalizer normalizes a microbatch, with L calls of batch normalizers in f:

    - "naive": its own, as ghost batch normalization of that size; 1 sweep over the microbatches.
    - "frozen": those of the whole batch, taken as constants: the forward pass is that of one large batch, the gradient
      lacks the path through the statistics; L + 1 sweeps.
    - "exact": those of the whole batch with their gradient, which is that of one large batch; 2L + 1 sweeps.

    Frozen and exact spend two more passes of one microbatch on a test that nothing else couples the batch. A batch that
    fits into one microbatch takes one sweep in every mode. Statistics that do not reach the loss through a gradient
    (those of a generator under no_grad) take no adjoint sweep.

    A process on a CPU may grow by more than its tensors do, since glibc keeps maps that were freed; it does not, and
    takes more time, with MALLOC_MMAP_THRESHOLD_=65536 in its environment.

    Where several processes each call this function with as large a batch, a SyncBatchNorm is given the statistics of
    them all, and the mean of their gradients is that of the joined batch; in naive mode it joins the k-th microbatches,
    and its running statistics follow the last.

    Running statistics end as after one large batch (in naive mode with the statistics of its microbatches pooled: the
    mean of the variances plus the variance of the means). Other buffers move as in one forward pass: spectral norm
    takes one power iteration. Dropout draws a mask for each microbatch, the same in every sweep. Ghost batches must lie
    within a microbatch. Layers that couple the batch in another way (`noisy`, minibatch layers) work in naive mode
    only, on each microbatch by itself, and what they keep in buffers is then that of the last.

    Args:
        f: a module, or a callable over modules (see `isolate.modules_in`), in the mode in which it is passed. For a
            generator's step it is z ↦ D(G(z)); for a joint batch of real and fake images (images, labels) ↦
            (D(images), labels). Sweeps for statistics run under no_grad, so no gradient can be taken inside it: a
            gradient penalty is a backward pass of its own.
        loss: what f returns for n samples → (n,), one loss for each sample.
        x: N samples, or a tuple of tensors of N samples each, given to f as positional arguments; without a graph.
        microbatch: n ≥ 1 samples. The last may be smaller, except in naive mode, where ghost batches of one size are
            meant.
        mode: one of MODES.

    Returns:
        The mean loss over the batch, detached, ().

    Raises:
        UserError: an unknown mode, a batch that cannot be split so, a loss that is not one number a sample, a layer or
            function that couples the batch in another way.

    Source: defined here.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).double()
    >>> x = torch.randn(32, 3, dtype=torch.float64)
    >>> _ = accumulate_gradients(net, lambda y: y.square().flatten(), x, microbatch=8)
    >>> accumulated = net[0].weight.grad.clone()
    >>> net.zero_grad()
    >>> net(x).square().mean().backward()
    >>> bool(torch.allclose(accumulated, net[0].weight.grad, rtol=1e-10, atol=1e-14))
    True
    """
    x = x if isinstance(x, tuple) else (x,)
    sweeps = Sweeps(f, loss, _split(x, microbatch, mode), mode)
    with eager():
        if not sweeps.own_statistics:
            sweeps.find_statistics()
            if not _independent(sweeps, x):
                raise UserError(_coupling_message(f, take(x, torch.arange(max(2, microbatch))), mode))
            if mode == "exact":
                sweeps.find_adjoints()
        mean_loss = sweeps.accumulate()
    sweeps.move_running_statistics()
    return mean_loss


@torch.no_grad()
def outputs_in_microbatches(
    f: Callable[..., Tensor],
    x: Tensor | tuple[Tensor, ...],
    microbatch: int = 16,
    mode: str = "exact",
    leave_traces: bool = True,
) -> Tensor:
    """f of a whole batch, (N, …), without gradient and with one microbatch in memory: what f gives there in `mode`.

    Args:
        f, x, microbatch, mode: as for `accumulate_gradients`.
        leave_traces: running statistics and other buffers move, as there; otherwise f is left as it was.

    Raises:
        UserError: as there, except that what couples the batch in another way is not searched for.

    >>> from torch import nn
    >>> norm, x = nn.BatchNorm1d(3), torch.randn(32, 3)
    >>> bool(torch.allclose(outputs_in_microbatches(norm, x, microbatch=8), norm(x), atol=1e-6))
    True
    """
    x = x if isinstance(x, tuple) else (x,)
    sweeps = Sweeps(f, lambda y: y.new_zeros(len(y)), _split(x, microbatch, mode), mode)
    with eager():
        if not sweeps.own_statistics:
            sweeps.find_statistics()
        outputs = sweeps.outputs(leave_traces)
    if leave_traces:
        sweeps.move_running_statistics()
    return outputs


def _split(x: tuple[Tensor, ...], microbatch: int, mode: str) -> list[tuple[Tensor, ...]]:
    """The microbatches of a batch that can be accumulated."""
    if mode not in MODES:
        raise UnknownNameError(f"unknown accumulation mode {mode!r}: {choices(mode, MODES)}")
    sizes = sorted({len(t) if t.dim() else 0 for t in x})
    if len(sizes) != 1 or sizes[0] == 0:
        raise UserError(f"`x` must hold the same samples in every tensor, at least one: got batches of {sizes}.")
    if any(t.requires_grad and not t.is_leaf for t in x):
        raise UserError(
            "`x` must not carry a graph, which every microbatch would have to pass: it does; detach it, or put the "
            "network that made it into f, as z ↦ D(G(z))."
        )
    (n,) = sizes
    require_positive(microbatch=microbatch)
    if mode == "naive" and n > microbatch and n % microbatch:
        fitting = max(d for d in range(1, microbatch) if n % d == 0)
        raise UserError(
            f"in naive mode `microbatch` must divide the batch: got microbatch={microbatch}, batch={n}; "
            f"try microbatch={fitting}."
        )
    return list(zip(*(t.split(microbatch) for t in x), strict=True))


def _independent(sweeps: Sweeps, x: tuple[Tensor, ...]) -> bool:
    """Whether samples are judged one by one once the statistics are given: neither values nor gradients couple.

    Of the first microbatch some samples are kept, an odd number, so that no division into pairs or fours escapes, and
    the others exchanged. On the way it is found on which statistics the loss depends.
    """
    n = max(2, len(sweeps.parts[0][0]))
    kept, others = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tensor_split([n // 2 | 1])
    exchanged = torch.arange(n)
    exchanged[others] = (others + 1) % sweeps.batch_size
    ghosts = [call for call in sweeps.calls if not call.layer.pools]
    for call in ghosts:
        call.given = call.table[0][:1]  # they couple by design; with any fixed statistics they must not

    with torch.enable_grad():
        first = tuple(t.detach().requires_grad_(t.is_floating_point()) for t in take(x, torch.arange(n)))
        samples = [t for t in first if t.requires_grad]
        inputs = samples + [call.given.requires_grad_() for call in sweeps.calls if call.given is not None]
        before = _by_sample(sweeps.run(0, first), n)
        total = sum(t[kept.to(t.device)].sum() for t in before)
        grads: Sequence[Tensor | None] = [None] * len(inputs)
        if isinstance(total, Tensor) and total.requires_grad:
            grads = torch.autograd.grad(total, inputs, allow_unused=True)
    with torch.no_grad():
        after = _by_sample(sweeps.run(0, take(x, exchanged)), n)

    for call, grad in zip(sweeps.calls, grads[len(samples) :], strict=True):
        assert call.given is not None
        call.given, call.reached = call.given.detach(), grad is not None
    for call in ghosts:
        call.given = None
    leaks = [_differs(g, torch.zeros_like(g), others) for g in grads[: len(samples)] if g is not None]
    return not any([*leaks, *(_differs(a.detach(), b, kept) for a, b in zip(before, after, strict=True))])


def _by_sample(outputs: tuple[Any, Tensor] | None, n: int) -> list[Tensor]:
    """Every floating tensor of a run's outputs and losses that has a row for each of the n samples."""
    return [t for t in tensors(outputs) if t.is_floating_point() and t.dim() and len(t) == n]


def _differs(a: Tensor, b: Tensor, index: Tensor) -> bool:
    """Whether rows `index` of a and b differ by more than rounding."""
    size = max(a.abs().max().item(), b.abs().max().item())
    return (a - b)[index.to(a.device)].abs().max().item() > tolerance(a.dtype) * size


def _coupling_message(f: Callable[..., Any], x: tuple[Tensor, ...], mode: str) -> str:
    modules = {
        f"{prefix}.{name}".strip("."): module
        for prefix, root in modules_in(f).items()
        for name, module in root.named_modules()
    }
    names = coupled_layers(f, x[0] if len(x) == 1 else x)
    unknown = [name for name in names if name not in modules or taken_apart(modules[name]) is None]
    culprits = ", ".join(repr(name) if name else "f itself" for name in unknown) or "f or the loss"
    return (
        f"{mode} accumulation needs samples that only known batch normalizers couple: {culprits} couples them too; use "
        "mode='naive', where it sees each microbatch alone, or another layer."
    )
