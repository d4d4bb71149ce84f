"""Does an image's rank depend on the other images of its batch? The same images among both classes.

An image of class c is evaluated in a batch of N with k = max(1, round(sN)) images of class c and N − k of the other. A
discriminator that judges images has one AUC at every share s. One that judges batches ranks a real image among fakes
below a fake among real images.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gannorm.errors import UserError
from gannorm.probes.batch import Function, batch_size_of, both_classes, default_generator, selecting
from gannorm.probes.dependence.blocks import Blocks, Seen, see, whole_batches
from gannorm.probes.dependence.judgements import Cells, Judged, independent_auc, own_images
from gannorm.probes.optimization.objective import Result
from gannorm.verdict import CONFLICT, MIXED, PURE, SHARES, Estimate

BORDER_MISSED = "all outputs lie in [0, 1], as probabilities do, and the threshold must lie inside to decide:"
JUDGED = 32  # images of each class, at least, at every share


@dataclass(frozen=True)
class CompositionCurve(Result):
    """AUC and accuracy by the share of an image's own class in its batch. The result belongs to (D, reals, fakes)."""

    shares: tuple[float, ...]  # from 1, pure batches, down
    auc: tuple[Estimate, ...]  # at each share: of real against fake images, pooled over batches
    accuracy: tuple[Estimate, ...] | None  # likewise; None without a threshold
    changes: tuple[Estimate, ...]  # AUC at each share minus that of the same images in pure batches
    same_batch: dict[float, Estimate]  # by real share: AUC of real against fake images of one batch
    cells: Cells
    decisions_follow_batch: float | None  # share of the conflict cases decided as the rest of the batch
    auc_images: Estimate  # over all images in pure batches, taken as independent draws: for a D that no batch moves
    flat: bool  # no logit moved beyond rounding, so that all shares have the AUC of all images
    constant: bool  # all logits are equal within rounding
    saturated: bool  # at least 99 % of the outputs are exactly 0 or exactly 1
    images: int  # of each class, in whole batches
    given: int  # of each class
    batch_size: int
    blocks: int  # disjoint; with fewer than 4 there is no interval
    counts: tuple[int, ...]  # judgements of each class at each share
    threshold: float | None
    fakes: str  # which fakes were used
    outputs: int  # numbers that f gives an image; of several, as of a patch discriminator's map, the mean is judged
    border_missed: bool  # all outputs lie in [0, 1], on both sides of 0.5, and the threshold does not lie inside

    @property
    def pure(self) -> Estimate:
        """AUC in batches of one class."""
        return self._at(PURE)

    @property
    def mixed(self) -> Estimate:
        """AUC in batches of half and half."""
        return self._at(MIXED)

    @property
    def conflict(self) -> Estimate:
        """AUC where one sixteenth of the batch is of the own class."""
        return self._at(CONFLICT)

    @property
    def auc_pure(self) -> float:
        return self.pure.mean

    @property
    def auc_mixed(self) -> float:
        return self.mixed.mean

    @property
    def auc_conflict(self) -> float:
        return self.conflict.mean

    @property
    def auc_gap(self) -> float:
        """AUC in pure minus in mixed batches; 0 for a batch-independent discriminator."""
        return self.auc_pure - self.auc_mixed

    @property
    def accuracy_pure(self) -> float | None:
        return self._accuracy(PURE)

    @property
    def accuracy_mixed(self) -> float | None:
        return self._accuracy(MIXED)

    @property
    def accuracy_conflict(self) -> float | None:
        return self._accuracy(CONFLICT)

    @property
    def accuracy_gap(self) -> float | None:
        """Accuracy in pure minus in mixed batches; a shift common to all logits of a batch moves it too."""
        pure, mixed = self.accuracy_pure, self.accuracy_mixed
        return None if pure is None or mixed is None else pure - mixed

    @property
    def own_among_others(self) -> tuple[float, ...]:
        """The share of the own class among the *other* images, (k − 1)/(N − 1): comparable over batch sizes."""
        return tuple((own_images(s, self.batch_size) - 1) / (self.batch_size - 1) for s in self.shares)

    def _at(self, share: float) -> Estimate:
        if share not in self.shares:
            raise UserError(f"`shares` must hold {share:g} for this end of the curve: got {list(self.shares)}.")
        return self.auc[self.shares.index(share)]

    def _accuracy(self, share: float) -> float | None:
        self._at(share)
        return None if self.accuracy is None else self.accuracy[self.shares.index(share)].mean


