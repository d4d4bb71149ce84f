"""Run every probe of batch dependence in one call, and decide the verdict."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.isolate import modules_in
from gannorm.probes.batch import (
    Function,
    both_classes,
    concatenate,
    default_generator,
    permutation,
    selecting,
    take,
)
from gannorm.probes.dependence.assertion import gradient_coupling
from gannorm.probes.dependence.blocks import whole_batches
from gannorm.probes.dependence.common_mode_gain import gain_of
from gannorm.probes.dependence.companion_variance import companion_shift, companion_variance
from gannorm.probes.dependence.composition_curve import CompositionCurve, composition_curve, measure_curve
from gannorm.probes.dependence.coupled_layers import LayerCoupling, locate_coupling
from gannorm.probes.dependence.coupling_matrix import norms
from gannorm.probes.dependence.estimate_coupling import CouplingEstimate, estimate_coupling
from gannorm.probes.dependence.hidden_coupling import few_signs, few_swaps, hidden_coupling
from gannorm.probes.dependence.judgements import own_images
from gannorm.probes.dependence.leak_ratio import TURNS, Coefficient, LeakRatio, is_varied, leak_of, varied_counts
from gannorm.probes.dependence.swap_test import SwapTest, swap_test
from gannorm.probes.dependence.uniformity import Uniformity, uniformity_of
from gannorm.probes.gradients import NoGradientError, graph
from gannorm.probes.optimization.objective import Result
from gannorm.registry import choices
from gannorm.verdict import CONFLICT, KINDS, MIXED, PURE, SHARES, Estimate, Evidence, Verdict, decide, share_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = ("full", "quick")
# Few, so that the whole costs less than 30 training steps; each probe on its own takes more.
KEPT_IMAGES = 4  # half of them real: a batch is run for each, or a backward pass
COMPANION_SETS = 3


@dataclass(frozen=True, repr=False)
class BatchInvariance(Result):
    """Every quantity of the batch dependence of one discriminator, in the mode in which it was passed.

    What `cost="quick"` leaves out is None; `layers` are then those that a zero hides.
    """

    mode: str  # "train", "eval", "mixed" (some modules in each) or "unknown" (no module was found)
    batch_size: int
    cost: str
    composition: CompositionCurve
    swap: SwapTest
    gradient_change: float | None  # of a sample's gradient when other outputs change sign, relative; 0 within
    # rounding, None where no gradient could be tested
    hidden: tuple[str, ...]  # layers that couple the batch, their effect multiplied by zero at these weights
    auc_pure_training: Estimate | None  # AUC in pure batches with real images of the training set
    auc_one_own: Estimate | None  # AUC where each image is the only one of its class; None where not asked for
    leak: LeakRatio | None
    uniformity: Uniformity | None
    companion_variance: float | None
    companion_shift: float | None
    coupling: CouplingEstimate | None
    common_mode_gain: float | None
    layers: tuple[LayerCoupling, ...]
    matrix: Tensor | None  # (m, N): some rows of the coupling matrix of a mixed batch; real images first in both

    @property
    def forward_coupling(self) -> bool:
        """Whether logits depend on the other images, beyond rounding."""
        return self.swap.verdict == "coupled"

    @property
    def gradient_coupling(self) -> bool:
        """Whether gradients depend on the other images, beyond rounding."""
        return bool(self.gradient_change)  # and not by the estimate, whose random signs can miss a few coupled pairs

    @property
    def evidence(self) -> Evidence:
        """The numbers behind the verdict."""
        curve = self.composition
        return Evidence(
            images=curve.given,
            batch_size=curve.batch_size,
            forward_coupled=self.forward_coupling,
            gradient_coupled=self.gradient_coupling,
            units=curve.blocks,
            curve=dict(zip(curve.shares, curve.auc, strict=True)),
            changes={s: c for s, c in zip(curve.shares, curve.changes, strict=True) if s != PURE},
            auc_images=curve.auc_images,
            same_batch=curve.same_batch.get(MIXED),
            repeats=self.swap.verdict != "unrepeatable",
            constant=curve.constant,
            saturated=curve.saturated,
            gradient_tested=self.gradient_change is not None,
            hidden_layers=len(self.hidden),
            hidden_names=self.hidden,
        )

    @property
    def verdict(self) -> Verdict:
        """One of `gannorm.verdict.KINDS`, with the reason: the rule of `gannorm.verdict.decide`."""
        return decide(self.evidence)

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Every finite number by metric key, such as batch_dependence/train/auc_conflict for that prefix."""
        curve, swap = self.composition, self.swap
        values: dict[str, float | None] = {
            **self.evidence.metrics(),
            "verdict": KINDS.index(self.verdict.kind),
            "auc_gap": curve.auc_gap,
            "decisions_follow_batch": curve.decisions_follow_batch,
            **{f"logit_{name}": value for name, value in vars(curve.cells).items()},
            "companion_variance": self.companion_variance,
            "companion_shift": self.companion_shift,
            "common_mode_gain": self.common_mode_gain,
            "gradient_change": self.gradient_change,
            "swap_max_change": swap.max_change,
            "swap_bitwise_equal": float(swap.bitwise_equal),
            "swap_floor_fp32": swap.floor_fp32,
            "swap_floor_fp64": swap.floor_fp64,
        }
        if curve.accuracy is not None:
            for share, accuracy in zip(curve.shares, curve.accuracy, strict=True):
                values[f"accuracy_{share_name(share)}"] = accuracy.mean
            values["accuracy_gap"] = curve.accuracy_gap
        if self.auc_pure_training is not None:
            values["auc_pure_training"] = self.auc_pure_training.mean
        if self.auc_one_own is not None:
            low, high = self.auc_one_own.low, self.auc_one_own.high
            values |= {"auc_one_own": self.auc_one_own.mean, "auc_one_own_low": low, "auc_one_own_high": high}
        if self.leak is not None:
            values["leak_ratio"] = self.leak.ratio
            for name in ("own", "context", "context_real", "context_fake"):
                coefficient: Coefficient = getattr(self.leak, name)
                values |= {f"leak_{name}": coefficient.value, f"leak_{name}_error": coefficient.standard_error}
        if self.coupling is not None:
            values["coupling_ratio"] = self.coupling.ratio
        if self.uniformity is not None:
            values |= _uniformity_metrics(self.uniformity)
        head = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        return {head + name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}

    def __repr__(self) -> str:
        from gannorm.probes.dependence.describe import described

        return described(self)

    def figure(self) -> Figure:
        """The figure: the composition curve with chance, the four cells, the coupling matrix."""
        from gannorm.probes.dependence.figure import dependence_figure

        return dependence_figure(self)


