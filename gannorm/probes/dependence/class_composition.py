"""Does a classifier's answer for an image depend on how many of the batch are of its class? The composition curve.

An image of class c is judged in a batch of N with k = max(1, round(sN)) images of class c and N − k of all other
classes. The accuracy of a classifier that judges images is one number at every share s. No verdict is drawn: batches of
one class are foreign to a classifier that was trained on shuffled ones, and the curve says where it fails.

K classes, N images a batch, G disjoint blocks, n = G·N images of each class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.batch import Function, batch_size_of, default_generator, per_sample, running, selecting, take
from gannorm.probes.batch import permutation as random_order
from gannorm.probes.dependence.blocks import jackknife, seeded
from gannorm.probes.dependence.judgements import own_images
from gannorm.probes.optimization.objective import Result
from gannorm.verdict import SHARES, Estimate

JUDGED = 32  # images of each class, at least, at every share


@dataclass(frozen=True)
class ClassComposition(Result):
    """Accuracy by the share of an image's own class in its batch, over all classes alike."""

    shares: tuple[float, ...]  # from the largest down
    accuracy: tuple[Estimate, ...]  # at each share, in [0, 1]
    chance: float  # 1/K
    classes: tuple[int, ...]  # the labels, K of them
    images: int  # of each class
    batch_size: int
    blocks: int  # disjoint; with fewer than 4 there is no interval

    @property
    def own_among_others(self) -> tuple[float, ...]:
        """The share of the own class among the *other* images, (k − 1)/(N − 1): comparable over batch sizes."""
        return tuple((own_images(s, self.batch_size) - 1) / (self.batch_size - 1) for s in self.shares)

    @property
    def spread(self) -> float:
        """The largest accuracy of the curve minus the smallest; 0 where no batch changes an answer."""
        means = [estimate.mean for estimate in self.accuracy]
        return max(means) - min(means)

    def __str__(self) -> str:
        head = (
            f"accuracy by the share of the own class: {len(self.classes)} classes, chance {self.chance:.2f}, "
            f"{self.images} images a class in batches of {self.batch_size}"
        )
        rows = zip(self.shares, self.accuracy, strict=True)
        return "\n".join([head, *(f"  share {share:<6.3g} {accuracy}" for share, accuracy in rows)])


