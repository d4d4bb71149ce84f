"""Runs on W&B: started, continued, scored into, switched off; offline with the files read back."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from support.offline_wandb import Offline

from gannorm import cli, wandb_run
from gannorm.rundir import RunDir
from gannorm.training import train
from gannorm.wandb_run import WandbRun, has_key, resolved, start_run

pytestmark = pytest.mark.usefixtures("no_account")
CONFIG = {"study": "s", "data": {"name": "d"}, "model": {"loss": "l", "discriminator": {"norm": "n"}}}


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "run", CONFIG) as run:
        pass
    return run


def started(run, mode="offline", project="gannorm", config=CONFIG):
    found = start_run(run, config, mode, project)
    wandb_run.end_run(run)
    return found


def test_training_and_evaluation_are_one_row_with_last_and_best_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "cache"))
    tiny = "--data.image_size=8 --data.batch_size=16 --steps=4 --checkpoint_every=2 --model.discriminator.width=8"
    tiny += " --probe_every=0 --sample_every=0 --progress=false --wandb=offline --study=runs --name=run"
    tiny += f" --output={tmp_path}"
    few = ["--samples=96", "--kid_subsets=2", "--splits=2", "--extractor=in_domain"]
    assert cli.main(["train", *tiny.split()]) == 0
    run = RunDir(tmp_path / "runs" / "run")
    with run.lock():  # as if it were still in training: two writers must not share a W&B run
        assert cli.main(["evaluate", str(run.path), "--step=2", *few]) == 0
    assert len(Offline(run.path).starts) == 1 and len(run.scores()) == 1
    assert cli.main(["evaluate", str(run.path), "--all_checkpoints=true", "--again=true", *few]) == 0
    offline = Offline(run.path)
    assert [(s.run_id, s.job_type) for s in offline.starts] == [(run.wandb_id(), "training")] * 2
    scores = {record["step"]: record["fid"] for record in run.scores()}
    assert offline.series("scores/running/averaged/fid") == pytest.approx(scores)
    assert (offline.summary["fid"], offline.summary["fid_best"]) == pytest.approx((scores[4], min(scores.values())))
    assert offline.summary["state"] == "finished"


def test_train_with_evaluate_scores_into_the_run_before_it_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "cache"))
    tiny = "--data.image_size=8 --data.batch_size=64 --steps=4 --checkpoint_every=4 --model.discriminator.width=8"
    tiny += " --probe_every=0 --sample_every=0 --progress=false --wandb=offline --study=runs --name=run"
    tiny += f" --output={tmp_path}"
    assert cli.main(["train", *tiny.split(), "--evaluate=true"]) == 0
    run = RunDir(tmp_path / "runs" / "run")
    offline = Offline(run.path)
    assert len(offline.starts) == 1
    assert offline.series("scores/running/averaged/fid") == pytest.approx({4: run.scores()[0]["fid"]})
    assert offline.summary["fid"] == pytest.approx(run.scores()[0]["fid"])


def test_wandb_variables_are_honoured(run, monkeypatch):
    values = {"PROJECT": "theirs", "NAME": "mine", "RUN_GROUP": "group", "TAGS": "a, b", "RUN_ID": "sweep01"}
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    started(run, mode="auto")
    (start,) = Offline(run.path).starts
    assert (start.project, start.display_name, start.run_group, start.run_id) == ("theirs", "mine", "group", "sweep01")
    assert {"a", "b", "d", "n"} <= set(start.tags)


def test_a_project_of_the_config_comes_before_the_environment(run, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    started(run, project="ours")
    assert Offline(run.path).starts[0].project == "ours"


@pytest.mark.parametrize(
    "flag,variable,mode",
    [
        ("auto", "disabled", "off"),
        ("auto", "offline", "offline"),
        ("auto", "dryrun", "offline"),
        ("auto", "online", "online"),
        ("auto", "", "auto"),
        ("offline", "disabled", "offline"),  # an explicit flag comes first
        ("off", "online", "off"),
    ],
)
def test_an_explicit_flag_comes_before_the_variable(monkeypatch, flag, variable, mode):
    monkeypatch.setenv("WANDB_MODE", variable)
    assert resolved(flag) == mode


def test_disabled_is_off_unless_a_flag_or_the_mode_says_otherwise(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert resolved("auto") == "off" and resolved("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolved("auto") == "offline"


def test_a_read_only_home_prints_no_log(tmp_path):
    (tmp_path / "home").touch()  # root may write into every folder, and into no file
    code = "import sys; from gannorm.wandb_run import start; start('offline', dir=sys.argv[1]).finish()"
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    for name in ("WANDB_CACHE_DIR", "GANNORM_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (line,) = done.stderr.strip().split("\n")[::2]  # the warning; below it the source line
    assert "is not writable" in line and "GANNORM_CACHE" in line


@pytest.mark.parametrize("mode,variable", [("off", ""), ("auto", "disabled")])
def test_off_and_disabled_write_nothing(run, monkeypatch, mode, variable):
    monkeypatch.setenv("WANDB_MODE", variable)
    assert started(run, mode) is None
    assert not (run.path / "wandb").exists()


def test_online_without_a_network_falls_back_to_offline(configure, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    monkeypatch.setattr("gannorm.wandb_run.INIT_TIMEOUT", 5)
    run = train(configure("--wandb", "auto"), tmp_path / "run")
    assert run.status()["state"] == "finished"
    assert "W&B could not start online" in capsys.readouterr().err
    assert Offline(run.path).starts
    assert not any("0123456789" in p.read_text(errors="replace") for p in run.path.glob("*.*"))  # no key in our files


@pytest.mark.parametrize("state,code", [("finished", 0), ("diverged", 0), ("failed", 1)])
def test_a_training_that_failed_is_recorded_as_failed(run, state, code):
    codes = []

    class Experiment:
        def __init__(self):
            self.summary = {}

        def finish(self, exit_code):
            codes.append(exit_code)

    run.set_status(state, 3)
    wandb_run._open[run.path.resolve()] = WandbRun(experiment := Experiment())
    wandb_run.end_run(run)
    assert codes == [code] and experiment.summary["state"] == state


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_a_key_is_not_used_where_the_environment_forbids_the_network(monkeypatch, mode):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    assert has_key()
    monkeypatch.setenv("WANDB_MODE", mode)
    assert not has_key()


@pytest.mark.slow
def test_a_key_stored_by_a_login_is_seen(tmp_path):
    """In a process of its own: wandb keeps the credentials that it has seen."""
    script = """
        import os, pathlib, wandb
        from gannorm.wandb_run import has_key
        netrc = pathlib.Path(os.environ["NETRC"])
        netrc.parent.mkdir(exist_ok=True)
        netrc.touch(mode=0o600)
        before = has_key()
        host = wandb.Settings().base_url.removeprefix("https://").split("/")[0]
        netrc.write_text(f"machine {host}\\n  login user\\n  password {'0123456789' * 4}\\n")
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
        from gannorm import wandb_run
        from gannorm.rundir import RunDir
        config = {CONFIG!r}
        with RunDir.create({str(tmp_path / "run")!r}, config) as run:
            wandb_run.start_run(run, config, "auto", "project")
            wandb_run.end_run(run)
        print("training goes on")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout.endswith("training goes on\n"), done.stderr
    assert "Traceback" not in done.stderr
    if name == "WANDB_SERVICE":  # there is an own one in its place
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")), done.stderr


def test_a_resumed_training_is_the_same_row(run):
    first, second = started(run), started(run)
    assert first.experiment.id == second.experiment.id == run.wandb_id()
    assert len(Offline(run.path).starts) == 2  # offline, a further file of the same id


def test_torch_is_not_needed_to_log_scores():
    script = "import sys, gannorm.wandb_run; print('torch' in sys.modules, 'wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False False\n", torch.__version__ + done.stderr
