"""Arrays that cannot be read cost a figure and not the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.run_directories import MakeRun

from gannorm.comparison.analysis import analyse
from gannorm.report.optimization_figures import figures
from gannorm.rundir import RunDir


@pytest.fixture
def measured(make_run: MakeRun) -> Callable[..., RunDir]:
    """measured(prefix) writes a run whose records and arrays have this prefix."""

    def make(prefix: str) -> RunDir:
        run = make_run("batch", 0)
        run.append_metrics(0, {f"{prefix}/discriminator/effective_beta": 1.0})
        layers: Any = np.array([1.0, 2.0, 3.0])
        np.savez(run.probe_file(0), **{f"{prefix}/discriminator/moments/{k}": layers for k in ("means", "variances")})
        return run

    return make


@pytest.mark.parametrize("prefix", ["optimization", "why"])
def test_records_of_earlier_versions_are_drawn_too(measured: Callable[..., RunDir], prefix: str) -> None:
    names = [plot.name for plot in figures(analyse([measured(prefix)]))]
    assert names == ["optimization_landscape", "optimization_depth"]


def test_damaged_arrays_cost_one_figure(measured: Callable[..., RunDir]) -> None:
    run = measured("optimization")
    run.probe_file(0).write_bytes(b"PK\x03\x04 cut")
    assert [plot.name for plot in figures(analyse([run]))] == ["optimization_landscape"]