def class_composition(
    f: Function,
    images: Any,
    labels: Tensor,
    batch_size: int = 64,
    shares: Sequence[float] | None = None,
    output: Any = None,
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
) -> ClassComposition:
    """Accuracy of a classifier on images that are judged in batches with share s of their own class.

    The images of every class are divided into G disjoint blocks of N. A batch draws its own images and those of all
    other classes, in random proportions, from one block; at a share every image is judged equally often. Intervals are
    Student's over the blocks (see `blocks.jackknife`). At least K·G passes for each share, more at the small ones.

    Args:
        f: (N, …) -> (N, K') scores, the largest of which is the answer, in the mode in which it is passed.
        images: M images; of each class the first n in random order are used.
        labels: (M,) integers in [0, K'); at least two different ones occur.
        batch_size: N, at least 2, and at most the images of the rarest class. With fewer than 4·N of it there is no
            interval.
        shares: in (0, 1]; by default those of `composition_curve` and 1/K, the share in shuffled batches.
        output: which of several outputs holds the scores.
        batch_dim: the dimension of the images in every tensor.
        generator: draws the blocks and batches; by default a fresh one with seed 0.

    Returns:
        ClassComposition; flat for a batch-independent classifier.

    Raises:
        UserError: labels that do not fit the images or the scores, one class only, a class with less than one batch,
            shares out of range, outputs that are not finite scores.

    Source: defined here.

    >>> labels = torch.arange(32) % 2
    >>> images = torch.nn.functional.one_hot(labels).double()
    >>> curve = class_composition(lambda x: x - 2 * x.mean(0), images, labels, batch_size=4, shares=[1.0, 0.25])
    >>> [accuracy.mean for accuracy in curve.accuracy]
    [0.0, 1.0]
    """
    f, generator = selecting(f, output), default_generator(generator)
    labels = _checked(labels, batch_size_of(images, batch_dim))
    classes = labels.unique().tolist()
    if len(classes) < 2:
        raise UserError(f"`labels` must hold at least two classes: got {classes}; pass images of more.")
    if batch_size < 2:
        raise UserError(f"`batch_size` must be at least 2, for other images: got {batch_size}; try 64.")
    shares = (*SHARES, 1 / len(classes)) if shares is None else shares
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(f"`shares` must be in (0, 1]: got {list(shares)}; leave it out for {list(SHARES)} and 1/K.")
    by_count = {own_images(share, batch_size): float(share) for share in sorted(shares)}  # one share a batch
    count = {c: int((labels == c).sum()) for c in classes}
    rarest = min(count, key=lambda c: count[c])
    if count[rarest] < batch_size:
        raise UserError(
            f"every class must fill a batch of {batch_size}: class {rarest} has {count[rarest]} images; pass more, or "
            f"a smaller batch_size."
        )
    blocks = count[rarest] // batch_size
    cards = {}
    for c in classes:
        own = (labels == c).nonzero().flatten()
        cards[c] = own[random_order(len(own), generator)][: blocks * batch_size].split(batch_size)
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    right = {k: torch.zeros(blocks, dtype=torch.float64) for k in by_count}
    turns = {k: _turns(k, batch_size, JUDGED // blocks) for k in by_count}
    judged = {k: turns[k] * k * len(classes) for k in by_count}  # in each block
    for block in range(blocks):
        with seeded(seed + block), running(f, images) as run, torch.no_grad():
            for c in classes:
                others = torch.cat([cards[other][block] for other in classes if other != c])
                for k in by_count:
                    for turn in range(turns[k]):
                        own = cards[c][block][torch.arange(turn * k, (turn + 1) * k) % batch_size]
                        rest = others[random_order(len(others), generator)][: batch_size - k]
                        order = random_order(batch_size, generator)
                        index = torch.cat([own, rest])[order]
                        scores = _scores(run(take(images, index, batch_dim)), batch_size, batch_dim, classes[-1])
                        answers = scores.argmax(1).cpu()[order < k]
                        right[k][block] += int((answers == c).sum())
    ordered = sorted(by_count, reverse=True)
    return ClassComposition(
        shares=tuple(by_count[k] for k in ordered),
        accuracy=tuple(
            jackknife(_mean(right[k] / judged[k]), blocks, 0.0, 1.0, blocks * batch_size * len(classes))
            for k in ordered
        ),
        chance=1 / len(classes),
        classes=tuple(classes),
        images=blocks * batch_size,
        batch_size=batch_size,
        blocks=blocks,
    )


def _turns(k: int, batch_size: int, judged: int) -> int:
    """Batches with k own images after which every image of the block was judged equally often, `judged` at least."""
    once = batch_size // math.gcd(k, batch_size)
    return once * max(1, math.ceil(judged / (once * k)))


def _mean(by_block: Tensor) -> Callable[[int | None], float]:
    def without(block: int | None) -> float:
        kept = by_block if block is None else torch.cat([by_block[:block], by_block[block + 1 :]])
        return min(kept.mean().item(), 1.0)

    return without


def _checked(labels: Any, n: int) -> Tensor:
    if not isinstance(labels, Tensor) or labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"`labels` must be one integer per image: got {got} for {n} images.")
    if int(labels.min()) < 0:
        raise UserError(f"`labels` must be indices of scores, from 0 on: got {int(labels.min())}.")
    return labels.long().cpu()


def _scores(output: Any, n: int, batch_dim: int, largest: int) -> Tensor:
    scores = per_sample(output, n, batch_dim)
    if scores.dim() != 2 or scores.shape[1] <= largest:
        raise UserError(
            f"the output must be (N, K) scores, K above the largest label {largest}: got {tuple(scores.shape)}; choose "
            "it with `output`, or correct the labels."
        )
    return scores
