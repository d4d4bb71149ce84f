"""Everything in one call: does this discriminator judge images, or batches?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.isolate import modules_in
from gannorm.probes.batch import Function, both_classes, default_generator, permutation
from gannorm.probes.dependence.assertion import gradient_coupling
from gannorm.probes.dependence.common_mode_gain import gain_of
from gannorm.probes.dependence.companion_variance import companion_shift, companion_variance
from gannorm.probes.dependence.composition_curve import CompositionGap, batched_logits, composition_gap, whole_batches
from gannorm.probes.dependence.coupled_layers import LayerCoupling, locate_coupling
from gannorm.probes.dependence.coupling_matrix import norms
from gannorm.probes.dependence.estimate_coupling import CouplingEstimate, estimate_coupling
from gannorm.probes.dependence.icc import IntraclassCorrelation, icc
from gannorm.probes.dependence.leak_ratio import LeakRatio, leak_ratio
from gannorm.probes.dependence.swap_test import SwapTest, swap_test, unrepeatable
from gannorm.probes.gradients import graph
from gannorm.probes.optimization.objective import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Few, so that the whole costs less than 30 training steps; each probe on its own takes more.
KEPT_IMAGES = 4  # half of them real: a batch is run for each, or a backward pass
COMPANION_SETS = 3
JUDGES_BATCHES_FROM = 0.1  # of accuracy or AUC, moved by mixing the batches


@dataclass(frozen=True, repr=False)
class BatchInvariance(Result):
    """Every quantity of the batch dependence of one discriminator, in the mode in which it was passed."""

    mode: str  # "train", "eval", "mixed" (some modules in each) or "unknown" (no module was found)
    batch_size: int
    composition: CompositionGap
    leak: LeakRatio
    companion_variance: float
    companion_shift: float
    icc_real: IntraclassCorrelation | None  # None where the logits of a class are all the same
    icc_fake: IntraclassCorrelation | None
    swap: SwapTest
    coupling: CouplingEstimate
    gradient_change: float  # of a sample's gradient when other outputs change sign, relative; 0 within rounding
    common_mode_gain: float
    layers: tuple[LayerCoupling, ...]
    matrix: Tensor  # (m, N): some rows of the coupling matrix of a mixed batch; real images are first in both

    @property
    def forward_coupling(self) -> bool:
        """Whether logits depend on the other images, beyond rounding."""
        return self.swap.verdict == "coupled"

    @property
    def gradient_coupling(self) -> bool:
        """Whether gradients depend on the other images, beyond rounding."""
        return self.gradient_change > 0  # and not by the estimate, whose random signs can miss a few coupled pairs

    @property
    def verdict(self) -> str:
        """One sentence that judges. "Judges batches": mixing them moves accuracy or AUC by 0.1 or more, up or down.

        Of n < 100 images a class it must be 1/√n, two standard errors of a difference of two accuracies at chance.
        """
        gap = self.composition
        if self.swap.verdict == "unrepeatable":
            return f"nothing can be said of this discriminator: {unrepeatable(self.swap)}"
        if not self.forward_coupling and not self.gradient_coupling:
            return "this discriminator judges images: no logit or gradient depends on the other images of its batch."
        if not self.forward_coupling:
            return "this discriminator judges images, but learns from batches: only its gradients couple them."
        moved = max(abs(gap.accuracy_gap), abs(gap.auc_gap))
        if moved >= max(JUDGES_BATCHES_FROM, gap.images**-0.5):
            head = " judges batches"
        elif moved >= JUDGES_BATCHES_FROM:
            head = (
                "'s logits depend on the batch; whether its judgement does cannot be seen, since "
                f"{gap.images} images a class may move so far by chance"
            )
        elif max(abs(gap.accuracy_pure - 0.5), abs(gap.auc_pure - 0.5)) < JUDGES_BATCHES_FROM:
            head = (
                "'s logits depend on the batch; whether its judgement does cannot be seen, since it tells these images "
                "apart no better than chance"
            )
        else:
            head = "'s logits depend on the batch, but not its judgement"
        # So after a sigmoid, or where a critic's zero means nothing.
        blind = "; where all logits are of one sign, only AUC tells" * (gap.accuracy_pure == gap.accuracy_mixed == 0.5)
        return (
            f"this discriminator{head}: its accuracy is {gap.accuracy_pure:.2f} on pure "
            f"batches and {gap.accuracy_mixed:.2f} on the same images mixed (AUC {gap.auc_pure:.2f} and "
            f"{gap.auc_mixed:.2f}{blind})."
        )

    def __repr__(self) -> str:
        gap, leak, swap = self.composition, self.leak, self.swap
        layers = ", ".join(f"{layer.name or '(own code)'} ({layer.kind})" for layer in self.layers) or "none"
        lines = {
            "composition": f"accuracy {gap.accuracy_pure:.3f} pure, {gap.accuracy_mixed:.3f} mixed; "
            f"AUC {gap.auc_pure:.3f}, {gap.auc_mixed:.3f}; {gap.images} images a class",
            "leak ratio": f"{leak.ratio:.3g} (context {_with_error(leak.context)}, own {_with_error(leak.own)})"
            + ", not shown to differ from 0" * (0 < abs(leak.context.value) < 2 * leak.context.standard_error),
            "companions": f"{self.companion_variance:.3g} of the logits' variance; "
            f"all real against all fake: {self.companion_shift:+.3g} SD",
            "uniformity": f"ICC of real batches {_icc(self.icc_real)}, of fake batches {_icc(self.icc_fake)}",
            "forward": f"{swap.verdict}; largest change {swap.max_change:.3g}{_floors(swap)}",
            "gradient": f"{'coupled' if self.gradient_coupling else 'independent'}; largest change "
            f"{self.gradient_change:.3g} of its size; coupling ratio {self.coupling.ratio:.3g}, "
            f"common-mode gain {self.common_mode_gain:.3g}",
            "layers": layers,
        }
        head = f"{self.verdict}\n  ({self.mode} mode, batches of {self.batch_size})"
        return "\n".join([head, *(f"  {name:<12} {line}" for name, line in lines.items())])

    def figure(self) -> Figure:
        """A figure for a person: the coupling matrix, and accuracy and AUC in pure and mixed batches."""
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        matrix = self.matrix.cpu().numpy()
        top = matrix.max() or 1.0
        image = left.imshow(matrix.clip(top * 1e-6), norm=LogNorm(top * 1e-6, top), cmap="magma", aspect="auto")
        figure.colorbar(image, ax=left, label="‖∂f_i/∂x_j‖")
        left.axhline(matrix.shape[0] / 2 - 0.5, color="white", linewidth=0.8)
        left.axvline(matrix.shape[1] / 2 - 0.5, color="white", linewidth=0.8)
        left.set(title=f"Coupling, {self.mode} mode", xlabel="image j (real, then fake)", ylabel="logit i", yticks=[])
        gap = self.composition
        for offset, name, values in (
            (-0.2, "pure batches", (gap.accuracy_pure, gap.auc_pure)),
            (0.2, "mixed batches", (gap.accuracy_mixed, gap.auc_mixed)),
        ):
            right.bar_label(right.bar([i + offset for i in range(2)], values, 0.4, label=name), fmt="%.2f")
        right.axhline(0.5, color="gray", linestyle=":", label="chance")
        right.set(xticks=[0, 1], xticklabels=["accuracy", "AUC"], ylim=(0, 1.15), title="The same images")
        right.legend(loc="upper right", ncols=3, fontsize="small")
        return figure


def batch_invariance(
    f: Function,
    real: Any,
    fake: Any,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
) -> BatchInvariance:
    """Every probe of batch dependence on one discriminator.

    Composition gap, leak ratio, companion variance and shift, within-class ICC, swap test, coupling estimate, sign test
    of the gradient, some rows of the coupling matrix with the common-mode gain, and, if there is any coupling, the
    coupled layers. Derivatives and swaps use one mixed batch.

    Args:
        f: (N, …) -> (N,) or (N, 1) logits, > 0 for real, in the mode in which it is passed.
        real, fake: images, at least `batch_size` of each; for D(images, labels), (images, labels) of each: tuples and
            dicts of tensors are spread over the arguments and shuffled together. All whole batches serve the
            composition gap and leak ratio, so pass a few hundred.
        batch_size: images a batch, a multiple of 4 and at least 8. The ICC uses quarters of it where the images do not
            fill two batches (its .batch_size).
        generator: draws everything; by default a fresh one with seed 0.
        batch_dim: the dimension of the images in every tensor.

    Returns:
        BatchInvariance; its repr is meant to be read.

    Raises:
        UserError: too few images, real and fake of unequal shapes, values that are not finite, no differentiable path,
            before any other work is done.

    Source: defined here.

    >>> d = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> batch_invariance(d, torch.randn(64, 3), torch.randn(64, 3)).verdict
    'this discriminator judges images: no logit or gradient depends on the other images of its batch.'
    """
    if batch_size < 8 or batch_size % 4:
        raise UserError(f"`batch_size` must be a multiple of 4 and at least 8: got {batch_size}; try 64.")
    generator = default_generator(generator)
    n = whole_batches(real, fake, batch_size, batch_dim)
    everything = both_classes(real, fake, n, batch_dim)
    mixed = both_classes(real, fake, batch_size // 2, batch_dim)
    kept = both_classes(real, fake, KEPT_IMAGES // 2, batch_dim)
    coupling = estimate_coupling(f, mixed, generator=generator, batch_dim=batch_dim)  # first: it refuses bad input
    matrix, gain = _rows(f, mixed, KEPT_IMAGES // 2, batch_dim)
    result = BatchInvariance(
        mode=_mode(f),
        batch_size=batch_size,
        composition=composition_gap(f, real, fake, batch_size, generator, batch_dim),
        leak=leak_ratio(f, real, fake, batch_size, generator, batch_dim),
        companion_variance=companion_variance(f, kept, everything, COMPANION_SETS, batch_size, generator, batch_dim),
        companion_shift=companion_shift(f, kept, real, fake, 1, batch_size, generator, batch_dim),
        icc_real=_within_class(f, real, n, batch_size, generator, batch_dim),
        icc_fake=_within_class(f, fake, n, batch_size, generator, batch_dim),
        swap=swap_test(f, mixed, generator, batch_dim),
        coupling=coupling,
        gradient_change=gradient_coupling(f, mixed, generator, batch_dim),
        common_mode_gain=gain,
        layers=(),
        matrix=matrix,
    )
    if result.forward_coupling or result.gradient_coupling:
        return replace(result, layers=tuple(locate_coupling(f, mixed, generator, batch_dim)))
    return result


def _rows(f: Function, mixed: Any, of_each: int, batch_dim: int) -> tuple[Tensor, float]:
    """A few rows of the coupling matrix of a mixed batch, and the common-mode gain over them."""
    with graph(f, mixed, batch_dim) as g:
        n = len(g)
        rows = {i: g.pull_back(torch.eye(n)[i]) for i in (*range(of_each), *range(n // 2, n // 2 + of_each))}
        return torch.stack([norms(grads) for grads in rows.values()]).cpu(), gain_of(rows, g.outputs.dtype)


def _within_class(
    f: Function, images: Any, n: int, batch_size: int, generator: torch.Generator, batch_dim: int
) -> IntraclassCorrelation | None:
    size = batch_size if n >= 2 * batch_size else batch_size // 4
    values = batched_logits(f, images, permutation(n, generator).split(size), batch_dim)
    return icc(values.reshape(-1, size)) if values.min() < values.max() else None


def _mode(f: Function) -> str:
    modes = {m.training for root in modules_in(f).values() for m in root.modules()}
    return {frozenset(): "unknown", frozenset({True}): "train", frozenset({False}): "eval"}.get(
        frozenset(modes), "mixed"
    )


def _with_error(coefficient: Any) -> str:
    return f"{coefficient.value:.3g} ± {coefficient.standard_error:.2g}"


def _icc(value: IntraclassCorrelation | None) -> str:
    return "undefined (constant logits)" if value is None else f"{value.icc:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _floors(swap: SwapTest) -> str:
    if swap.verdict == "coupled":
        return ""  # other companions move the logits too, so these are no floors
    fp32, fp64 = ("unknown" if floor is None else f"{floor:.2g}" for floor in (swap.floor_fp32, swap.floor_fp64))
    ratio = "" if swap.floor_ratio is None else f", ratio {swap.floor_ratio:.2g}"
    return f" (floor {fp32} in fp32, {fp64} in fp64{ratio})"
