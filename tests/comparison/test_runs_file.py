"""runs.csv holds enough to compute every row, verdict and curve again."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gannorm.comparison.analysis import analyse
from gannorm.comparison.comparison import Comparison
from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import FACTS, append_runs, read_runs_csv, runs_csv
from gannorm.errors import UserError
from gannorm.report.compare import compare
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_the_file_alone_gives_the_same_table_verdicts_and_curves(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    again = analyse(output / "runs.csv")
    assert again.to_csv() == comparison.to_csv()
    assert again.verdicts == comparison.verdicts and again.curves == comparison.curves
    assert again.headline == comparison.headline and again.findings == comparison.findings
    assert again.protocol == comparison.protocol and again.remarks == comparison.remarks


def test_a_reader_recomputes_an_interval_from_the_file_with_scipy(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    with (output / "runs.csv").open() as file:
        lines = [row for row in csv.DictReader(file) if row["state"] == "finished"]
    groups = [
        np.array([float(row["fid/final"]) for row in lines if row["config:model.discriminator.norm"] == f'"{norm}"'])
        for norm in ("batch", "group")
    ]
    low, high = stats.ttest_rel(groups[1], groups[0]).confidence_interval(0.95)
    effect = comparison.rows["group", "fid/final"].effect
    assert effect is not None and (effect.difference.low, effect.difference.high) == pytest.approx((low, high))


def test_a_line_names_its_run_seed_hash_and_factors(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    lines = list(csv.DictReader(io.StringIO((output / "runs.csv").read_text())))
    assert [line["run"] for line in lines] == [run.name for c in comparison.conditions for run in c.all_runs]
    assert {line["seed"] for line in lines} == {"0", "1", "2", "3"}
    assert len({line["config_hash"] for line in lines}) == 2
    assert list(lines[0])[: len(FACTS)] == list(FACTS)


def test_a_crossed_study_is_the_same_from_its_file(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(norm, seed, name=f"{norm}_{size}_{seed}", data={"name": "digits", "batch_size": size})
        for norm in ("batch", "group")
        for size in (8, 64)
        for seed in (0, 1)
    ]
    comparison = analyse(runs)
    file = tmp_path / "runs.csv"
    file.write_text(runs_csv([run for c in comparison.conditions for run in c.all_runs]))
    again = analyse(file)
    assert [c.label for c in again.conditions] == [c.label for c in comparison.conditions]
    assert again.crossed == comparison.crossed and again.to_csv() == comparison.to_csv()


def test_parts_are_appended_each_run_once_and_compare_as_all_at_once(make_run: MakeRun, tmp_path: Path) -> None:
    """The parts differ in what varies, and in their quantities: columns are united, and nothing is guessed."""
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(2)]
    runs += [make_run("batch", seed, name=f"joint_{seed}", precision="exact") for seed in range(2)]
    whole = analyse(runs)
    file = tmp_path / "results" / "runs.csv"
    assert append_runs(file, lines_of(runs[:2])) == 2
    assert append_runs(file, lines_of(runs[1:])) == len(runs) - 2
    assert append_runs(file, lines_of(runs)) == 0
    again = analyse(file)
    assert again.to_csv() == whole.to_csv() and again.verdicts == whole.verdicts
    assert {c.label for c in again.conditions} == {c.label for c in whole.conditions}


def test_a_damaged_file_is_not_rewritten(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text((compared[1] / "runs.csv").read_text() + "half a line\n")
    before = file.read_bytes()
    with pytest.raises(UserError, match="must hold a run before others are added: line 9"):
        append_runs(file, [run for c in compared[0].conditions for run in c.runs])
    assert file.read_bytes() == before


def test_the_report_of_a_file_draws_the_curve_and_the_scores(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    compare(compared[1] / "runs.csv", tmp_path)
    for name in ("composition_curve", "scores", "conflict_against_score"):
        assert (tmp_path / "figures" / f"{name}.png").exists()
    assert not (tmp_path / "figures" / "coupling.png").exists()
    assert (tmp_path / "runs.csv").read_text() == (compared[1] / "runs.csv").read_text()


def test_scores_of_another_protocol_are_left_out(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    lines = (compared[1] / "runs.csv").read_text().splitlines()
    assert "heldout" in lines[-1]
    lines[-1] = lines[-1].replace("heldout", "test")
    file = tmp_path / "runs.csv"
    file.write_text("\n".join(lines))
    comparison = analyse(file)
    assert comparison.rows["group", "fid/final"].estimate.n == 2
    assert any("the scores of 1 lines are left out" in remark for remark in comparison.remarks)


def test_conditions_that_a_file_cannot_tell_apart_are_remarked(
    compared: tuple[Comparison, Path], tmp_path: Path
) -> None:
    text = (compared[1] / "runs.csv").read_text()
    digits = text.splitlines()[1].split(",")[2]
    file = tmp_path / "runs.csv"
    file.write_text(text.replace(digits, "0" * 12, 1))
    assert any("different config hashes (batch)" in remark for remark in analyse(file).remarks)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "must have the columns"),
        ("a,b\n1,2\n", "lacks run, study"),
        (",".join(FACTS) + '\n"a', "comma-separated"),
        (None, "readable file"),
    ],
)
def test_another_file_is_one_clear_line(tmp_path: Path, content: str | None, reason: str) -> None:
    file = tmp_path / "runs.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=reason):
        read_runs_csv(file)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,s,h,zero,finished,1,,1", "invalid literal"),
        ("a,s,h,0,running,1,,1", "state must be one of"),
        ("a,s,h,0,finished,1,,nan", "finite"),
        ("a,s,h,0,finished,1,,high", "could not convert"),
        ("a,s,h,0,finished,1,,1,2", "more cells"),
        ("a,s,h", "state must be one of"),
    ],
)
def test_a_damaged_line_is_named_and_the_rest_is_read(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(",".join([*FACTS, "fid/final"]) + f"\ngood,s,h,0,finished,1,,3.0\n{line}\n")
    runs, left_out = read_runs_csv(file)
    assert [run.name for run in runs] == ["good"]
    assert left_out[0].name == "line 3 of runs.csv" and reason in left_out[0].reason


def lines_of(runs: list[RunDir]) -> list[Run]:
    return [run for c in analyse(runs).conditions for run in c.all_runs]


def test_a_run_of_an_earlier_version_has_the_default_of_a_factor_that_was_declared_later(tmp_path: Path) -> None:
    old = Run("old_0", {"seed": 0, "model.discriminator.norm": "batch"}, 0, "finished", 4, hash="a", protocol="p")
    same = {"seed": 1, "model.discriminator.norm": "batch", "model.discriminator.activation": "leaky_relu"}
    new = Run("new_1", same, 1, "finished", 4, hash="a", protocol="p")
    other = Run("new_2", {**same, "seed": 2, "model.discriminator.activation": "relu"}, 2, "finished", 4, hash="b")
    (tmp_path / "runs.csv").write_text(runs_csv([old, new, other]))
    runs, left_out = read_runs_csv(tmp_path / "runs.csv")
    assert [run.config["model.discriminator.activation"] for run in runs] == ["leaky_relu", "leaky_relu", "relu"]
    assert not left_out
