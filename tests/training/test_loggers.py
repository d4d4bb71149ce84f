"""What reaches the run directory and W&B, read back from disk; and W&B's failures, which must not reach training."""

import pytest
from PIL import Image
from support.offline_wandb import Offline

from gannorm.rundir import RunDir
from gannorm.training import train
from gannorm.training.loggers import RunDirLogger, WandbLogger
from gannorm.wandb_run import CHARTED, WandbRun

pytestmark = pytest.mark.usefixtures("no_account")


@pytest.fixture
def trained(configure, tmp_path, capsys):
    """A run with probes, samples and checkpoints, its offline file and what was printed."""
    flags = (
        "--wandb",
        "auto",
        "--probe_every",
        "4",
        "--probe_images",
        "64",
        "--sample_every",
        "4",
        "--optimization_every",
        "4",
    )
    flags += (
        "--optimization_budget",
        "1",
        "--checkpoint_every",
        "4",
        "--wandb_checkpoints",
        "true",
        "--precision",
        "exact",
    )
    run = train(configure(*flags), tmp_path / "run")
    return run, Offline(run.path), capsys.readouterr().out


def test_a_run_is_one_row_with_all_that_people_sort_and_filter_by(trained):
    run, offline, printed = trained
    (start,) = offline.starts
    assert (start.run_group, start.job_type, start.run_id) == ("runs/batch", "training", run.wandb_id())
    assert set(start.tags) == {"digits", "batch", "non_saturating"}
    config = offline.config
    assert config["model"]["discriminator"]["norm"] == "batch" and config["data"]["batch_size"] == 16
    assert config["arithmetic"].startswith("32-true") and config["version"]
    assert config["parameters"]["discriminator"] > 1000 < config["parameters"]["generator"]

    summary, last = offline.summary, [r for r in run.metrics() if "batch_dependence/train/auc_gap" in r][-1]
    assert summary["state"] == "finished" and summary["last_step"] == 4 and summary["verdict"] in str(summary)
    for name in ("auc_gap", "auc_conflict", "accuracy_gap"):
        assert summary[name] == pytest.approx(last[f"batch_dependence/train/{name}"], rel=1e-6)
    assert {"verdict", "verdict_reason", "arithmetic", "version", "parameters"} <= {k.split("/")[0] for k in summary}
    assert f"W&B: offline; wandb sync {next((run.path / 'wandb').glob('offline-run-*'))}" in printed


def test_every_row_is_there_at_its_step_and_few_keys_have_panels(trained):
    run, offline, _ = trained
    for name in ("loss/d", "loss/g", "logit/real", "gradient_norm/g", "learning_rate/d", "images_per_second"):
        assert offline.series(name) == dict(zip(*run.series(name), strict=True)), name
    assert offline.series("batch_dependence/train/auc_conflict").keys() == {0, 4}
    metrics = offline.metrics
    assert metrics["*"].options.hidden and metrics["*"].step_metric == "step"
    shown = {key for key in offline.keys if key in metrics and not metrics[key].options.hidden} - {"step"}
    assert shown <= set(CHARTED) and "loss/d" in shown
    for mode in ("train", "eval"):
        prefix = f"batch_dependence/{mode}/"
        assert 8 <= sum(key.startswith(prefix) for key in shown) <= 14 < sum(k.startswith(prefix) for k in offline.keys)


def test_pictures_stand_at_the_training_step_with_captions_and_checkpoints_are_artifacts(trained):
    _, offline, _ = trained
    for key in ("samples", "batch_dependence/coupling_train", "batch_dependence/coupling_eval"):
        captions = offline.series(f"{key}/captions")
        assert set(captions) == {0, 4} and "step 4" in captions[4][0]
    assert [r.request.log_artifact.artifact.type for r in offline.records if r.request.HasField("log_artifact")] or [
        r.artifact.type for r in offline.records if r.HasField("artifact")
    ] == ["model"]


class Broken:
    """A W&B run whose service has died."""

    project, id = "project", "id"

    def __init__(self):
        self.calls = 0

    def log(self, row):
        self.calls += 1
        raise BrokenPipeError("the service is gone")

    def finish(self, **_):
        raise AssertionError("a dead run must be left alone")


def test_a_dead_service_ends_the_logging_and_nothing_else(capsys):
    broken = Broken()
    run = WandbRun(broken)
    logger = WandbLogger(run)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    logger.log_image("samples", [Image.new("L", (2, 2))], step=3, caption=["a"])
    logger.finalize("success")
    run.finish()
    assert broken.calls == 1
    assert capsys.readouterr().err.count("W&B stopped: BrokenPipeError") == 1
    assert logger.version == "id"


def test_the_run_directory_keeps_samples_and_no_other_picture(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        logger = RunDirLogger(run)
        for key in ("samples", "batch_dependence/coupling_train"):
            logger.log_image(key, [Image.new("L", (2, 2))], step=3)
    assert list(run.samples()) == [3] and not run.probes()
