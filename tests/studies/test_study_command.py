"""`gannorm study` with everything real: training, evaluation and comparison of a tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gannorm import cli
from gannorm.rundir import RunDir
from gannorm.studies.engine import is_scored

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
STUDY: dict[str, Any] = {
    "base": "base.yaml",
    "factors": {"model.discriminator.norm": ["group"], "seed": [3]},
    # Every option that a score's protocol records: an engine that knew one by a wrong key would score again and again.
    "evaluate": {
        "all_checkpoints": True,
        "ema": False,
        "statistics": "batch",
        "extractor": "in_domain",
        "split": "test",
        "samples": 60,
        "splits": 2,
        "seed": 7,
        "kid_subsets": 3,
        "fid_solver": "symmetric",
    },
}


def test_a_study_ends_in_a_report_and_then_nothing_is_left_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    runs, report = tmp_path / "runs", tmp_path / "report"
    arguments = ["study", str(tmp_path / "s.yaml"), "--output", str(runs), "--report", str(report)]
    assert cli.main(arguments) == 0, capsys.readouterr().err

    assert (report / "index.html").is_file()
    rows = json.loads((report / "table.json").read_text())["rows"]
    assert [row["n"] for row in rows if row["quantity"] == "fid/final"] == [1]
    run = RunDir(runs / "s/group_3")
    assert run.config()["model"]["discriminator"]["norm"] == "group"  # resolved: with the keys that TINY does not name
    assert run.config()["model"]["d_steps"] == 1
    assert is_scored(run, STUDY["evaluate"])
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "1 run: 1 finished. Nothing is left to train." in capsys.readouterr().out


def test_a_command_line_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", str(tmp_path / "no.yaml")]) == 2
    assert cli.main(["study", str(tmp_path / "no.yaml"), "--jobs", "0"]) == 2
    missing, jobs = capsys.readouterr().err.splitlines()
    assert missing.startswith("gannorm study: a study file must be readable:")
    assert jobs == "gannorm study: `jobs` must be at least 1: got 0."