def batch_invariance(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    threshold: float | None = 0.0,
    output: Any = None,
    cost: str = "full",
    batch_dim: int = 0,
    generator: torch.Generator | None = None,
    training_real: Any = None,
    fakes: str = "the given fakes",
    one_own: bool = False,
) -> BatchInvariance:
    """Does a discriminator judge images, or batches? Every probe of batch dependence, and the verdict.

    "quick": a swap test and a sign test of the gradient with half of the batch changed once, both again at slightly
    noised weights, and the composition curve: the time of at most 64 forward passes at N = 64 and 256 images a class.
    "full": the complete tests, leak ratio, uniformity, companion variance and shift, coupling estimate, some rows of
    the coupling matrix with the common-mode gain, and, if there is any coupling, the coupled layers: about 250 passes.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, larger for real, in the mode in which it is passed; a map is averaged.
        real, fake: images, at least `batch_size` of each, and 4 times as many for intervals; for D(images, labels),
            (images, labels) of each: tuples and dicts of tensors are spread over the arguments and shuffled together.
        batch_size: images a batch; for "full" a multiple of 4 and at least 8.
        threshold: of the decision, for accuracy: 0, or 0.5 for least-squares and sigmoid outputs; None for a critic.
        output: which of several outputs is the logit: an index, a key, a path or a callable.
        cost: "full" or "quick".
        batch_dim: the dimension of the images in every tensor.
        generator: draws everything; by default a fresh one with seed 0.
        training_real: real images that f was trained on, for a second AUC in pure batches; `real` are then those
            held out.
        fakes: what the fakes are, for the record.
        one_own: measure the AUC at one own image too, the share 1/N, at which batch sizes can be compared. It takes
            about N passes more. The verdict does not read it: its shares are the same with and without.

    Returns:
        BatchInvariance; its repr is meant to be read, `.verdict` is the answer.

    Raises:
        UserError: too few images, real and fake of unequal shapes, values that are not finite, before any other work
            is done. A warning, where no gradient could be tested, as of integer inputs.

    Source: defined here.

    >>> d = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> batch_invariance(d, torch.randn(64, 3), torch.randn(64, 3), cost="quick").swap.bitwise_equal
    True
    """
    if cost not in COSTS:
        raise UserError(f"`cost` must be one of {', '.join(COSTS)}: got {cost!r}; {choices(cost, COSTS)}")
    if cost == "full" and (batch_size < 8 or batch_size % 4):
        raise UserError(f"`batch_size` must be a multiple of 4 and at least 8: got {batch_size}; try 64.")
    f, generator = selecting(f, output), default_generator(generator)
    n = whole_batches(real, fake, batch_size, batch_dim)
    mixed = _half_and_half(real, fake, batch_size, batch_dim)
    full: dict[str, Any] = dict.fromkeys(
        ("leak", "uniformity", "companion_variance", "companion_shift", "coupling", "common_mode_gain", "matrix")
    )
    change: float | None = None
    try:  # first: they refuse bad input
        if cost == "full":
            full |= _derivatives(f, mixed, generator, batch_dim)
            change = gradient_coupling(f, mixed, generator, batch_dim)
        else:
            change = few_signs(f, mixed, generator, batch_dim)
    except NoGradientError as reason:
        warnings.warn(f"logits were tested, and gradients were not: {reason}", stacklevel=2)
    if cost == "full":
        swap = swap_test(f, mixed, generator, batch_dim)
    else:
        swap = _swaps_of_classes(f, mixed, batch_size, generator, batch_dim)
    coupled = swap.verdict == "coupled"
    hidden = () if coupled else hidden_coupling(f, mixed, change != 0, generator, batch_dim)
    turns = dict.fromkeys(varied_counts(batch_size), TURNS) if cost == "full" else None
    curve, seen = measure_curve(
        f, real, fake, batch_size, SHARES, threshold, batch_dim, generator, fakes, not coupled, turns
    )
    if cost == "full" and not coupled and not curve.flat and swap.verdict != "unrepeatable":
        by_class = _swaps_of_classes(f, mixed, batch_size, generator, batch_dim)
        if by_class.verdict == "coupled":
            swap, coupled, hidden = by_class, True, ()
    layers: list[LayerCoupling] = []
    if cost == "full":
        varied = seen.only(is_varied)
        full |= {"leak": leak_of(varied, n), "uniformity": uniformity_of(varied, seen, n, threshold)}
        full |= _companions(f, real, fake, n, batch_size, batch_dim, generator)
        if (coupled or change) and swap.verdict != "unrepeatable":
            layers = locate_coupling(f, mixed, generator, batch_dim)
    training = None
    if training_real is not None:
        training = composition_curve(
            f, training_real, fake, batch_size, (PURE,), threshold, batch_dim=batch_dim, generator=generator
        ).pure
    alone = None
    if one_own and own_images(CONFLICT, batch_size) == 1:
        alone = curve.conflict
    elif one_own and curve.flat:
        alone = curve.pure
    elif one_own:
        ends = (PURE, 1 / batch_size)
        alone = composition_curve(f, real, fake, batch_size, ends, None, batch_dim=batch_dim, generator=generator).auc[
            -1
        ]
    return BatchInvariance(
        mode=_mode(f),
        batch_size=batch_size,
        cost=cost,
        composition=curve,
        swap=swap,
        gradient_change=change,
        hidden=hidden,
        auc_pure_training=training,
        auc_one_own=alone,
        layers=tuple(layers),
        **full,
    )