@dataclass(frozen=True)
class CompositionGap(Result):
    """The composition gap, between pure batches and half and half, as in earlier versions."""

    accuracy_pure: float | None  # None without a threshold
    accuracy_mixed: float | None
    auc_pure: float
    auc_mixed: float
    images: int  # of each class; a multiple of the batch size
    batch_size: int

    @property
    def accuracy_gap(self) -> float | None:
        """Accuracy in pure minus in mixed batches; 0 for a batch-independent discriminator.

        Not zero either where only a common shift of all logits follows the batch: then `auc_gap` is.
        """
        if self.accuracy_pure is None or self.accuracy_mixed is None:
            return None
        return self.accuracy_pure - self.accuracy_mixed

    @property
    def auc_gap(self) -> float:
        """AUC in pure minus in mixed batches; 0 for a batch-independent discriminator."""
        return self.auc_pure - self.auc_mixed


def composition_curve(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    shares: Sequence[float] = SHARES,
    threshold: float | None = 0.0,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
    fakes: str = "the given fakes",
) -> CompositionCurve:
    """AUC and accuracy of real against fake images, each in a batch with share s of its own class.

    The images are divided into G disjoint blocks of N a class. A batch is drawn from one block, and at shares k/N and
    1 − k/N it scores both classes. Intervals are Student's over the blocks (see `blocks.jackknife`). About 12·G passes.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, larger for real, in the mode in which it is passed; a map is averaged.
        real, fake: images; the first n of each are used, n the largest multiple of `batch_size` that both hold. With
            fewer than 4 batches a class there is no interval.
        batch_size: N, at least 2.
        shares: in (0, 1]; pure batches are always measured.
        threshold: a logit above it is decided as real: 0, or 0.5 for least-squares and sigmoid outputs. None for a
            critic that has none: no accuracy.
        output: which of several outputs is the logit.
        batch_dim: the dimension of the images in every tensor.
        generator: draws the blocks and batches; by default a fresh one with seed 0.
        fakes: what the fakes are, for the record.

    Returns:
        CompositionCurve; flat for a batch-independent discriminator, exactly so where no logit moves beyond rounding.
        An AUC of exactly 0 or 1 has no spread; its interval then counts the images.

    Raises:
        UserError: a class with less than one batch, unequal inputs, outputs that are not one finite number per image.

    Source: defined here.

    >>> real, fake = torch.ones(64, 1), -torch.ones(64, 1)
    >>> curve = composition_curve(lambda x: x[:, 0] + 5 * x.mean(), real, fake, batch_size=16)
    >>> curve.auc_pure, curve.auc_conflict
    (1.0, 0.0)
    """
    f, generator = selecting(f, output), default_generator(generator)
    curve, _ = measure_curve(f, real, fake, batch_size, shares, threshold, batch_dim, generator, fakes)
    return curve


