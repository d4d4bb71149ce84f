"""Semantic coupling or floating point? Change only the other images, and compare bit by bit.

A batch-independent network changes in the last bits when the *size* of the batch changes, since kernels choose another
order of summation. At a fixed shape and position it must not change at all, whatever the other images show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import isolated
from gannorm.isolate.state import AttributeState
from gannorm.probes.batch import (
    Function,
    Output,
    Run,
    batch_size_of,
    codes,
    default_generator,
    map_tensors,
    per_sample,
    permutation,
    running,
    selecting,
    take,
    tensors,
)

# Rounding shrinks by about 2^29 from float32 to float64; a semantic change does not. Half-way is a safe border.
ROUNDING_SHRINKS_BY = 2.0**14
FEW = 4  # draws of noise where the cost is bounded
PRECISIONS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class SwapTest:
    """Changes of the outputs, in their own unit, when other samples change, and the floor set by rounding."""

    bitwise_equal: bool
    max_change: float  # largest |Δf_i| when only others change, at fixed shape and position
    max_change_fp32: float | None  # that swap, repeated if there is noise, with f in float32; None if f does not run so
    max_change_fp64: float | None
    floor_fp32: float | None  # largest |Δf_i| when the samples change places; None if f does not run so
    floor_fp64: float | None
    noise: float  # largest |Δf_i| between two calls on the same batch: 0 unless f does not repeat itself

    @property
    def floor_ratio(self) -> float | None:
        """floor_fp32 / floor_fp64: about 2^29 if rounding alone sets them; None if either is unknown or both are 0."""
        return self.floor_fp32 / self.floor_fp64 if self.floor_fp32 is not None and self.floor_fp64 else None

    @property
    def verdict(self) -> Literal["independent", "rounding", "unrepeatable", "coupled"]:
        """Whether the outputs are bitwise independent of others, differ as rounding does, or are coupled.

        "unrepeatable": two calls on the same batch differ about as much, and not as rounding does; nothing is known.
        """
        if self.bitwise_equal:
            return "independent"
        fp32, fp64 = self.max_change_fp32, self.max_change_fp64
        shrinks = fp32 is not None and fp64 is not None and fp64 * ROUNDING_SHRINKS_BY <= fp32
        if shrinks and (fp32 or not self.noise):  # 0 in both may be noise that did not come
            return "rounding"
        return "unrepeatable" if self.max_change <= 2 * self.noise else "coupled"


def unrepeatable(swap: SwapTest) -> str:
    """The reason for that verdict, and the remedy."""
    return (
        f"two calls on the same batch differ by up to {swap.noise:.3g}; the function's own code, outside any module, "
        "is random or keeps a state: let it draw from the global generators of torch, numpy or random, whose states "
        "are put back before each call, keep the state in a module, or use deterministic algorithms."
    )


def swap_test(
    f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0, output: Output = None
) -> SwapTest:
    """Whether the output for a sample stays bitwise the same when only the other samples change.

    The samples are numbered at random; for each bit of the numbers, the samples with that bit set are replaced by
    others of the batch, then those with it clear: 2·⌈log₂N⌉ swaps, in which every sample is once kept while any given
    other one changes. The floors move the samples to other positions. Every batch has N samples.

    Args:
        f: (N, …) -> (N, …). No gradient is needed.
        x: N ≥ 2 samples that are not all the same.
        generator: chooses the replacements; by default a fresh one with seed 0.
        batch_dim: the dimension of the samples in every tensor of `x`.
        output: which of several outputs, see `selecting`.

    Returns:
        SwapTest. .bitwise_equal: no sample noticed a swap; .max_change = 0 then. A floor is None where f does not run
        in that precision, as TorchScript never does in another one than its own.

    Raises:
        UserError: fewer than two samples, samples that are all the same, outputs without a batch or not finite.

    Source: defined here.

    >>> swap_test(lambda x: x.square().sum(1), torch.randn(8, 3)).verdict
    'independent'
    >>> swap_test(lambda x: (x - x.mean(0)).sum(1), torch.randn(8, 3)).verdict
    'coupled'
    """
    return compare_swaps(selecting(f, output), x, default_generator(generator), batch_dim)


def compare_swaps(f: Function, x: Any, generator: torch.Generator, batch_dim: int, floors: bool = True) -> SwapTest:
    """`swap_test`; without `floors`, what is needed for its verdict alone."""
    n = batch_size_of(x, batch_dim)
    plan = plan_swaps(codes(n, generator), generator)
    same = [take(x, source, batch_dim) for _, source in plan]
    if all(map(torch.equal, tensors(x) * len(plan), tensors(same))):
        raise UserError("the samples must differ, to be swapped: all of them are the same; pass different samples.")
    everyone = torch.arange(n)
    batches = [everyone, *(source for _, source in plan)]
    with running(f, x) as run, torch.no_grad():
        base, *swapped = outputs = [_outputs(run, take(x, batch, batch_dim), batch_dim) for batch in batches]
        changes = [_largest(base, after, kept, kept) for after, (kept, _) in zip(swapped, plan, strict=True)]
        worst = max(range(len(plan)), key=changes.__getitem__)

        def differ(again: Iterable[int]) -> float:
            """The largest change of an output between two calls on the same batch, for some of the batches."""
            repeated = ((i, _outputs(run, take(x, batches[i], batch_dim), batch_dim)) for i in again)
            return max(_largest(outputs[i], after, everyone, everyone) for i, after in repeated)

        # Noise that comes at a few calls only came at one of the two that differ most. Where it comes at all, as many
        # draws of it are compared as of the changes.
        noise = differ((0, 1 + worst)) if changes[worst] else 0.0
        draws = len(plan) if floors else min(len(plan), FEW)
        noise = max(noise, differ(range(draws + 1))) if noise else 0.0
    order = permutation(n, generator) if floors else None
    swaps = [plan[worst]] * (draws if noise else 1)
    unknown = not floors and not changes[worst]
    pairs = [(None, None) if unknown else _in_precision(dtype, run, x, swaps, order, batch_dim) for dtype in PRECISIONS]
    (swap_fp32, floor_fp32), (swap_fp64, floor_fp64) = pairs
    return SwapTest(changes[worst] == 0, changes[worst], swap_fp32, swap_fp64, floor_fp32, floor_fp64, noise)


def plan_swaps(bits: list[Tensor], generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """(kept, source) pairs: sample i of the swapped batch is sample source[i]; those in `kept` are themselves.

    With all bits of `codes`, every sample is kept in some swap while any given other one is replaced by a kept one.
    """
    plan = []
    for is_kept in (kept for bit in bits for kept in (bit, ~bit)):
        number = torch.arange(len(is_kept))
        kept = number[is_kept]
        drawn = torch.randint(len(kept), (len(number),), generator=generator, device=generator.device).cpu()
        plan.append((kept, torch.where(is_kept, number, kept[drawn])))
    return plan


def _outputs(run: Run, x: Any, batch_dim: int) -> Tensor:
    return per_sample(run(x), batch_size_of(x, batch_dim), batch_dim)


def _largest(first: Tensor, second: Tensor, i: Tensor, j: Tensor) -> float:
    """max |first[i] − second[j]|; exactly 0 only if they are equal (no difference of two floats underflows to 0)."""
    if first.shape[1:] != second.shape[1:]:
        raise UserError(
            f"the output for a sample must have one shape, whatever the batch: got {tuple(first.shape[1:])} and "
            f"{tuple(second.shape[1:])}; pad it, or choose another with `output=`."
        )
    a, b = first[i.to(first.device)], second[j.to(second.device)]
    return float((a - b).abs().max()) if a.numel() else 0.0


def _in_precision(
    dtype: torch.dtype, run: Run, x: Any, plan: list[tuple[Tensor, Tensor]], order: Tensor | None, batch_dim: int
) -> tuple[float | None, float | None]:
    """(largest change by the swaps, floor) with f and x in `dtype`; None where f does not run so.

    For the floor the samples are at other positions, in the `order`, if one is given.
    """
    swap = floor = None
    # Exception: whatever a third-party network raises when it meets another precision, and a device without float64.
    with (
        isolated(run.pure.f, *run.roots.values()) as pure,
        torch.no_grad(),
        torch.autocast(tensors(x)[0].device.type, enabled=False),
        contextlib.suppress(Exception),
    ):
        cast(run.roots.values(), dtype)
        run = Run(pure, run.spread)
        x = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, x)
        base = _outputs(run, x, batch_dim)
        swaps = (_largest(base, _outputs(run, take(x, s, batch_dim), batch_dim), kept, kept) for kept, s in plan)
        swap = max(swaps)
        if order is not None:
            moved = _outputs(run, take(x, order, batch_dim), batch_dim)
            floor = _largest(base, moved, order, torch.arange(len(order)))
    return swap, floor


def cast(roots: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Give the modules tensors of another precision (to be undone by `isolated`); what was shared stays shared."""

    def converted(t: Tensor) -> Tensor:
        if not t.is_floating_point() or t.dtype == dtype:
            return t
        return nn.Parameter(t.to(dtype), t.requires_grad) if isinstance(t, nn.Parameter) else t.detach().to(dtype)

    modules = [m for root in roots for m in root.modules()]
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode cannot be differentiated by
        AttributeState(modules).replace(converted)
    if any(t.is_floating_point() and t.dtype != dtype for m in modules for t in (*m.parameters(), *m.buffers())):
        raise TypeError("TorchScript keeps its precision")
