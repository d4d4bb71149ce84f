"""Real Weights & Biases runs: offline with the file read back; and its failures, which must not reach training."""

import json
import struct
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
from PIL import Image

from gannorm.rundir import RunDir
from gannorm.training import train
from gannorm.training.loggers import WandbLogger, has_key, wandb_logger


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no netrc, no settings of whoever runs the tests
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))


def records(run):
    """Every record of the offline file: LevelDB blocks of 32 KiB holding protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    content, at, pending = file.read_bytes(), 7, b""
    assert struct.unpack("<4sHB", content[:7])[0] == b":W&B"
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        pending += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(pending)
            pending = b""
            yield record


def test_an_offline_run_holds_config_group_tags_metrics_and_images(configure, tmp_path):
    config = configure("--wandb", "auto", "--probe_every", "4", "--probe_images", "32", "--sample_every", "4")
    run = train(config, tmp_path / "run")
    found = list(records(run))
    (start,) = (r.run for r in found if r.HasField("run"))
    assert start.run_group == "runs/batch"
    assert set(start.tags) == {"digits", "batch", "non_saturating"}
    logged = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert logged["model"]["discriminator"]["norm"] == "batch"
    assert logged["data"]["batch_size"] == 16
    metrics = {m.metric.name or m.metric.glob_name: m.metric.step_metric for m in found if m.HasField("metric")}
    assert metrics["*"] == "step"
    rows = [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    ours = {r["step"]: r["loss/d"] for r in run.metrics() if "loss/d" in r}
    assert len(ours) == 4
    assert {row["step"]: row["loss/d"] for row in rows if "loss/d" in row} == ours
    assert any("probe/train/accuracy_mixed" in row for row in rows)
    pictures = {key for row in rows for key in row if str(row[key]).find("image") >= 0}
    assert {"samples", "coupling_train", "coupling_eval"} <= {p.split("/")[0] for p in pictures}


def test_online_without_a_network_falls_back_to_offline(configure, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    monkeypatch.setattr("gannorm.training.loggers.INIT_TIMEOUT", 5)
    run = train(configure("--wandb", "auto"), tmp_path / "run")
    assert run.status()["state"] == "finished"
    assert "W&B could not start online" in capsys.readouterr().err
    assert list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert not any("0123456789" in p.read_text(errors="replace") for p in run.path.glob("*.*"))  # no key in our files


def test_a_resumed_training_has_the_same_id_and_an_evaluation_its_own(tmp_path):
    config = {"study": "s", "data": {"name": "d"}, "model": {"loss": "l", "discriminator": {"norm": "n"}}}
    ids = []
    with RunDir.create(tmp_path / "run", config) as run:
        for job_type in ("training", "training", "evaluation"):
            logger = wandb_logger(run, config, "offline", "project", job_type)
            ids.append(logger.version)
            logger.finalize("success")
    assert ids[0] == ids[1] == run.wandb_id() != ids[2]


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
    logger = WandbLogger(broken)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    logger.log_image("samples", [Image.new("L", (2, 2))], 3)
    logger.finalize("success")
    assert broken.calls == 1
    assert capsys.readouterr().err.count("W&B stopped: BrokenPipeError") == 1
    assert (logger.name, logger.version) == ("project", "id")


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("failed", 1)])
def test_a_training_that_failed_is_said_to_have_failed(status, code):
    codes = []
    WandbLogger(SimpleNamespace(project="p", id="i", finish=lambda exit_code: codes.append(exit_code))).finalize(status)
    assert codes == [code]


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_a_key_is_not_used_where_the_environment_forbids_the_network(monkeypatch, mode):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    assert has_key()
    monkeypatch.setenv("WANDB_MODE", mode)
    assert not has_key()


def test_off_means_off(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        assert wandb_logger(run, {}, "off", "project") is None
    assert not (run.path / "wandb").exists()


@pytest.mark.slow
def test_a_key_stored_by_a_login_is_seen_and_nobody_is_asked(tmp_path):
    """In a process of its own: wandb keeps the credentials that it has seen."""
    script = """
        import os, pathlib, subprocess, wandb
        from gannorm.training.loggers import has_key
        netrc = pathlib.Path(os.environ["NETRC"])
        netrc.parent.mkdir(exist_ok=True)
        netrc.touch(mode=0o600)
        before = has_key()
        host = wandb.Settings().base_url.removeprefix("https://").split("/")[0]
        netrc.write_text(f"machine {host}\\n  login user\\n  password {'0123456789' * 4}\\n")
        subprocess.Popen = lambda *_, **__: print("a service is started")
        print(before, has_key())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "False True\n", done.stderr


BAD = {
    "WANDB_BASE_URL": "not a url",
    "WANDB_MODE": "bogus",
    "WANDB_SERVICE": "3-1-tcp-localhost-9",  # of a process that has ended
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_of_wandb_does_not_end_a_run(tmp_path, name):
    """In a process of its own: wandb reads its settings once."""
    script = f"""
        import os
        os.environ.pop("WANDB_SERVICE", None)
        os.environ[{name!r}] = {BAD[name]!r}
        from pathlib import Path
        from gannorm.rundir import RunDir
        from gannorm.training.loggers import wandb_logger
        config = {{"study": "s", "data": {{"name": "d"}}, "model": {{"loss": "l", "discriminator": {{"norm": "n"}}}}}}
        with RunDir.create({str(tmp_path / "run")!r}, config) as run:
            logger = wandb_logger(run, config, "auto", "project")
            if logger is not None:
                logger.finalize("success")
        print("training goes on")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout.endswith("training goes on\n"), done.stderr
    assert "Traceback" not in done.stderr
    if name == "WANDB_SERVICE":  # there is an own one in its place
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")), done.stderr
