"""Disjoint blocks of images, for valid intervals of a network that couples its batches.

Logits of one batch are not independent, and neither are those of two batches that share an image. So the images are
divided into blocks, every batch is drawn from a single block, and the blocks are the independent units of a
delete-one-block jackknife with Student's t, G − 1 degrees of freedom.

N images a batch, G blocks of N real and N fake images, n = G·N images a class; images are numbered, real ones
0 … n−1, fakes n … 2n−1.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.isolate.state import RandomState
from gannorm.probes.batch import Function, batch_size_of, logits, map_tensors, per_sample, permutation, running, take
from gannorm.probes.dependence.swap_test import ROUNDING_SHRINKS_BY, cast
from gannorm.probes.gradients import tolerance
from gannorm.probes.optional import stats
from gannorm.verdict import BLOCKS, Estimate

UNSATURATED = 0.01  # of the outputs of a saturated network may be near its border by chance
SUSPECT = 1e-3  # logits that differ by less may be rounding, which a normalizer of nearly equal values enlarges


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of one block; `turn` counts the block's batches of this composition."""

    block: int
    turn: int
    reals: int  # how many of its images are real
    index: Tensor  # (N,) numbers of its images


@dataclass(frozen=True, eq=False)
class Seen:
    """Batches with their logits."""

    batches: list[Batch]
    logits: Tensor  # (B, N), float64
    constant: bool  # all logits are equal within rounding
    saturated: bool  # at least 99 % of the outputs, before any mean over a map, are exactly 0 or exactly 1
    outputs: int  # numbers that f gives an image; their mean is its logit
    range: tuple[float, float]  # of all outputs

    def of(self, reals: int) -> Iterator[tuple[Batch, Tensor]]:
        """The batches with so many real images, each with its logits (N,)."""
        return ((b, v) for b, v in zip(self.batches, self.logits, strict=True) if b.reals == reals)

    def only(self, wanted: Callable[[Batch], bool]) -> Seen:
        """Some of the batches."""
        chosen = [i for i, batch in enumerate(self.batches) if wanted(batch)]
        return replace(self, batches=[self.batches[i] for i in chosen], logits=self.logits[chosen])

    def with_more(self, other: Seen) -> Seen:
        return Seen(
            [*self.batches, *other.batches],
            torch.cat([self.logits, other.logits]),
            self.constant and other.constant,
            self.saturated and other.saturated,
            self.outputs,
            (min(self.range[0], other.range[0]), max(self.range[1], other.range[1])),
        )


def whole_batches(real: Any, fake: Any, batch_size: int, batch_dim: int = 0) -> int:
    """The number of images of each class that fill whole batches. Raises UserError if there is not one batch."""
    if not isinstance(batch_size, int):
        raise UserError(f"`batch_size` must be a whole number: got {batch_size!r:.80}; try 64.")
    if batch_size < 2:
        raise UserError(f"`batch_size` must be at least 2, for other images: got {batch_size}; try 64.")
    sizes = batch_size_of(real, batch_dim), batch_size_of(fake, batch_dim)
    if min(sizes) < batch_size:
        fitting = min(sizes) // 4 * 4  # all probes of images accept a multiple of 4 from 8 on
        remedy = f"pass more, or batch_size={fitting}" if fitting >= 8 else f"pass at least {batch_size} of each"
        raise UserError(
            f"real and fake must fill a batch of {batch_size} each: got {sizes[0]} and {sizes[1]} images; {remedy}."
        )
    return min(sizes) // batch_size * batch_size


class Blocks:
    """The images of both classes in random disjoint blocks."""

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        self.n, self.batch_size, self.generator = n, batch_size, generator
        real, fake = permutation(n, generator), n + permutation(n, generator)
        self.blocks = list(zip(real.split(batch_size), fake.split(batch_size), strict=True))

    def __len__(self) -> int:
        return len(self.blocks)

    def pure(self) -> list[Batch]:
        """One batch of all real images and one of all fakes from each block."""
        return [
            Batch(number, 0, reals, index)
            for number, block in enumerate(self.blocks)
            for reals, index in ((self.batch_size, block[0]), (0, block[1]))
        ]

    def mixed(self, reals: int, turns: int) -> list[Batch]:
        """`turns` batches of each block with so many real images, in random order.

        They go round the images of a class: with turns·reals a multiple of N every image is met equally often, and no
        batch holds an image twice.
        """
        return [batch for number in range(len(self)) for batch in self._round(number, reals, turns)]

    def _round(self, number: int, reals: int, turns: int) -> Iterator[Batch]:
        size = self.batch_size
        decks = [cards[permutation(size, self.generator)] for cards in self.blocks[number]]
        for turn in range(turns):
            parts = [
                deck[torch.arange(turn * count, (turn + 1) * count) % size]
                for deck, count in zip(decks, (reals, size - reals), strict=True)
            ]
            yield Batch(number, turn, reals, torch.cat(parts)[permutation(size, self.generator)])


