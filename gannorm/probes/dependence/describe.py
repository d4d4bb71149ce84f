"""The text of a batch dependence result, for `print(batch_invariance(…))`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gannorm.probes.dependence.composition_curve import CompositionCurve
from gannorm.probes.dependence.leak_ratio import Coefficient
from gannorm.probes.dependence.swap_test import SwapTest
from gannorm.probes.dependence.uniformity import Uniformity
from gannorm.verdict import Estimate

if TYPE_CHECKING:
    from gannorm.probes.dependence.batch_invariance import BatchInvariance

WIDTH = 13  # of the names of the lines


def described(result: BatchInvariance) -> str:
    """The verdict, and a line for each quantity that was measured."""
    curve, swap, regression = result.composition, result.swap, result.leak
    lines = {"AUC": _by_share(curve, curve.auc), "images": _images(curve)}
    if curve.outputs > 1:
        lines["logit"] = f"the mean of {curve.outputs} outputs an image"
    if curve.accuracy is not None and curve.decisions_follow_batch is not None:
        lines["accuracy"] = _by_share(curve, curve.accuracy)
        lines["decisions"] = f"{curve.decisions_follow_batch:.2f} follow the rest of the batch in conflict"
    if curve.border_missed:
        lines["threshold"] = f"all outputs lie in [0, 1]: {curve.threshold:g} decides nothing; pass threshold=0.5"
    lines["one batch"] = ", ".join(
        f"{auc.mean:.2f} at real share {share:.3g}" for share, auc in curve.same_batch.items()
    )
    cells = curve.cells
    lines["mean logits"] = (
        f"real among real {cells.real_among_real:.3g}, among fakes {cells.real_among_fake:.3g}; "
        f"fake among real {cells.fake_among_real:.3g}, among fakes {cells.fake_among_fake:.3g}"
    )
    if result.auc_pure_training is not None:
        lines["training set"] = f"AUC {result.auc_pure_training} with real images of the training set, pure batches"
    if regression is not None:
        ratio = f"{regression.ratio:.3g}" if result.forward_coupling else "0 within rounding"
        slopes = (
            f"of real images {_with_error(regression.context_real)}, of fakes {_with_error(regression.context_fake)}"
        )
        lines["leak ratio"] = f"{ratio} (own {_with_error(regression.own)}; context {slopes})"
    if result.companion_variance is not None and result.companion_shift is not None:
        lines["other images"] = (
            f"{result.companion_variance:.3g} of the logits' variance; all real against all fake: "
            f"{result.companion_shift:+.3g} SD"
        )
    if result.uniformity is not None:
        lines["uniformity"] = _uniformity(result.uniformity, curve.constant)
    change = f"largest change {swap.max_change:.3g}"
    lines["forward"] = f"{swap.verdict}; {change}{_floors(swap)}"
    if result.gradient_change is None:
        lines["gradient"] = "not tested"
    else:
        gradient = "coupled" if result.gradient_coupling else "independent"
        lines["gradient"] = f"{gradient}; largest change {result.gradient_change:.3g} of its size"
    if result.coupling is not None and result.common_mode_gain is not None:
        ratio = f"{result.coupling.ratio:.3g}"
        lines["gradient"] += f"; coupling ratio {ratio}, common-mode gain {result.common_mode_gain:.3g}"
    if result.cost == "full":
        layers = ", ".join(f"{layer.name or '(own code)'} ({layer.kind})" for layer in result.layers)
        lines["layers"] = layers or "none"
    head = f"{result.verdict}\n  ({result.mode} mode, batches of {result.batch_size}, {curve.fakes})"
    return "\n".join([head, *(f"  {name:<{WIDTH}} {line}" for name, line in lines.items())])


def _by_share(curve: CompositionCurve, values: tuple[Estimate, ...]) -> str:
    """Pure first: "0.87 pure, 0.63 at 3/4, …"."""
    names = {1.0: "pure", 0.5: "mixed", 1 / 16: "conflict"}
    parts = []
    for share, value in zip(curve.shares, values, strict=True):
        at = f"at {share:g}"
        parts.append(f"{value} {names.get(share, at)}")
    return ", ".join(parts)


def _images(curve: CompositionCurve) -> str:
    counts = ", ".join(map(str, curve.counts))
    blocks = "1 block" if curve.blocks == 1 else f"{curve.blocks} blocks"
    images = str(curve.images) if curve.images == curve.given else f"{curve.images} of {curve.given}"
    return f"{images} a class in {blocks}; at each share: {counts}"


def _with_error(coefficient: Coefficient) -> str:
    if coefficient.standard_error is None:
        return f"{coefficient.value:.3g}"
    return f"{coefficient.value:.3g} ± {coefficient.standard_error:.2g}"


def _uniformity(uniform: Uniformity, constant: bool) -> str:
    correlation = "undefined (constant logits)" if constant else "undefined (constant within each class)"
    if uniform.icc is not None:
        correlation = str(Estimate(uniform.icc.icc, uniform.icc.low, uniform.icc.high))
    majority = ""
    if uniform.majority_share is not None:
        majority = f", {uniform.majority_share:.2f} of a mixed batch on one side"
    return f"ICC of mixed batches {correlation}{majority}, SD within a batch {uniform.sd_ratio:.2g} class distances"


def _floors(swap: SwapTest) -> str:
    if swap.verdict == "coupled" or (swap.floor_fp32 is None and swap.floor_fp64 is None):
        return ""  # other companions move the logits too, so these are no floors
    fp32, fp64 = ("unknown" if floor is None else f"{floor:.2g}" for floor in (swap.floor_fp32, swap.floor_fp64))
    ratio = "" if swap.floor_ratio is None else f", ratio {swap.floor_ratio:.2g}"
    return f" (floor {fp32} in fp32, {fp64} in fp64{ratio})"
