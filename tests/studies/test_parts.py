"""A study in parts: part, append, skip, part, append; the file of all parts compares as all runs at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gannorm import cli
from gannorm.comparison.analysis import analyse
from gannorm.comparison.runs import Run
from gannorm.comparison.runs_file import append_runs, read_runs_csv
from gannorm.rundir import RunDir, find_runs
from gannorm.studies.parts import identity, plan_csv, without
from gannorm.studies.plan import Study, plan

TINY = {
    "steps": 4,
    "log_every": 2,
    "probe_every": 4,
    "probe_images": 16,
    "sample_every": 0,
    "checkpoint_every": 4,
    "wandb": "off",
    "data": {"name": "digits", "image_size": 8, "batch_size": 8},
    "model": {"discriminator": {"width": 8, "norm": "batch"}, "generator": {"width": 8, "latent_dim": 8}},
}
EVALUATE = {"extractor": "in_domain", "split": "test", "samples": 60, "splits": 2}


def test_the_plan_says_what_is_still_to_do(tmp_path: Path) -> None:
    arms = {"batch": {"model.discriminator.norm": "batch"}, "group": {"model.discriminator.norm": "group"}}
    write(tmp_path, {"arm": arms, "seed": [3, 4]})
    study = plan(tmp_path / "s.yaml", tmp_path / "runs")
    done, diverged = (
        Run(run.name, {"seed": seed}, seed, state, 4, hash=identity(run)[0])
        for run, seed, state in zip(study.runs, (3, 3), ("finished", "diverged"), strict=False)
    )
    lines = plan_csv(study, [done, diverged]).splitlines()
    assert lines[0] == "run,config_hash,seed,arm,state"
    assert [line.split(",")[2:] for line in lines[1:]] == [
        ["3", "batch", "finished"],
        ["3", "group", "diverged"],
        ["4", "batch", "to do"],
        ["4", "group", "to do"],
    ]
    assert lines[1].split(",")[:2] == [study.runs[0].name, done.hash]


@pytest.mark.slow
def test_two_parts_on_two_machines_compare_as_all_runs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arms: dict[str, Any] = {"batch": {"model.discriminator.norm": "batch"}}
    file = "results/s/runs.csv"
    for part in ("first", "second"):
        if part == "second":  # another factor begins to vary, and another seed comes
            reference = {"norm": "reference", "norm_options": {"gradient": False}}
            arms["reference"] = {"model.discriminator": reference, "model.loss": "hinge"}
        write(tmp_path, {"arm": arms, "seed": [3] if part == "first" else [3, 4]}, evaluate=EVALUATE)
        assert cli.main(["study", "s.yaml", "--skip", file, "--output", part, "--report", f"{part}_report"]) == 0
        assert cli.main(["compare", f"{part}/s", "--append", file, "--output", "report"]) == 0
    said = capsys.readouterr().out
    assert "0 of 1 runs are left out" in said and "1 of 4 runs are left out" in said
    assert [run.name for run in find_runs(["second/s"])] == ["batch_4", "reference_3", "reference_4"]

    whole, again = analyse(find_runs(["first/s", "second/s"])), analyse(Path(file))
    assert [len(c.runs) for c in whole.conditions] == [2, 2] and whole.row("reference", "fid/final") is not None
    assert again.to_csv() == whole.to_csv()
    assert again.verdicts == whole.verdicts and again.curves == whole.curves
    assert again.protocol and whole.protocol and again.protocol.items() <= whole.protocol.items()
    assert [c.values for c in again.conditions] == [c.values for c in whole.conditions]

    before = Path(file).read_bytes()
    assert cli.main(["compare", "first/s", "second/s", "--append", file, "--output", "report"]) == 0
    assert "0 lines added" in capsys.readouterr().out and Path(file).read_bytes() == before
    assert cli.main(["study", "s.yaml", "--skip", file, "--output", "third"]) == 0
    assert "Nothing is left to run" in capsys.readouterr().out and not Path("third").exists()


def test_a_planned_run_is_held_by_its_whole_config_and_seed(tmp_path: Path, make_run: Callable[..., RunDir]) -> None:
    study = planned(tmp_path, {"model.discriminator.norm": ["batch", "group"], "seed": [0, 1]})
    template = analyse([make_run("batch", 0)]).conditions[0].runs[0]
    lines = [replace(template, name=run.name, hash=identity(run)[0], seed=identity(run)[1]) for run in study.runs]
    lines = [replace(line, config={**line.config, "seed": line.seed}) for line in lines]
    file = tmp_path / "runs.csv"
    assert without(study, file) is study
    append_runs(file, [lines[0], lines[3], replace(lines[1], hash="0" * 12)])
    left = without(replace(study, baseline="batch"), file)
    assert [run.name for run in left.runs] == ["group_0", "batch_1"] and left.baseline is None

    # What a default was left to is part of the config: written out, it is the same run.
    same = planned(
        tmp_path, {"model.discriminator.norm": ["batch", "group"], "seed": [0, 1]}, set={"model.loss": "non_saturating"}
    )
    assert [run.name for run in without(same, file).runs] == ["group_0", "batch_1"]
    other = planned(
        tmp_path, {"model.discriminator.norm": ["batch", "group"], "seed": [0, 1]}, set={"model.loss": "hinge"}
    )
    assert without(other, file) is other


def test_a_run_without_scores_is_run_again_where_scores_are_asked_for(
    tmp_path: Path, make_run: Callable[..., RunDir]
) -> None:
    study = planned(tmp_path, {"model.discriminator.norm": ["batch"], "seed": [0, 1]})
    template = analyse([make_run("batch", 0)]).conditions[0].runs[0]
    line = replace(template, hash=identity(study.runs[0])[0], protocol="")
    file = tmp_path / "runs.csv"
    append_runs(file, [line])
    assert without(study, file) is study
    assert [run.name for run in without(replace(study, evaluate=None), file).runs] == ["1"]
    assert append_runs(file, [replace(line, protocol="{}")]) == 1  # scored by now
    assert [run.name for run in without(study, file).runs] == ["1"]
    assert len(read_runs_csv(file)[0]) == 1


def planned(folder: Path, factors: dict[str, Any], **more: Any) -> Study:
    write(folder, factors, **more)
    return plan(folder / "s.yaml", folder / "runs")


def write(folder: Path, factors: dict[str, Any], **more: Any) -> None:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "s.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "factors": factors, **more}, sort_keys=False))
