"""The options of a study's evaluation: those of the command, and which scores answer them."""

from __future__ import annotations

import re

import pytest

from gannorm import cli
from gannorm.commands.evaluate import OF_OTHERS
from gannorm.evaluation.sampling import STATISTICS
from gannorm.studies.evaluation_options import EVALUATE_OPTIONS, MODES, answered


def test_the_evaluate_options_of_a_study_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    options = set(re.findall(r"^  (?:-h, )?--(\w+)", capsys.readouterr().out, re.MULTILINE))
    # A study scores the last checkpoint or all of them, once, and runs alone.
    assert options - {"help", "step", "again", "print_shtab", *OF_OTHERS} == set(EVALUATE_OPTIONS)


def test_what_answers_a_studys_evaluation() -> None:
    modes = {m: {"statistics": m[0], "ema": m[1], "split": "train"} for m in MODES}
    assert {statistics for statistics, _ in MODES} == set(STATISTICS)
    every = [{"protocol": protocol} for protocol in modes.values()]
    assert answered(every, {"statistics": "all"})
    assert not answered(every[1:], {"statistics": "all"})
    assert not answered(every, {"statistics": "all", "split": "test"})
    assert answered(every[:1], {"statistics": "running"}) and not answered(every[:1], {"statistics": "batch"})
    sought = {**every[0], "reconstruction": {"protocol": {"images": 64}}}
    assert answered([sought], {"reconstruction": 64})
    assert not answered([sought], {"reconstruction": 65}) and not answered(every, {"reconstruction": 64})
    assert answered([{**every[0], "diverged": True}], {"reconstruction": 64})  # there is no image to seek


def test_scores_made_with_one_option_do_not_answer_another() -> None:
    """Of every option that a protocol records; each option taken for answered would leave the old scores standing."""
    made = {
        "ema": (True, False),
        "statistics": ("running", "batch"),
        "extractor": ("in_domain", "inception"),
        "split": ("train", "test"),
        "fake_images": (60, 61),
        "inception_splits": (2, 3),
        "kid_subsets": (3, 4),
        "kid_kernel": ("poly", "rbf"),
        "seed": (7, 8),
        "batch_size": (64, 65),
    }
    record = {"protocol": {key: value for key, (value, _) in made.items()}}
    names = {"fake_images": "samples", "inception_splits": "splits"}
    for key, (value, other) in made.items():
        option = names.get(key, key)
        assert answered([record], {option: value}) and not answered([record], {option: other}), option
    mixed = [record, {"protocol": record["protocol"] | {"statistics": "batch", "ema": False}}]
    assert not answered(mixed, {"statistics": "batch", "ema": True})  # each half of it is there, the whole is not
