"""scripts/claims: each criterion passes and fails on constructed numbers, and neither `none` nor a guess passes it."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python does for a script
accuracies, along, common, criteria, processes, steps, surfaces, while_training = (
    importlib.import_module(f"claims.{name}")
    for name in ["accuracies", "along", "common", "criteria", "processes", "steps", "surfaces", "while_training"]
)
MAIN: dict[str, Any] = runpy.run_path(str(SCRIPTS / "paper_claims.py"))
GUESS = common.GUESS


def near(value: float, spread: float = 0.01) -> np.ndarray:
    """Five seeds around a value, whose spread is small beside what the criteria look for."""
    return value + spread * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def far_apart(value: float) -> np.ndarray:
    return near(value, spread=max(1.0, 10 * abs(value)))


def outcomes(claims: dict[str, Any]) -> list[bool | None]:
    """In order; a claim that does not hold must name its cause."""
    assert all(result["holds"] or result["cause"] for result in claims.values())
    return [result["holds"] for result in claims.values()]


# -- the shared criteria ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "holds"), [(near(0.1), True), (near(-0.1), False), (far_apart(0.1), None)])
def test_a_mean_is_shown_above_or_below_or_not(values: np.ndarray, holds: bool | None) -> None:
    assert criteria.above(values) is holds
    assert criteria.above(values + 3, 3) is holds


def test_one_seed_and_equal_conditions_show_nothing() -> None:
    assert criteria.above([5.0]) is None
    assert criteria.above(near(1.0) - near(1.0)) is None


def test_half_of_a_gain_is_kept_or_lost_and_none_never_keeps_it() -> None:
    best, none = near(0.9), near(0.5)[::-1]
    assert criteria.keeps_half(best, near(0.85), none) is True
    assert criteria.keeps_half(best, near(0.55), none) is False
    assert criteria.keeps_half(best, none, none) is False
    assert criteria.keeps_half(best, far_apart(0.85), none) is None
    assert criteria.keeps_half(near(0.5), near(0.9), none) is None  # nothing gained that could be kept


def test_no_gain_is_shown_within_a_margin_and_not_by_two_guesses() -> None:
    assert criteria.no_gain(near(0.91), near(0.9), 0.05) is True
    assert criteria.no_gain(near(0.99), near(0.9), 0.05) is False
    assert criteria.no_gain(far_apart(0.91), near(0.9), 0.05) is None
    assert criteria.no_gain(near(GUESS), near(GUESS), 0.05) is None
    assert criteria.no_gain(near(0.9), near(GUESS), 0.05) is False


def test_what_is_needed_trains_with_it_alone() -> None:
    assert criteria.needed(near(0.9), near(GUESS), 0.8) is True
    assert criteria.needed(near(0.9), near(0.95), 0.8) is False
    assert criteria.needed(near(0.9), near(0.7), 0.8) is None
    assert criteria.needed(near(GUESS), near(GUESS), 0.8) is None


def test_a_regularizer_is_superfluous_if_it_helps_without_batch_norm_alone() -> None:
    assert criteria.superfluous(near(0.0, 0.001), near(0.05, 0.001)) is True
    assert criteria.superfluous(near(0.05, 0.001), near(0.05, 0.001)) is False
    assert criteria.superfluous(near(0.0), near(0.0)) is None


def test_every_seed_counts_and_the_contrast_must_fail() -> None:
    assert criteria.only_with([0.9, 0.8], [0.2, 0.1], 0.5) is True
    assert criteria.only_with([0.9, 0.4], [0.2, 0.1], 0.5) is False
    assert criteria.only_with([0.9, 0.8], [0.6, 0.9], 0.5) is None
    assert criteria.only_with([0.51, 0.52], [0.49, 0.53], 0.5) is None  # alike, and near the bound


def test_two_accuracies_are_alike_within_a_margin_and_two_guesses_are_not() -> None:
    one = near(0.9)
    assert criteria.alike(one, near(0.9)[::-1], 0.05) is True
    assert criteria.alike(one, near(0.8)[::-1], 0.05) is criteria.alike(near(0.8)[::-1], one, 0.05) is False
    assert criteria.alike(one, near(0.9)[::-1], 0.01) is None  # not shown to differ, nor to be alike
    assert criteria.alike(near(GUESS), near(GUESS)[::-1], 0.05) is None


def test_a_gap_is_narrower_only_of_a_network_that_fits_as_well() -> None:
    gaps, wide, good = (near(0.05), near(0.2)[::-1]), (near(0.2)[::-1], near(0.05)), near(0.9)
    assert criteria.narrower(gaps, (good, good), 0.02)[0] is True
    assert criteria.narrower(wide, (good, good), 0.02)[0] is False
    assert criteria.narrower(gaps, (good - 0.1, good), 0.02)[0] is None  # it fits less
    assert criteria.narrower(gaps, (near(GUESS), good), 0.02)[0] is None  # a guess has no gap
    assert criteria.narrower(wide, (good, near(GUESS)), 0.02)[0] is None
    assert criteria.narrower((gaps[0], gaps[0]), (good, good), 0.02)[0] is None


# -- every experiment's claims ----------------------------------------------------------------------------------------

Case = tuple[Callable[[], dict[str, Any]], list[bool | None]]
THREE = ("batch", "group", "none")


def of_steps(candidate: float, batch: float = 30) -> Callable[[], dict[str, Any]]:
    numbers = {"batch": near(batch, 1), "noisy": near(candidate, 1), "none": near(50, 2)}
    return lambda: steps.claims_on_steps(numbers, "noisy", "noisy BatchNorm")


def of_small_batches(batch: float, batch_small: float, none_small: float) -> Callable[[], dict[str, Any]]:
    values = {"batch": near(batch), "batch_small": near(batch_small), "none_small": near(none_small)}
    return lambda: steps.claims_on_small_batches(values)


def of_consistency(batch: float, group: float, none: float, learned: float = 0.9) -> Callable[[], dict[str, Any]]:
    values = dict(zip(THREE, map(near, (batch, group, none)), strict=True))
    accuracy = dict.fromkeys(THREE, near(learned))
    return lambda: along.claims_on_consistency(values, values, accuracy, "rate 1")


def of_signs(batch: float, none: float, longer: float = 1.0) -> Callable[[], dict[str, Any]]:
    shares = {"batch": near(batch, batch / 100), "none": near(none, none / 50)}
    return lambda: along.claims_on_signs(shares, {"batch": near(1.0), "none": near(longer)})


def of_the_tug_of_war(rescaled: float, batch: float) -> Callable[[], dict[str, Any]]:
    cosine = {"rescaled": near(rescaled), "batch": near(batch)[::-1], "none": near(0.0)}
    return lambda: along.claims_on_the_tug_of_war(cosine, dict.fromkeys(cosine, 1.0))


def of_surfaces(batch: float, group: float, none: float) -> Callable[[], dict[str, Any]]:
    values = {n: near(v, v / 100) for n, v in zip(THREE, (batch, group, none), strict=True)}
    return lambda: surfaces.claims_on_surfaces(values, "here")


def of_sigmoids(batch: float, group: float, none: float) -> Callable[[], dict[str, Any]]:
    return lambda: accuracies.claims_on_sigmoids(dict(zip(THREE, map(near, (batch, group, none)), strict=True)))


def of_regularization(gaps: list[float], accuracy: list[float]) -> Callable[[], dict[str, Any]]:
    names = ("batch", "batch_decay", "batch_dropout", "none", "none_decay", "none_dropout")
    wiggle = [0.001 * (-1) ** k for k in range(6)]  # so that pairs are not equal bit for bit
    values = [{n: near(v, w) for n, v, w in zip(names, of_each, wiggle, strict=True)} for of_each in (gaps, accuracy)]
    return lambda: accuracies.claims_on_regularization(*values)


def of_half(accuracy: float, rate: float, none: float = 0.3, highest: float = 1.0) -> Callable[[], dict[str, Any]]:
    best = {"batch": near(0.9), "fixup": near(accuracy), "none": near(none)[::-1]}
    largest = {"batch": near(0.3), "fixup": near(rate, rate / 100), "none": near(0.01, 0.0001)}
    return lambda: accuracies.claims_on_half(best, largest, "fixup", highest)


def of_the_majority(last: float, none: float) -> Callable[[], dict[str, Any]]:
    majority = {"batch": near(0.3), "last": near(last), "none": near(none)[::-1]}
    return lambda: accuracies.claims_on_the_majority(majority)


def of_devices(few: list[float], more: list[float], slower: float) -> Callable[[], dict[str, Any]]:
    rows = {2: dict(zip(processes.NAMES, few, strict=True)), 8: dict(zip(processes.NAMES, more, strict=True))}
    accuracy = {(n, k): near(v, 0.001 * k) for k, row in rows.items() for n, v in row.items()}
    seconds = {(n, k): near(0.02 * (slower if n == "sync" else 1), 1e-4) for n in processes.NAMES for k in (2, 8)}
    return lambda: processes.claims_on_devices(accuracy, seconds)


CASES: dict[str, Case] = {
    "steps: noise costs nothing": (of_steps(31), [True, True]),
    "steps: none in the place of noisy": (of_steps(50), [True, False]),
    "steps: nothing to save": (of_steps(31, batch=50), [None, None]),
    "steps: BatchNorm needs more": (of_steps(31, batch=70), [False, None]),
    "small batches: as good": (of_small_batches(0.92, 0.91, 0.9), [True, True]),
    "small batches: worse": (of_small_batches(0.99, 0.98, 0.8), [False, False]),
    "small batches: guesses": (of_small_batches(GUESS, GUESS, GUESS), [None, None]),
    "consistency: with a normalizer alone": (of_consistency(0.9, 0.8, 0.2), [True, True, True]),
    "consistency: never": (of_consistency(0.2, 0.1, 0.4), [False, False, False]),
    "consistency: in all": (of_consistency(0.9, 0.9, 0.9), [None, None, None]),
    "consistency: of a network that stands still": (of_consistency(1.0, 1.0, 0.2, GUESS), [None, None, None]),
    "signs: fewer": (of_signs(0.001, 0.002), [True, True]),
    "signs: more": (of_signs(0.002, 0.001), [False, False]),
    "signs: fewer for shorter steps": (of_signs(0.001, 0.002, longer=4.0), [True, False]),
    "tug of war: steps push back": (of_the_tug_of_war(0.8, 0.1), [True]),
    "tug of war: they do with BatchNorm, too": (of_the_tug_of_war(0.8, 0.8), [None]),
    "tug of war: less than with BatchNorm": (of_the_tug_of_war(0.2, 0.8), [False]),
    "tug of war: random directions": (of_the_tug_of_war(0.0, 0.0), [None]),
    "surface: smoother": (of_surfaces(1, 2, 50), [True, True]),
    "surface: rougher": (of_surfaces(50, 60, 2), [False, False]),
    "surface: alike": (of_surfaces(2, 2, 2), [None, None]),
    "sigmoid: BatchNorm alone": (of_sigmoids(0.95, GUESS, GUESS), [True, True]),
    "sigmoid: any normalizer": (of_sigmoids(0.95, 0.95, GUESS), [True, False]),
    "sigmoid: no normalizer": (of_sigmoids(0.95, 0.95, 0.95), [False, False]),
    "sigmoid: nothing trains": (of_sigmoids(GUESS, GUESS, GUESS), [None, None]),
    "regularization: BatchNorm does it all": (
        of_regularization([0.05, 0.05, 0.05, 0.2, 0.1, 0.1], [0.9, 0.9, 0.9, 0.8, 0.85, 0.85]),
        [True, True, True, True, True],
    ),
    "regularization: BatchNorm does nothing": (
        of_regularization([0.3, 0.1, 0.1, 0.2, 0.1, 0.1], [0.8, 0.85, 0.85, 0.8, 0.85, 0.85]),
        [False, False, False, False, False],
    ),
    "regularization: BatchNorm has not learned": (
        of_regularization([0.0, 0.0, 0.0, 0.2, 0.1, 0.1], [GUESS, GUESS, GUESS, 0.8, 0.85, 0.85]),
        [None, None, None, None, None],
    ),
    "regularization: BatchNorm fits less": (
        of_regularization([0.05, 0.05, 0.05, 0.2, 0.1, 0.1], [0.7, 0.7, 0.7, 0.8, 0.85, 0.85]),
        [None, None, None, True, True],
    ),
    "regularization: nobody does": (
        of_regularization([0.2] * 6, [0.8] * 6),
        [None, None, None, None, None],
    ),
    "fixup: as good": (of_half(0.88, 0.29), [True, True]),
    "fixup: as bad as neither": (of_half(0.3, 0.01), [False, False]),
    "fixup: BatchNorm gains no accuracy": (of_half(0.88, 0.29, none=0.9), [None, True]),
    "fixup: BatchNorm trains at the largest rate tried": (of_half(0.88, 0.29, highest=0.3), [True, None]),
    "fixup: it fails even so": (of_half(0.88, 0.01, highest=0.3), [True, False]),
    "one layer: fewer in one class": (of_the_majority(0.3, 0.9), [True]),
    "one layer: more": (of_the_majority(0.9, 0.3), [False]),
    "one layer: alike": (of_the_majority(0.5, 0.5), [None]),
    "devices: local degrades": (of_devices([0.6, 0.9, 0.88], [0.92, 0.92, 0.92], 1.2), [True, True, True, True]),
    "devices: sync harms": (of_devices([0.9, 0.6, 0.5], [0.8, 0.9, 0.9], 3.0), [False, False, False, False]),
    "devices: guesses": (of_devices([GUESS] * 3, [GUESS] * 3, 1.5), [None, None, None, None]),
    "devices: none has learned with 8": (
        of_devices([GUESS, 0.9, GUESS], [0.3, 0.3, GUESS], 1.2),
        [True, None, None, True],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_experiments_claims_hold_or_fail_as_constructed(name: str) -> None:
    make, expected = CASES[name]
    assert outcomes(make()) == expected


@pytest.mark.parametrize(("group", "none", "holds"), [(1.0, 0.1, True), (0.3, 0.1, False), (1.0, 1.0, None)])
def test_a_rate_is_as_large_only_where_batch_norms_is_larger_than_nones(
    group: float, none: float, holds: bool | None
) -> None:
    largest = {"batch": [1.0, 1.0], "group": [group] * 2, "none": [none] * 2}
    assert while_training.equally_large(largest, "group") is holds
    assert while_training.equally_large(largest | {"group": [1.0, 0.3]}, "group") is None  # not in every seed


def test_no_gain_at_a_small_rate_is_not_that_of_two_guesses() -> None:
    def holds(batch: float, none: float, gain: float = 0.5) -> bool | None:
        return while_training.no_gain_at_small_rates({"batch": [batch] * 2, "none": [none] * 2}, gain)

    assert holds(0.9, 0.88) is True
    assert holds(0.9, 0.7) is False
    assert holds(GUESS, GUESS) is None
    assert holds(0.9, 0.88, gain=0.01) is None


# -- what is measured -------------------------------------------------------------------------------------------------


def test_rescaled_weights_give_every_channel_the_moments_zero_and_one() -> None:
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network = common.network_of("plain", 8, "none", (images, torch.zeros(32)))
    along.rescale(network, images)
    mean, std = along.moments_of(network, images)
    assert mean.abs().max() < 1e-4 and (std - 1).abs().max() < 1e-4  # float32, by eight layers


def test_the_steepest_slope_is_that_of_a_plane() -> None:
    grid = np.linspace(-0.5, 0.5, 11)
    plane = 3.0 * grid[:, None] - 7.0 * grid[None, :]
    assert surfaces.steepest_slope(plane, grid) == pytest.approx(7.0)


def test_best_and_largest_rate_are_chosen_by_condition() -> None:
    table = {("a", 1.0): 0.9, ("a", 4.0): 0.2, ("b", 1.0): GUESS, ("b", 4.0): GUESS}
    numbers: dict[str, Any] = {}
    best, largest = accuracies.at_rates(
        numbers, ("a", "b"), (1.0, 4.0), 2, lambda n, rate, seed: {"rate": rate, "accuracy": table[n, rate]}
    )
    assert best["a"].tolist() == [0.9, 0.9] and largest["a"].tolist() == [1.0, 1.0]
    assert best["b"].tolist() == [GUESS, GUESS] and largest["b"].tolist() == [0.25, 0.25]  # none is usable


@pytest.mark.slow
def test_an_experiment_writes_its_numbers_picture_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["paper_claims.py", "units", "--seeds", "1", "--output", str(tmp_path)])
    assert MAIN["main"]() == 0
    content = json.loads((tmp_path / "units.json").read_text())
    assert content["command"].endswith("units --seeds 1") and (tmp_path / "units.png").stat().st_size > 1000
    assert all(claim in (tmp_path / "README.md").read_text() for claim in content["claims"])
    assert capsys.readouterr().out.count("\n") == len(content["claims"])


def test_the_page_says_what_all_experiments_cost() -> None:
    assert MAIN["_cost"]([3600, 1800.0]) == "The 2 experiments together: at most 90 minutes on one core."
    assert MAIN["_cost"]([30, None]).endswith("0.5 minutes on one core, without 1 whose time was not taken.")


def test_every_experiment_says_its_criterion_and_stands_in_the_help() -> None:
    for name, experiment in MAIN["EXPERIMENTS"].items():
        assert f"paper_claims.py {name} " in (MAIN["__doc__"] or ""), name
        assert experiment.__doc__, name
