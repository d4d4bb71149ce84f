"""`gannorm study` with everything real: training, evaluation and comparison of a tiny run."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.fake_study import until

from gannorm import cli
from gannorm.rundir import RunDir
from gannorm.studies.tasks import is_scored

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
        "kid_kernel": "rbf",
    },
}


@pytest.mark.slow
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
    assert "1 run: 1 finished. All runs are trained." in capsys.readouterr().out


@pytest.mark.exhaustive  # the engine's part with fake runs: test_engine, test_cluster; a run's: test_interruption
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_study_whose_run_is_killed_equals_an_undisturbed_one(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill −9 of a real training midway; the study goes on with it from its checkpoint, to the same bits."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(yaml.safe_dump({**TINY, "steps": 120, "checkpoint_every": 20}))
    Path("s.yaml").write_text(yaml.safe_dump({**STUDY, "evaluate": {"samples": 60, "splits": 2, "kid_subsets": 3}}))
    assert cli.main(["study", "s.yaml", "--output", "calm"]) == 0

    killed = RunDir("killed/s/group_3")
    killer = threading.Thread(target=kill_at, args=(killed, 40))
    killer.start()
    with cluster() if engine == "ray" else nullcontext([]) as options:
        assert cli.main(["study", "s.yaml", "--output", "killed", *options]) == 0
    killer.join()
    assert "group_3: failed, will be retried: killed by SIGKILL" in capsys.readouterr().err
    assert f"{killed.path}: continues from step" in Path("killed/s/plan/group_3.log").read_text()
    calm = RunDir("calm/s/group_3")
    assert results(killed) == results(calm)


def kill_at(run: RunDir, step: int) -> None:
    """Kill the process that trains a run once it has a checkpoint of a step."""
    until(run.checkpoint_file(step).exists)
    command = f"train\0--config\0{run.path.parent}/plan/{run.name}.yaml\0".encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if file.read_bytes().endswith(command):
                os.kill(int(file.parent.name), signal.SIGKILL)


@contextmanager
def cluster() -> Iterator[list[str]]:
    """The options that lead to a Ray cluster of one node on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", scratch)  # a path for sockets must be short, and pytest's are long
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args=node)
        yield ["--engine", "ray", "--address", nodes.address]
        ray.shutdown()
        nodes.shutdown()


def results(run: RunDir) -> Any:
    """What a run has brought forth, but for how long it took."""
    metrics = [{k: v for k, v in record.items() if k != "images_per_second"} for record in run.metrics()]
    scores = [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in run.scores()]
    weights = torch.load(run.checkpoint_file(None), weights_only=True)["state_dict"]
    return metrics, scores, {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


def test_a_command_line_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", str(tmp_path / "no.yaml")]) == 2
    assert cli.main(["study", str(tmp_path / "no.yaml"), "--jobs", "0"]) == 2
    missing, jobs = capsys.readouterr().err.splitlines()
    assert missing.startswith("gannorm study: a study file must be readable:")
    assert jobs == "gannorm study: `jobs` must be at least 1: got 0."
