"""The criteria that several experiments share: what one value a seed must show before a claim holds or does not hold.

Every criterion has three outcomes: True, False, and None where the seeds do not decide, or where the contrast (`none`,
or a guess) would pass as well. They take plain numbers, so that a test can make each of them pass and fail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gannorm.comparison.intervals import mean_interval
from gannorm.comparison.numbers import interval

Values = Sequence[float] | np.ndarray  # one a seed

USABLE = 0.5  # accuracy of ten classes that a guess does not reach


def above(values: Values, least: float = 0.0) -> bool | None:
    """Whether the mean over seeds is shown above `least` by its 95 % interval; False: shown below it."""
    estimate = mean_interval(list(values))
    if estimate.low is None or estimate.high is None:
        return None
    if estimate.low > least:
        return True
    return False if estimate.high < least else None


def keeps_half(best: Values, candidate: Values, none: Values) -> bool | None:
    """Whether the candidate keeps half of what the best gains over none: c − (best + none)/2, shown above 0.

    More is better. `none` in the place of the candidate fails; not decided unless the gain is shown.
    """
    best, candidate, none = (np.asarray(v, dtype=float) for v in (best, candidate, none))
    if above(best - none) is not True:
        return None
    return above(candidate - (best + none) / 2)


def no_gain(batch: Values, none: Values, margin: float) -> bool | None:
    """Whether BatchNorm's accuracy is shown to be at most `margin` above none's; False: shown to be more above it.

    It holds only where every seed of both is above USABLE, since two guesses are equal.
    """
    batch, none = np.asarray(batch, dtype=float), np.asarray(none, dtype=float)
    more = above(batch - none, margin)
    if more is True or more is None:
        return None if more is None else False
    return True if min(batch.min(), none.min()) > USABLE else None


def alike(one: Values, other: Values, margin: float) -> bool | None:
    """Whether two accuracies are shown to differ by less than `margin`, either way; False: shown to differ by more.

    It holds only where every seed of both is above USABLE, since two guesses are equal.
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    bounds = above(other - one, -margin), above(one - other, -margin)
    if False in bounds:
        return False
    return True if bounds == (True, True) and learned(one, other) else None


def learned(*accuracies: Values) -> bool:
    """Whether every seed of every network has learned more than a guess."""
    return all(float(np.min(values)) > USABLE for values in accuracies)


def needed(with_it: Values, without: Values, enough: float) -> bool | None:
    """Whether something is needed: with it every seed's accuracy is above `enough`, without it none is above USABLE.

    False where every seed passes `enough` without it. `none` in both places fails or is not decided.
    """
    with_it, without = np.asarray(with_it, dtype=float), np.asarray(without, dtype=float)
    if (without > enough).all():
        return False
    return True if (with_it > enough).all() and (without <= USABLE).all() else None


def superfluous(with_batch: Values, without_batch: Values) -> bool | None:
    """Whether a regularizer raises the accuracy by less than half as much with BatchNorm as without.

    Both are gains, accuracy with the regularizer less that without it. Not decided unless it is shown to help without
    BatchNorm; the network without norm in the place of BatchNorm's fails.
    """
    with_batch, without_batch = np.asarray(with_batch, dtype=float), np.asarray(without_batch, dtype=float)
    if above(without_batch) is not True:
        return None
    return above(without_batch / 2 - with_batch)


def narrower(gaps: tuple[Values, Values], accuracies: tuple[Values, Values], margin: float) -> tuple[bool | None, str]:
    """Whether the first network's gap is shown to be narrower than the second's, and the reason where it is not.

    A gap is training less held-out accuracy. A network that fits less has a narrow gap, too: it does not count unless
    both have learned and the first is shown to be at most `margin` worse on held-out images.
    """
    (gap, other_gap), (accuracy, other) = (tuple(np.asarray(v, dtype=float) for v in p) for p in (gaps, accuracies))
    if not learned(accuracy, other):
        return None, "not every network has learned here"
    less = above(other_gap - gap)
    if less is None:
        return None, "the seeds do not decide"
    if not less:
        return False, "the gap is wider with BatchNorm"
    if above(accuracy - other, -margin) is not True:
        return None, f"it is not shown to be at most {margin} worse on held-out images, so that it may only fit less"
    return True, ""


def only_with(batch: Values, none: Values, least: float) -> bool | None:
    """Whether every seed passes `least` with BatchNorm, and not every one without; False: not every one with it.

    It holds only where BatchNorm's values are shown above none's, as two equal conditions near `least` would pass.
    """
    batch, none = np.asarray(batch, dtype=float), np.asarray(none, dtype=float)
    if batch.min() <= least:
        return False
    return True if none.min() <= least and above(batch - none) is True else None


def shown(values: Values) -> str:
    """The mean over seeds and its interval, in words."""
    return interval(mean_interval(list(values)), signed=True)
