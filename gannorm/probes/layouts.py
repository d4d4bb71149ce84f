"""Where does a tensor inside a network hold the samples? Detected from the entries that change with each sample.

A dimension with N entries need not be the batch: it may hold as many tokens, channels or positions. So every layout of
a tensor is a candidate, and those remain in which a kept sample does not change while others are swapped.

Legend: N batch, n its size; "kept" are the samples that a swap leaves alone (see `swap_test.plan_swaps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How a tensor holds the samples in one of its dimensions.

    "plain": entry i belongs to sample i. "major", "minor": the batch is folded with another dimension, (N·T) or (T·N).
    "rows": entry r belongs to sample owners[r], or to none (−1), as in packed sequences.
    """

    kind: Literal["plain", "major", "minor", "rows"]
    dim: int
    owners: tuple[int, ...] = ()

    def samples(self, size: int, n: int) -> Tensor:
        """The sample of each of the `size` entries of the dimension; −1 for none."""
        if self.kind == "rows":
            return torch.tensor(self.owners)
        number = torch.arange(size)
        return number // (size // n) if self.kind == "major" else number % n

    def view(self, t: Tensor, n: int) -> Tensor:
        """`t` as (N, …), differentiable; rows of unequal numbers are filled up with zeros."""
        t = t.movedim(self.dim, 0)
        if self.kind == "major":
            return t.unflatten(0, (n, -1))
        if self.kind == "minor":
            return t.unflatten(0, (-1, n)).transpose(0, 1)
        if self.kind == "plain":
            return t
        filled = torch.cat([t, torch.zeros_like(t[:1])])
        return filled[self._places(n).to(t.device)]

    def put_back(self, t: Tensor, base: Tensor, kept: Tensor, n: int) -> Tensor:
        """`t` with the entries of the samples `kept` as they are in `base`."""
        t = t.clone()
        is_kept = torch.isin(self.samples(t.shape[self.dim], n), kept.cpu()).to(t.device)
        t.movedim(self.dim, 0)[is_kept] = base.movedim(self.dim, 0)[is_kept]
        return t

    def _places(self, n: int) -> Tensor:
        """(N, L) the rows of each sample, filled up with the number of rows."""
        rows = [[r for r, owner in enumerate(self.owners) if owner == i] for i in range(n)]
        longest = max(map(len, rows))
        return torch.tensor([row + [len(self.owners)] * (longest - len(row)) for row in rows])


def candidates(t: Tensor, n: int, batch_dim: int) -> list[Layout]:
    """Every way in which `t` can hold n samples, the likeliest first."""
    dims = [dim for dim in dict.fromkeys((batch_dim, 0, *range(t.dim()))) if dim < t.dim()]
    plain = [Layout("plain", dim) for dim in dims if t.shape[dim] == n]
    folded = [dim for dim in dims if t.shape[dim] > n and t.shape[dim] % n == 0]
    return plain + [Layout(kind, dim) for dim in folded for kind in ("major", "minor")]


class Change:
    """How far a tensor moved from what it was, entry by entry of each dimension, relative to its largest entry.

    Args:
        size: that largest entry, where it is known from an earlier change of the same `base`.
    """

    def __init__(self, t: Tensor, base: Tensor, n: int, size: float | None = None) -> None:
        self.n = n
        if t.is_complex():
            t, base = torch.view_as_real(t), torch.view_as_real(base)
        if not t.is_floating_point():
            t, base = t.double(), base.double()
        self.difference = t - base
        if not torch.isfinite(self.difference.sum()):  # equal infinities (masks) differ by 0, not by NaN
            self.difference = torch.where(t == base, 0.0, self.difference)
        if size is None:
            least, most = base.aminmax()  # one pass
            size = max(float(most), -float(least), torch.finfo(torch.float32).tiny)
        self.size = size
        self.profiles: dict[int, Tensor] = {}

    def along(self, dim: int) -> Tensor:
        """The largest relative change in each entry of a dimension."""
        if dim not in self.profiles:
            rows = self.difference.movedim(dim, 0).reshape(self.difference.shape[dim], -1)
            # abs() would take ten times as long as both extremes.
            self.profiles[dim] = torch.maximum(rows.amax(1), -rows.amin(1)).cpu() / self.size
        return self.profiles[dim]

    def of_kept(self, layout: Layout, kept: Tensor) -> float:
        """The largest relative change in an entry of a kept sample, read by a layout."""
        profile = self.along(layout.dim)
        is_kept = torch.isin(layout.samples(len(profile), self.n), kept.cpu())
        return profile[is_kept].max().item() if bool(is_kept.any()) else 0.0

    @cached_property
    def largest(self) -> float:
        return self.along(0).max().item()


def owners_of_rows(moved: list[Tensor], bits: list[Tensor]) -> Layout | None:
    """Whose each row of dimension 0 is, if it is some sample's alone.

    Args:
        moved: for each swap of `plan_swaps` whether a row moved, boolean (R,).
        bits: the codes of the samples behind those swaps, boolean (N,).
    """
    number = torch.stack([bit.long() << k for k, bit in enumerate(bits)]).sum(0)  # (N,), of each sample
    sample_of = {code: sample for sample, code in enumerate(number.tolist())}
    if_set, if_clear = (
        torch.stack(moved[1::2]),
        torch.stack(moved[::2]),
    )  # (b, R): a row of a sample with that bit moves
    never = ~(if_set | if_clear).any(0)
    if bool(never.all()) or not bool(((if_set ^ if_clear) | never).all()):
        return None
    codes = torch.stack([row.long() << k for k, row in enumerate(if_set)]).sum(0)
    owners = [
        -1 if is_constant else sample_of.get(code)
        for code, is_constant in zip(codes.tolist(), never.tolist(), strict=True)
    ]
    return None if None in owners else Layout("rows", 0, tuple(o for o in owners if o is not None))
