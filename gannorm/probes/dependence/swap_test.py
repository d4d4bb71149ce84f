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
from gannorm.isolate import isolated, modules_in
from gannorm.probes.batch import (
    Function,
    Run,
    batch_size_of,
    codes,
    concatenate,
    default_generator,
    map_tensors,
    per_sample,
    permutation,
    running,
    take,
    tensors,
)

# Rounding shrinks by about 2^29 from float32 to float64; a semantic change does not. Half-way is a safe border.
ROUNDING_SHRINKS_BY = 2.0**14


@dataclass(frozen=True)
class SwapTest:
    """Changes of the outputs, in their own unit, when other samples change, and the floor set by rounding."""

    bitwise_equal: bool
    max_change: float  # largest |Δf_i| when only others change, at fixed shape and position
    max_change_fp32: float | None  # that swap, repeated if there is noise, with f in float32; None if f does not run so
    max_change_fp64: float | None
    floor_fp32: float | None  # largest |Δf_i| when sample i moves and the batch doubles; None if f does not run so
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
    """Why that verdict, and what to do about it."""
    return (
        f"two calls on the same batch differ by up to {swap.noise:.3g}; let it draw from the global generators of "
        "torch, numpy or random, whose states are put back before each call, or use deterministic algorithms."
    )


def swap_test(f: Function, x: Any, generator: torch.Generator | None = None, batch_dim: int = 0) -> SwapTest:
    """Whether the output for a sample stays bitwise the same when only the other samples change.

    The samples are numbered at random; for each bit of the numbers, the samples with that bit set are replaced by
    others of the batch, then those with it clear: 2·⌈log₂N⌉ swaps, in which every sample is once kept while any given
    other one changes. The floors move the samples to other positions in a batch of twice the size.

    Args:
        f: (N, …) -> any output with a batch; every floating tensor in it is compared. No gradient is needed.
        x: N ≥ 2 samples that are not all the same.
        generator: chooses the replacements; by default a fresh one with seed 0.
        batch_dim: the dimension of the samples in every tensor of `x`.

    Returns:
        SwapTest. .bitwise_equal: no sample noticed a swap; .max_change = 0 then. A floor is None where f does not run
        in that precision or at twice the batch; of a coupled f it is no floor, since other samples come into the batch.

    Raises:
        UserError: fewer than two samples, samples that are all the same, outputs without a batch or not finite.

    Source: defined here.

    >>> swap_test(lambda x: x.square().sum(1), torch.randn(8, 3)).verdict
    'independent'
    >>> swap_test(lambda x: (x - x.mean(0)).sum(1), torch.randn(8, 3)).verdict
    'coupled'
    """
    generator = default_generator(generator)
    n = batch_size_of(x, batch_dim)
    plan = plan_swaps(codes(n, generator), generator)
    same = [take(x, source, batch_dim) for _, source in plan]
    if all(map(torch.equal, tensors(x) * len(plan), tensors(same))):
        raise UserError("the samples must differ, to be swapped: all of them are the same; pass different samples.")
    everyone = torch.arange(n)
    batches = [everyone, *(source for _, source in plan)]
    with running(f, x) as run, torch.no_grad():
        base, *swapped = outputs = [_outputs(run, take(x, batch, batch_dim), batch_dim) for batch in batches]
        changes = [_largest(base, found, kept, kept) for found, (kept, _) in zip(swapped, plan, strict=True)]
        worst = max(range(len(plan)), key=changes.__getitem__)

        def differ(again: Iterable[int]) -> float:
            """The largest change of an output between two calls on the same batch, for some of the batches."""
            repeated = ((i, _outputs(run, take(x, batches[i], batch_dim), batch_dim)) for i in again)
            return max(_largest(outputs[i], found, everyone, everyone) for i, found in repeated)

        # Noise that comes at a few calls only came at one of the two that differ most. Where it comes at all, as many
        # draws of it are compared as of the changes.
        noise = differ((0, 1 + worst)) if changes[worst] else 0.0
        noise = max(noise, differ(range(len(batches)))) if noise else 0.0
    order = permutation(n, generator)
    swaps = [plan[worst]] * (len(plan) if noise else 1)
    swap_fp32, floor_fp32 = _in_precision(torch.float32, f, x, swaps, order, batch_dim)
    swap_fp64, floor_fp64 = _in_precision(torch.float64, f, x, swaps, order, batch_dim)
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


def _changes(run: Run, x: Any, plan: list[tuple[Tensor, Tensor]], batch_dim: int) -> list[float]:
    """For each (kept, source), the largest change of an output in `kept` when the batch becomes x[source]."""
    base = _outputs(run, x, batch_dim)
    return [_largest(base, _outputs(run, take(x, s, batch_dim), batch_dim), kept, kept) for kept, s in plan]


def _outputs(run: Run, x: Any, batch_dim: int) -> list[Tensor]:
    return [per_sample(run(x), batch_size_of(x, batch_dim), batch_dim)]


def _largest(first: list[Tensor], second: list[Tensor], i: Tensor, j: Tensor) -> float:
    """max |first[i] − second[j]|; exactly 0 only if they are equal (no difference of two floats underflows to 0)."""
    pairs = [(a[i.to(a.device)], b[j.to(b.device)]) for a, b in zip(first, second, strict=True)]
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def _in_precision(
    dtype: torch.dtype, f: Function, x: Any, plan: list[tuple[Tensor, Tensor]], order: Tensor, batch_dim: int
) -> tuple[float | None, float | None]:
    """(largest change by the swaps, floor) with f and x in `dtype`; None where f does not run so.

    For the floor the samples, in another order, come after as many others: another size, other positions.
    """
    swap = floor = None
    # Exception: whatever a stranger's network raises when it meets another precision or batch size, and a device that
    # has no float64.
    with (
        isolated(f),
        torch.no_grad(),
        torch.autocast(tensors(x)[0].device.type, enabled=False),
        contextlib.suppress(Exception),
    ):
        _cast(f, dtype)
        x = map_tensors(lambda t: _to(t, dtype), x)
        with running(f, x) as run:
            swap = max(_changes(run, x, plan, batch_dim))
            moved = concatenate(take(x, plan[0][1], batch_dim), take(x, order, batch_dim), batch_dim)
            places = len(order) + torch.arange(len(order))
            floor = _largest(_outputs(run, x, batch_dim), _outputs(run, moved, batch_dim), order, places)
    return swap, floor


def _cast(f: Function, dtype: torch.dtype) -> None:
    """Give f's modules other tensors (to be undone by `isolated`); what was shared stays shared."""
    memo: dict[int, Any] = {}
    for module in {m for root in modules_in(f).values() for m in root.modules()}:
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = memo.setdefault(id(p), nn.Parameter(_to(p, dtype), p.requires_grad))
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = memo.setdefault(id(b), _to(b, dtype))


def _to(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.to(dtype) if t.is_floating_point() else t