def see(f: Function, images: Any, batches: list[Batch], generator: torch.Generator, batch_dim: int = 0) -> Seen:
    """The logits of the batches, without gradients.

    The random state of f (dropout, augmentation) differs from one block and turn to the next, as it does in use, but is
    the same for all compositions.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    turns: dict[tuple[int, int], list[int]] = {}
    for i, batch in enumerate(batches):
        turns.setdefault((batch.block, batch.turn), []).append(i)
    values: dict[int, Tensor] = {}
    inside = outputs = each = 0  # outputs that are neither 0 nor 1, all, and those of an image
    lowest, highest, floor = math.inf, -math.inf, 0.0
    with running(f, images) as run, torch.no_grad():
        for (block, turn), chosen in turns.items():
            with seeded(seed + 1000 * block + turn):
                run.pure.start_from_here()
            for i in chosen:
                index = batches[i].index
                output = run(take(images, index, batch_dim))
                raw = per_sample(output, len(index), batch_dim).detach()
                values[i] = logits(output, len(index), batch_dim)
                inside += int(((raw != 0) & (raw != 1)).sum())
                outputs += raw.numel()
                each = raw.numel() // len(raw)
                lowest, highest = min(lowest, raw.min().item()), max(highest, raw.max().item())
                floor = tolerance(raw.dtype)
    logits_seen = torch.stack([values[i] for i in range(len(batches))])
    least, most = logits_seen.min().item(), logits_seen.max().item()
    spread, size = most - least, max(abs(least), abs(most))
    constant = spread <= floor * size
    if not constant and spread <= SUSPECT * max(size, 1.0):
        extremes = int(logits_seen.amin(1).argmin()), int(logits_seen.amax(1).argmax())  # batches may differ as wholes
        constant = _is_rounding(f, [take(images, batches[i].index, batch_dim) for i in extremes], spread, batch_dim)
    return Seen(batches, logits_seen, constant, inside <= UNSATURATED * outputs, each, (lowest, highest))


def _is_rounding(f: Function, xs: list[Any], spread: float, batch_dim: int) -> bool:
    """Whether logits that differ by `spread` in f's own precision are equal in float64, as far as that shrinks."""
    with running(f, xs[0]) as run, torch.no_grad(), suppress(Exception):  # whatever f raises that does not run so
        cast(run.roots.values(), torch.float64)
        doubles = [map_tensors(lambda t: t.double() if t.is_floating_point() else t, x) for x in xs]
        values = torch.cat([logits(run(x), batch_size_of(x, batch_dim), batch_dim) for x in doubles])
        return (values.max() - values.min()).item() * ROUNDING_SHRINKS_BY <= spread
    return False


def batched_logits(f: Function, images: Any, batches: Iterable[Tensor], batch_dim: int = 0) -> Tensor:
    """The logits of `images`, seen in `batches` of indices, in that order; without gradients."""
    with running(f, images) as run, torch.no_grad():
        return torch.cat([logits(run(take(images, index, batch_dim)), len(index), batch_dim) for index in batches])


def jackknife(
    statistic: Callable[[int | None], float], blocks: int, least: float, most: float, counted: int = 0
) -> Estimate:
    """statistic(None), with the interval from statistic(g), which leaves block g out.

    θ̂ ± t_{0.975; G−1}·s, s² = (G−1)/G · Σ_g (θ_(g) − θ̄)². Of a share in [0, 1] it is taken on the scale of
    ln(θ/(1 − θ)), where s becomes s/(θ̂(1 − θ̂)): near a limit the plain interval is too short on the side that matters.
    Where θ̂ is 0 or 1 and nothing varies, the bound is 0.05^(1/m) away from the other limit: the smallest chance of
    which m images in a row are no surprise.

    Args:
        statistic: of all blocks but one.
        blocks: G; fewer than 4 give no interval.
        least, most: limits of the quantity.
        counted: m, the images of the smaller class; 0 where a width of 0 is right.

    Source: Efron & Stein 1981; the bound at a limit: Clopper & Pearson 1934, one-sided.
    """
    mean = statistic(None)
    if blocks < BLOCKS:
        return Estimate(mean)
    parts = torch.tensor([statistic(g) for g in range(blocks)], dtype=torch.float64)
    spread = (parts - parts.mean()).square().sum().item()
    half = student(blocks - 1) * math.sqrt((blocks - 1) / blocks * spread)
    if (least, most) != (0.0, 1.0):
        return Estimate(mean, max(mean - half, least), min(mean + half, most))
    if mean in (0.0, 1.0):
        half = unseen(counted) if counted else half
        return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))
    scale = mean * (1 - mean)
    low, high = (_expit(math.log(mean / (1 - mean)) + sign * half / scale) for sign in (-1, 1))
    return Estimate(mean, min(low, mean), max(high, mean))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@cache
def student(freedom: int) -> float:
    """t_{0.975} with `freedom` degrees of freedom."""
    return float(stats().t.ppf(0.975, freedom))


def unseen(count: int) -> float:
    """The largest share that `count` draws miss with a chance of 5 %: 1 − 0.05^(1/count).

    >>> round(unseen(64), 3)
    0.046
    """
    return 1 - 0.05 ** (1 / count)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators inside, and restore them."""
    before = RandomState()
    try:
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        yield
    finally:
        before.restore()