def composition_gap(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    threshold: float | None = 0.0,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
) -> CompositionGap:
    """Accuracy and AUC in pure batches and in batches of half and half: two ends of `composition_curve`, as floats.

    Args, Raises: as `composition_curve`.

    Returns:
        CompositionGap; gaps of 0 mean that the other images of the batch do not matter.

    Source: defined here.

    >>> real, fake = torch.ones(8, 1), -torch.ones(8, 1)
    >>> composition_gap(lambda x: x[:, 0] + 5 * x.mean(), real, fake, batch_size=4).accuracy_gap
    0.0
    """
    curve = composition_curve(f, real, fake, batch_size, (PURE, MIXED), threshold, output, batch_dim, generator)
    return CompositionGap(
        curve.accuracy_pure, curve.accuracy_mixed, curve.auc_pure, curve.auc_mixed, curve.images, curve.batch_size
    )


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_curve(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int,
    shares: Sequence[float],
    threshold: float | None,
    batch_dim: int,
    generator: torch.Generator,
    fakes: str,
    independent: bool = False,
    least_turns: Mapping[int, int] | None = None,
) -> tuple[CompositionCurve, Seen]:
    """`composition_curve`, and the batches that it was computed from, pure ones among them.

    Args:
        independent: f is known to be batch-independent, so that pure and mixed batches suffice.
        least_turns: at least so many batches of a block by the number of real images, which others need.
    """
    if not all(0 < share <= 1 for share in shares):
        raise UserError(f"`shares` must be in (0, 1]: got {list(shares)}; leave it out for {list(SHARES)}.")
    shares = tuple(sorted({PURE, *map(float, shares)}, reverse=True))
    n = whole_batches(real, fake, batch_size, batch_dim)
    images = both_classes(real, fake, n, batch_dim)
    blocks = Blocks(n, batch_size, generator)
    turns: dict[int, int] = {}  # by the number of real images of a batch
    for share in shares:
        k = own_images(share, batch_size)
        for reals in {k, batch_size - k} - {0, batch_size}:
            turns[reals] = max(2, math.ceil(JUDGED / (len(blocks) * min(reals, batch_size - reals))))
    first = [r for r in turns if abs(2 * r - batch_size) <= 1] if independent else list(turns)
    for reals, least in (least_turns or {}).items():
        turns[reals] = max(turns.get(reals, 0), least)
        first += [reals] if reals not in first else []
    batches = [*blocks.pure(), *(batch for reals in first for batch in blocks.mixed(reals, turns[reals]))]
    seen = see(f, images, batches, generator, batch_dim)
    judged = Judged(seen, n, batch_size)
    if independent and not judged.flat:  # the test for coupling missed some: measure all shares
        rest = [batch for r in turns if r not in first for batch in blocks.mixed(r, turns[r])]
        judged = Judged(seen.with_more(see(f, images, rest, generator, batch_dim)), n, batch_size)
    lowest, highest = judged.seen.range
    are_probabilities = 0 <= lowest < 0.5 < highest <= 1 and not judged.seen.saturated
    border_missed = threshold is not None and not 0 < threshold < 1 and are_probabilities
    if border_missed:
        warnings.warn(f"{BORDER_MISSED} got threshold={threshold:g}; pass threshold=0.5.", stacklevel=3)
    curve = CompositionCurve(
        shares=shares,
        auc=tuple(judged.auc(share) for share in shares),
        accuracy=None if threshold is None else tuple(judged.accuracy(share, threshold) for share in shares),
        changes=tuple(judged.change(share) for share in shares),
        same_batch=judged.same_batch(),
        cells=judged.cells(min(shares)),
        decisions_follow_batch=None if threshold is None else 1 - judged.accuracy(min(shares), threshold).mean,
        auc_images=independent_auc(*judged.everywhere(PURE)),
        flat=judged.flat,
        constant=judged.seen.constant,
        saturated=judged.seen.saturated,
        images=n,
        given=min(batch_size_of(real, batch_dim), batch_size_of(fake, batch_dim)),
        batch_size=batch_size,
        blocks=len(blocks),
        counts=tuple(len(judged.everywhere(share)[0]) for share in shares),
        threshold=threshold,
        fakes=fakes,
        outputs=judged.seen.outputs,
        border_missed=border_missed,
    )
    return curve, judged.seen
