"""`gannorm study` with everything real: training, evaluation and comparison of two tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gannorm import cli

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
STUDY = {
    "base": "base.yaml",
    "factors": {"model.discriminator.norm": ["batch", "group"], "seed": [0]},
    # Every option that a score's protocol records: if the engine knew one by a wrong key, it would score for ever.
    "evaluate": {
        "all_checkpoints": True,
        "ema": False,
        "statistics": "batch",
        "extractor": "in_domain",
        "split": "test",
        "samples": 60,
        "splits": 2,
        "seed": 7,
    },
    "baseline": "group",
}


def test_a_study_ends_in_a_report_and_its_repetition_writes_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    runs, report = tmp_path / "runs", tmp_path / "report"
    arguments = ["study", str(tmp_path / "s.yaml"), "--output", str(runs), "--report", str(report)]
    assert cli.main(arguments) == 0, capsys.readouterr().err

    assert (report / "index.html").is_file()
    table = json.loads((report / "table.json").read_text())
    assert table["baseline"] == "group"
    assert {row["condition"] for row in table["rows"] if row["quantity"] == "fid/final"} == {"batch", "group"}

    times = {file: file.stat().st_mtime_ns for file in runs.rglob("*") if file.is_file() and file.name != ".lock"}
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "2 runs: 2 finished. Nothing is left to train." in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_a_command_line_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", str(tmp_path / "no.yaml")]) == 2
    assert cli.main(["study", str(tmp_path / "no.yaml"), "--jobs", "0"]) == 2
    missing, jobs = capsys.readouterr().err.splitlines()
    assert missing.startswith("gannorm study: a study file must be readable:")
    assert jobs == "gannorm study: `jobs` must be at least 1: got 0."
