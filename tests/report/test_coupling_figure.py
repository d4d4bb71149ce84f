"""The heat map is the probe's matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.html_page import records

from gannorm.comparison.comparison import Comparison


def test_coupling_data_are_the_probes_matrix(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    with np.load(next(iter(comparison.conditions[0].runs[0].directory.probes().values()))) as arrays:
        expected = arrays["coupling_train"]
    lines = [r for r in records(output / "figures" / "coupling.csv") if r["condition"] == "batch"]
    matrix = np.zeros_like(expected)
    for line in lines:
        matrix[int(line["i"]), int(line["j"])] = float(line["coupling"])
    assert np.array_equal(matrix, expected)


def test_an_independent_network_is_exactly_zero_off_the_diagonal(compared: tuple[Comparison, Path]) -> None:
    lines = [r for r in records(compared[1] / "figures" / "coupling.csv") if r["condition"] == "group"]
    assert lines and all(float(r["coupling"]) == 0 for r in lines if r["i"] != r["j"])
