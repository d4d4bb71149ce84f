"""A measurement of batch dependence as a figure: the composition curve, the four cells, the coupling matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gannorm.verdict import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gannorm.probes.dependence.batch_invariance import BatchInvariance
    from gannorm.probes.dependence.class_composition import ClassComposition


def dependence_figure(result: BatchInvariance) -> Figure:
    """The composition curve with its band and chance, the mean logits of the four cells, and, where it was measured,
    some rows of the coupling matrix. Imports matplotlib.
    """
    from matplotlib.figure import Figure

    columns = 2 if result.matrix is None else 3
    figure = Figure(figsize=(4.6 * columns, 4), layout="constrained")
    figure.suptitle(result.verdict.kind)
    axes = figure.subplots(1, columns)
    _curve(axes[0], result)
    _cells(axes[1], result)
    if result.matrix is not None:
        _matrix(figure, axes[2], result)
    return figure


def class_figure(result: ClassComposition) -> Figure:
    """The accuracy of a classifier by the share of the own class, with its band and chance. Imports matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    _estimates(axes, result.own_among_others, result.accuracy, "accuracy", result.chance)
    axes.set(title=f"Composition curve of a classifier, {len(result.classes)} classes", ylabel="accuracy")
    return figure


def _curve(axes: Any, result: BatchInvariance) -> None:
    curve = result.composition
    _estimates(axes, curve.own_among_others, curve.auc, "AUC", 0.5)
    last = curve.own_among_others[-1], curve.auc[-1].mean
    axes.annotate("conflict", last, textcoords="offset points", xytext=(-44, 10))
    axes.set(title=f"Composition curve, {result.mode} mode", ylabel="AUC, real against fake")


def _estimates(axes: Any, x: Sequence[float], values: Sequence[Estimate], name: str, chance: float) -> None:
    axes.plot(x, [value.mean for value in values], marker="o", label=name)
    if all(value.low is not None for value in values):
        low, high = ([getattr(value, end) for value in values] for end in ("low", "high"))
        axes.fill_between(x, low, high, alpha=0.2, label="95 % interval")
    axes.axhline(chance, color="gray", linestyle=":", label="chance")
    axes.set(xlabel="share of the own class among the other images", xlim=(1.02, -0.02), ylim=(-0.02, 1.02))
    axes.legend(loc="lower left", fontsize="small")


def _cells(axes: Any, result: BatchInvariance) -> None:
    cells = result.composition.cells
    values = [
        [cells.real_among_real, cells.real_among_fake],
        [cells.fake_among_real, cells.fake_among_fake],
    ]
    limit = max(abs(value) for row in values for value in row) or 1.0
    axes.imshow(values, cmap="coolwarm", vmin=-limit, vmax=limit)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2g}", ha="center", va="center")
    axes.set(
        title="Mean logit",
        xlabel="the other images of the batch",
        ylabel="the image",
        xticks=[0, 1],
        xticklabels=["real", "fake"],
        yticks=[0, 1],
        yticklabels=["real", "fake"],
    )


def _matrix(figure: Figure, axes: Any, result: BatchInvariance) -> None:
    from matplotlib.colors import LogNorm

    assert result.matrix is not None
    matrix = result.matrix.cpu().numpy()
    top = matrix.max() or 1.0
    image = axes.imshow(matrix.clip(top * 1e-6), norm=LogNorm(top * 1e-6, top), cmap="magma", aspect="auto")
    figure.colorbar(image, ax=axes, label="‖∂f_i/∂x_j‖")
    axes.axhline(matrix.shape[0] / 2 - 0.5, color="white", linewidth=0.8)
    axes.axvline(matrix.shape[1] / 2 - 0.5, color="white", linewidth=0.8)
    axes.set(title="Coupling", xlabel="image j (real, then fake)", ylabel="logit i", yticks=[])