def _half_and_half(real: Any, fake: Any, batch_size: int, batch_dim: int) -> Any:
    """A batch of the first images of each class, real ones first."""
    half = batch_size // 2
    first, second = take(real, torch.arange(half), batch_dim), take(fake, torch.arange(batch_size - half), batch_dim)
    return concatenate(first, second, batch_dim)


def _swaps_of_classes(f: Function, mixed: Any, batch_size: int, generator: torch.Generator, batch_dim: int) -> SwapTest:
    """`few_swaps` that replace one class by the other: a dependence on the mixture of classes alone shows too.

    In random order, for layers that compute with groups of neighbours.
    """
    order = permutation(batch_size, generator)
    return few_swaps(f, take(mixed, order, batch_dim), generator, batch_dim, kept=order < batch_size // 2)


def _derivatives(f: Function, mixed: Any, generator: torch.Generator, batch_dim: int) -> dict[str, Any]:
    """The coupling estimate, a few rows of the coupling matrix, and the common-mode gain over them."""
    coupling = estimate_coupling(f, mixed, generator=generator, batch_dim=batch_dim)
    with graph(f, mixed, batch_dim) as g:
        n, of_each = len(g), KEPT_IMAGES // 2
        rows = {i: g.pull_back(torch.eye(n)[i]) for i in (*range(of_each), *range(n // 2, n // 2 + of_each))}
        matrix = torch.stack([norms(grads) for grads in rows.values()]).cpu()
        return {"coupling": coupling, "matrix": matrix, "common_mode_gain": gain_of(rows, g.outputs.dtype)}


def _companions(
    f: Function, real: Any, fake: Any, n: int, batch_size: int, batch_dim: int, generator: torch.Generator
) -> dict[str, float]:
    images, kept = both_classes(real, fake, n, batch_dim), both_classes(real, fake, KEPT_IMAGES // 2, batch_dim)
    more: dict[str, Any] = {"batch_size": batch_size, "batch_dim": batch_dim, "generator": generator}
    return {
        "companion_variance": companion_variance(f, kept, images, COMPANION_SETS, **more),
        "companion_shift": companion_shift(f, kept, real, fake, 1, **more),
    }


def _uniformity_metrics(uniform: Uniformity) -> dict[str, float | None]:
    values = {"uniformity_majority_share": uniform.majority_share, "uniformity_sd_ratio": uniform.sd_ratio}
    if uniform.icc is not None:
        values |= {"uniformity_icc": uniform.icc.icc}
        values |= {"uniformity_icc_low": uniform.icc.low, "uniformity_icc_high": uniform.icc.high}
    return values


def _mode(f: Function) -> str:
    modes = {m.training for root in modules_in(f).values() for m in root.modules()}
    return {frozenset(): "unknown", frozenset({True}): "train", frozenset({False}): "eval"}.get(
        frozenset(modes), "mixed"
    )
