"""The figure of a measurement shows what it names."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from gannorm.probes import batch_invariance


@pytest.mark.parametrize(("cost", "count"), [("full", 3), ("quick", 2)])
def test_the_figure_shows_the_curve_the_cells_and_the_matrix(cost: str, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(64, 1, generator=generator) + m for m in (1, -1))
    result = batch_invariance(nn.Sequential(nn.BatchNorm1d(1), nn.Flatten(0)), real, fake, 16, cost=cost)
    figure = result.figure()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    axes = [ax for ax in figure.axes if ax.get_title()]
    assert len(axes) == count
    line = axes[0].lines[0]
    assert list(line.get_xdata()) == list(result.composition.own_among_others)
    assert list(line.get_ydata()) == [auc.mean for auc in result.composition.auc]
    assert axes[0].get_legend_handles_labels()[1] == ["AUC", "95 % interval", "chance"]
    cells = result.composition.cells
    assert axes[1].images[0].get_array().tolist() == [
        [cells.real_among_real, cells.real_among_fake],
        [cells.fake_among_real, cells.fake_among_fake],
    ]
    if result.matrix is not None:
        assert axes[2].images[0].get_array().shape == (4, 16)
