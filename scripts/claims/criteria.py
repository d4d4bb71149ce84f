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

    Not decided where one is trained no better than USABLE, since two guesses are equal.
    """
    batch, none = np.asarray(batch, dtype=float), np.asarray(none, dtype=float)
    more = above(batch - none, margin)
    if more is True or more is None:
        return None if more is None else False
    return True if min(batch.min(), none.min()) > USABLE else None


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


def only_with(batch: Values, none: Values, least: float) -> bool | None:
    """Whether every seed passes `least` with BatchNorm, and not every one without; False: not every one with it."""
    if min(batch) <= least:
        return False
    return True if min(none) <= least else None


def shown(values: Values) -> str:
    """The mean over seeds and its interval, in words."""
    return interval(mean_interval(list(values)), signed=True)
