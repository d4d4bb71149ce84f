"""The logits of one discriminator by the share of the own class, and the statistics of the composition curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gannorm.probes.dependence.blocks import Batch, Seen, jackknife, student, unseen
from gannorm.verdict import CONFLICT, MIXED, PURE, Estimate

MOVED = 1e-4  # standard deviations of the logits: a smaller change is rounding, and changes no rank that matters


@dataclass(frozen=True)
class Cells:
    """Mean logits by the class of an image and of the other images: `real_among_fake` is a real image among fakes.

    Among its own class: in pure batches. Among the other: at the smallest share of the curve.
    """

    real_among_real: float
    real_among_fake: float
    fake_among_real: float
    fake_among_fake: float


class Judged:
    """The logits of the batches by share, and the statistics of the curve."""

    def __init__(self, seen: Seen, n: int, batch_size: int) -> None:
        self.seen, self.n, self.batch_size = seen, n, batch_size
        self.blocks = 1 + max(batch.block for batch in seen.batches)
        self.pure = torch.zeros(2 * n, dtype=torch.float64)
        for reals in (0, batch_size):
            for batch, values in seen.of(reals):
                self.pure[batch.index] = values
        rounding = MOVED * self.pure.std().item()
        moved = (v - self.pure[b.index] for b, v in zip(seen.batches, seen.logits, strict=True))
        self.flat = all(change.abs().max().item() <= rounding for change in moved)
        self._slots: dict[tuple[bool, float], tuple[Tensor, Tensor, Tensor]] = {}
        self._aucs: dict[int, Callable[[int | None], float]] = {}

    def slots(self, real: bool, share: float) -> tuple[Tensor, Tensor, Tensor]:
        """(J,) each: logits of a class at a share, numbers of the images and of their blocks."""
        k = self._own(share)
        if (real, k) not in self._slots:
            values, index, block = [], [], []
            for batch, logits in self.seen.of(k if real else self.batch_size - k):
                own = (batch.index < self.n) == real
                values.append(logits[own])
                index.append(batch.index[own])
                block.append(torch.full((int(own.sum()),), batch.block))
            self._slots[real, k] = torch.cat(values), torch.cat(index), torch.cat(block)
        return self._slots[real, k]

    def everywhere(self, share: float) -> tuple[Tensor, Tensor]:
        """The logits of real and of fake images at a share."""
        return self.slots(True, share)[0], self.slots(False, share)[0]

    def auc(self, share: float) -> Estimate:
        return jackknife(self._auc_without(share), self.blocks, 0.0, 1.0, counted=self._count(share))

    def change(self, share: float) -> Estimate:
        (_, i, real_block), (_, j, fake_block) = self.slots(True, share), self.slots(False, share)
        here = self._auc_without(share)
        in_pure = auc_without(self.pure[i], real_block, self.pure[j], fake_block)

        def without(g: int | None) -> float:
            return here(g) - in_pure(g)

        change = jackknife(without, self.blocks, -1.0, 1.0)
        if self.flat or share == PURE or change.low is None or change.low < change.high:  # type: ignore[operator]
            return change
        margin = unseen(self._count(share))  # both are exactly 0 or 1, so that nothing varies
        return Estimate(change.mean, max(change.mean - margin, -1.0), min(change.mean + margin, 1.0))

    def accuracy(self, share: float, threshold: float) -> Estimate:
        (real, _, real_block), (fake, _, fake_block) = self.slots(True, share), self.slots(False, share)
        right = torch.cat([real > threshold, fake <= threshold]).double()
        block = torch.cat([real_block, fake_block])

        def without(g: int | None) -> float:
            return right.mean().item() if g is None else right[block != g].mean().item()

        return jackknife(without, self.blocks, 0.0, 1.0, counted=self._count(share))

    def same_batch(self) -> dict[float, Estimate]:
        """By real share, 1/16, 1/2 and 15/16, where there are such batches."""
        few = own_images(CONFLICT, self.batch_size)
        estimates = {}
        for share, reals in ((CONFLICT, few), (MIXED, own_images(MIXED, self.batch_size)), (1 - CONFLICT, -few)):
            batches = list(self.seen.of(reals % self.batch_size))
            if batches:
                estimates[share] = self._within(batches)
        return estimates

    def _within(self, batches: list[tuple[Batch, Tensor]]) -> Estimate:
        own = [batch.index < self.n for batch, _ in batches]
        each = torch.tensor([auc(v[o], v[~o]) for (_, v), o in zip(batches, own, strict=True)], dtype=torch.float64)
        block = torch.tensor([batch.block for batch, _ in batches])

        def without(g: int | None) -> float:
            return each.mean().item() if g is None else each[block != g].mean().item()

        smaller = sum(min(int(o.sum()), int((~o).sum())) for o in own)
        return jackknife(without, self.blocks, 0.0, 1.0, counted=smaller)

    def cells(self, share: float) -> Cells:
        (rr, ff), (rf, fr) = self.everywhere(PURE), self.everywhere(share)
        return Cells(*(values.mean().item() for values in (rr, rf, fr, ff)))

    def _own(self, share: float) -> int:
        """k: of a network that no batch moves, every share has the logits of pure batches."""
        return self.batch_size if self.flat else own_images(share, self.batch_size)

    def _auc_without(self, share: float) -> Callable[[int | None], float]:
        k = self._own(share)
        if k not in self._aucs:
            (real, _, real_block), (fake, _, fake_block) = self.slots(True, share), self.slots(False, share)
            self._aucs[k] = auc_without(real, real_block, fake, fake_block)
        return self._aucs[k]

    def _count(self, share: float) -> int:
        return min(map(len, self.everywhere(share)))


def independent_auc(real: Tensor, fake: Tensor) -> Estimate:
    """The AUC of logits that are independent of one another, with DeLong's interval.

    Source: DeLong et al. 1988; Student's t with the smaller class's degrees of freedom, and at 0 or 1 the bound of
    `blocks.jackknife`: defined here.
    """
    mean, count = auc(real, fake), min(len(real), len(fake))
    if mean in (0.0, 1.0):
        half = unseen(count)
    else:
        placed = _placements(real, fake), _placements(fake, real)
        variance = sum(p.var().item() / len(p) for p in placed)
        half = student(count - 1) * math.sqrt(variance)
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def own_images(share: float, batch_size: int) -> int:
    """k = max(1, round(sN)), the images of the own class, the image itself among them."""
    return max(1, round(share * batch_size))


def auc(real: Tensor, fake: Tensor) -> float:
    """The probability that a real image has the larger logit than a fake one; ties count half (Mann & Whitney 1947).

    >>> auc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.875
    """
    return _placements(real, fake).mean().item()


def auc_without(real: Tensor, real_block: Tensor, fake: Tensor, fake_block: Tensor) -> Callable[[int | None], float]:
    """g -> the AUC without the logits of block g, or of all for None; all arguments (J,), blocks from 0."""
    blocks = 1 + int(max(real_block.max(), fake_block.max()))
    wins = torch.zeros(blocks, blocks, dtype=torch.float64)  # of a block's real images over another block's fakes
    for h in range(blocks):
        others = fake[fake_block == h]
        wins[:, h].index_add_(0, real_block, _placements(real, others) * len(others))
    reals, fakes = (torch.bincount(b, minlength=blocks).double() for b in (real_block, fake_block))

    whole = (wins.sum() / (reals.sum() * fakes.sum())).item()
    left = wins.sum() - wins.sum(1) - wins.sum(0) + wins.diagonal()
    parts = (left / ((reals.sum() - reals) * (fakes.sum() - fakes))).tolist()
    return lambda g: whole if g is None else parts[g]


def _placements(values: Tensor, others: Tensor) -> Tensor:
    """For each value the share of the others that lie below it, ties counting half."""
    order = others.sort().values
    below, up_to = torch.searchsorted(order, values), torch.searchsorted(order, values, right=True)
    return (below + up_to).double() / (2 * len(others))
