"""scripts/rates.py: the lowest mean of logarithms, what collapsed, and what is not final yet."""

from __future__ import annotations

import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import runs_csv

SCRIPT: dict[str, Any] = runpy.run_path("scripts/rates.py")
choose = SCRIPT["choose"]


def runs(fids: Mapping[float, Sequence[float | None]], norm: str = "batch") -> list[Run]:
    """One run a rate and seed; None: never a finite FID."""
    made = []
    for rate, values in fids.items():
        for seed, fid in enumerate(values):
            config = {"seed": seed, "model.discriminator.norm": norm, "model.lr_d": rate}
            known = {} if fid is None else {"fid/final": fid}
            state = "diverged" if fid is None else "finished"
            made.append(Run(f"{norm}_{rate}_{seed}", config, seed, state, 9, values=known, hash=f"{norm}{rate}"))
    return made


def test_the_lowest_mean_of_logarithms_is_chosen_and_not_of_the_values() -> None:
    # Means 5.05 and 5, means of logarithms log 1 and log 5: the geometric mean decides.
    fids = {1e-4: [9.0, 9.0], 2e-4: [0.1, 10.0], 4e-4: [5.0, 5.0]}
    (choice,) = choose(runs(fids), 2)
    assert choice.rate == 2e-4 and choice.open_reason == ""
    assert np.mean(list(choice.values[2e-4].values())) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("best", "more"), [(0, "run 2.5e-05 too"), (2, "run 0.0004 too")])
def test_at_an_edge_the_next_factor_of_two_is_asked_for(best: int, more: str) -> None:
    fids = {rate: [1.0 if i == best else 2.0] for i, rate in enumerate((5e-5, 1e-4, 2e-4))}
    (choice,) = choose(runs(fids), 1)
    assert more in choice.open_reason


def test_a_collapsed_run_enters_with_its_last_finite_value_and_one_without_is_not_chosen() -> None:
    lines = runs({1e-4: [2.0, 2.0], 2e-4: [1.0, None], 4e-4: [3.0, 3.0]})
    (choice,) = choose(lines, 2)
    assert choice.rate == 1e-4 and choice.values[2e-4][1] == math.inf
    lines[3].values["fid/last_finite"] = 1.5
    (choice,) = choose(lines, 2)
    assert choice.rate == 2e-4 and choice.values[2e-4][1] == pytest.approx(math.log(1.5))
    (none,) = choose(runs({1e-4: [None], 2e-4: [None], 4e-4: [None]}), 1)
    assert none.open_reason == "no rate has a finite FID in every run"


def test_a_choice_without_all_seeds_is_not_final() -> None:
    (choice,) = choose(runs({1e-4: [2.0, 2.0], 2e-4: [1.0], 4e-4: [3.0, 3.0]}), 2)
    assert choice.rate == 2e-4 and choice.open_reason == "not final: every rate needs 2 seeds"


def test_arms_are_chosen_for_separately_and_the_file_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = (1e-4, 2e-4, 4e-4)
    lines = runs(dict(zip(rates, ([3.0], [2.0], [4.0]), strict=True)))
    lines += runs(dict(zip(rates, ([2.0], [3.0], [4.0]), strict=True)), "group")
    assert [(c.arm, c.rate) for c in choose(lines, 1)] == [("batch", 2e-4), ("group", 1e-4)]
    (tmp_path / "runs.csv").write_text(runs_csv(lines))
    assert SCRIPT["main"]([str(tmp_path / "runs.csv"), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if "chosen" in line] == ["batch", "group"]
    assert printed[2].endswith("0.693         chosen; inside") and printed[4].endswith("at the edge: run 5e-05 too")
    assert SCRIPT["main"]([str(tmp_path / "nothing.csv")]) == 2
    assert "nothing.csv" in capsys.readouterr().err


def test_the_committed_file_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert SCRIPT["main"](["results/causal_digits_rates/runs.csv"]) == 0
    assert "chosen" in capsys.readouterr().out
