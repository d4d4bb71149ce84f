"""Runs, evaluations and comparisons at the same time, sharing one cache and one study folder, lose nothing.

Real processes, started together on data that none of them has decoded yet.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gannorm.rundir import RunDir

TINY = ["--data.name=folder", "--data.root=images", "--data.image_size=8", "--data.batch_size=8", "--steps=4"]
TINY += ["--model.discriminator.width=8", "--model.generator.width=8", "--probe_every=0", "--sample_every=0"]
TINY += ["--checkpoint_every=2", "--log_every=1", "--wandb=off", "--progress=false", "--study=study"]

# One process that reads the study over and over while others write it.
READER = """
import sys, time
from pathlib import Path
from gannorm.errors import UserError
from gannorm.rundir import find_runs
from gannorm.report.compare import compare

compared = 0
while not Path("done").exists():
    try:
        comparison = compare(find_runs(["runs/study"]), Path(sys.argv[1]))
    except UserError as error:  # nothing is there yet, or nothing has finished
        assert "config.yaml: runs/study does not" in str(error) or "must have finished" in str(error), error
    else:
        assert not [run for run in comparison.left_out if "damaged" in run.reason], comparison.left_out
        compared += 1
    time.sleep(0.2)
print(compared)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    noise = np.random.default_rng(0)
    folders = [tmp_path / "images" / name for name in ("cats", "dogs")]
    for folder in folders:
        folder.mkdir(parents=True)
    for i in range(60):
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(folders[i % 2] / f"{i}.png")
    return tmp_path


def start(*argv, command=("-m", "gannorm.cli")):
    return subprocess.Popen(
        [sys.executable, *command, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_runs_evaluations_and_comparisons_share_a_cache_and_a_study(here):
    reader = start("report", command=("-c", READER))
    # Two runs of their own, and two processes that want the same third.
    trains = [start("train", *TINY, f"--name={name}", f"--seed={name}") for name in ("0", "1", "2", "2")]
    statuses = [ended(process) for process in trains]
    assert [code for code, _, _ in statuses[:2]] == [0, 0], statuses
    assert sorted(code for code, _, _ in statuses[2:]) == [0, 2], statuses
    (refused,) = [err for code, _, err in statuses if code == 2]
    assert "one process writes a run" in refused or "a run's name must be new" in refused
    runs = {name: RunDir(here / "runs" / "study" / name) for name in "012"}
    for name, run in runs.items():
        assert run.status()["state"] == "finished", name
        assert [r["step"] for r in run.metrics()] == [1, 2, 3, 4]
    assert len(list((here / "cache").glob("8_*.train.pixels"))) == 1, "decoded once, for all"

    evaluate = ["evaluate", "runs/study", "--extractor=in_domain", "--samples=48", "--kid_subsets=2", "--wandb=off"]
    evaluations = [start(*evaluate, f"--seed={seed}") for seed in (1, 2)]
    scored = [ended(process) for process in evaluations]
    (here / "done").touch()
    assert [code for code, _, _ in scored] == [0, 0], scored  # with one extractor, trained once, for both
    for run in runs.values():
        assert {s["protocol"]["seed"] for s in run.scores()} == {1, 2}
    code, out, err = ended(reader)
    assert code == 0, err
    assert int(out.split()[-1]) > 0, "nothing was compared meanwhile"
    assert json.loads((here / "report" / "table.json").read_text())["version"] == 2
    assert not [p for p in here.rglob(".*") if p.is_file() and "lock" not in p.name], "temporary files are left"
