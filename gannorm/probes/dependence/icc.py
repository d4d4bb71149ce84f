"""Are the logits uniform within a batch? The intraclass correlation ICC(1), batches being the classes.

Compute it for real batches alone and for fake batches alone: with both pooled, a perfect discriminator has an ICC near
1 because its batches differ as they should.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.probes.optional import stats


@dataclass(frozen=True)
class IntraclassCorrelation:
    """ICC(1), its confidence interval [low, high], and the F-test of ICC = 0."""

    icc: float
    low: float
    high: float
    f: float
    p: float
    design_effect: float  # how many times the variance of a mean exceeds that of as many independent logits
    batches: int
    batch_size: float  # k₀ where the batches are unequal


def icc(values: Tensor | Sequence[Sequence[float]], confidence: float = 0.95) -> IntraclassCorrelation:
    """How uniform the values within a batch are, by one-way analysis of variance.

    MSB = Σ_b k_b(f̄_b − f̄)²/(n−1), MSW = Σ_b Σ_i (f_bi − f̄_b)²/(T − n), ICC(1) = (MSB − MSW)/(MSB + (k−1)·MSW), with
    T = Σ_b k_b values, and k = k₀ = (T − Σ_b k_b²/T)/(n−1) where batches are unequal. With F₀ = MSB/MSW the bounds are
    (F−1)/(F+k−1) at F = F₀/F_{1−α/2; n−1, T−n} and F = F₀·F_{1−α/2; T−n, n−1}. The design effect is 1 + (k−1)·ICC.

    Args:
        values: (n, k) logits, n ≥ 2 batches of k ≥ 2; or n sequences of unequal length. Of one class only.
        confidence: of the interval, in (0, 1).

    Returns:
        IntraclassCorrelation; .icc in [−1/(k−1), 1]: 1 means that a batch has one logit, 0 that batches are random
        samples, negative that logits within a batch repel each other.

    Raises:
        UserError: fewer than two batches, batches of one, values that are all the same or not finite.

    Source: Shrout & Fleiss 1979, ICC(1,1) and its bounds; k₀ as in Donner 1986.

    >>> r = icc([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    >>> [round(v, 4) for v in (r.icc, r.low, r.high, r.f, r.p)]
    [0.1657, -0.1329, 0.7226, 1.7947, 0.1648]
    """
    batches = [
        (v.cpu().double() if isinstance(v, Tensor) else torch.as_tensor(v, dtype=torch.float64)).flatten()
        for v in values
    ]
    sizes = torch.tensor([float(len(b)) for b in batches], dtype=torch.float64)
    n, total = len(batches), float(sizes.sum())
    if n < 2 or sizes.min() < 1 or total - n < 1:
        raise UserError(f"ICC needs at least two batches of two values: got sizes {[len(b) for b in batches]}.")
    if not 0 < confidence < 1:
        raise UserError(f"`confidence` must be between 0 and 1: got {confidence}; try 0.95.")
    everything = torch.cat(batches)
    if not torch.isfinite(everything).all() or everything.min() == everything.max():
        raise UserError("ICC needs finite values that differ: got NaN, infinity or a constant; check the logits.")
    means = torch.stack([b.mean() for b in batches])
    k = (total - float(sizes.square().sum()) / total) / (n - 1)
    between = float((sizes * (means - everything.mean()).square()).sum()) / (n - 1)
    within = sum(float((b - m).square().sum()) for b, m in zip(batches, means, strict=True)) / (total - n)
    ratio = between / within if within else math.inf
    alpha = 1 - confidence
    low = ratio / stats().f.ppf(1 - alpha / 2, n - 1, total - n)
    high = ratio * stats().f.ppf(1 - alpha / 2, total - n, n - 1)
    estimate = _correlation(ratio, k)
    return IntraclassCorrelation(
        icc=estimate,
        low=_correlation(low, k),
        high=_correlation(high, k),
        f=ratio,
        p=float(stats().f.sf(ratio, n - 1, total - n)),
        design_effect=1 + (k - 1) * estimate,
        batches=n,
        batch_size=k,
    )


def _correlation(f: float, k: float) -> float:
    return float((f - 1) / (f + k - 1)) if math.isfinite(f) else 1.0
