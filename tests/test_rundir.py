"""The run directory keeps what was written, whole, whatever happens to the writer."""

import fcntl
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gannorm.cli import main
from gannorm.errors import UserError
from gannorm.files import atomic_write
from gannorm.models import load_networks
from gannorm.rundir import VERSION, RunDir, find_runs

CONFIG = {"seed": 1, "model": {"discriminator": {"norm": "group"}}}


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "study" / "group_1", CONFIG) as run:
        yield run


def test_what_is_written_is_read_back(run):
    run.append_metrics(1, {"loss_d": 0.5})
    run.append_metrics(2, {"loss_d": math.nan, "loss_g": math.inf})
    run.set_status("diverged", 2, "loss_d=nan")
    assert run.config() == CONFIG
    assert run.metrics() == [{"step": 1, "loss_d": 0.5}, {"step": 2, "loss_d": None, "loss_g": None}]
    assert run.series("loss_d") == ([1], [0.5])
    assert (run.status()["state"], run.status()["step"]) == ("diverged", 2)


KILLED = """
    import os, signal, sys
    from gannorm.rundir import RunDir
    with RunDir.create(sys.argv[1], {"seed": 1}) as run:
        run.append_metrics(30, {"loss_d": 0.5})
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_interrupted_and_one_that_a_process_holds_is_running(run, tmp_path):
    run.append_metrics(20, {"loss_d": 0.5})
    assert run.state() == "running"
    with pytest.raises(UserError, match=r"group_1 is running at step 20; choose another"):
        run.require_new()
    killed = RunDir(tmp_path / "killed")
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(killed.path)], check=False)
    assert (killed.status()["state"], killed.state()) == ("running", "interrupted")
    with pytest.raises(UserError, match=r"interrupted at step 30; continue it by --resume .*killed, choose"):
        killed.require_new()
    killed.set_status("diverged", 31)
    assert killed.state() == "diverged"


def test_a_run_that_ends_between_two_looks_is_not_interrupted(tmp_path, monkeypatch):
    with RunDir.create(tmp_path / "run", {}) as run:
        pass

    def ends(run):
        run.set_status("finished", 3)
        return False

    monkeypatch.setattr(RunDir, "_is_held", ends)
    assert run.state() == "finished"


def test_where_the_lock_cannot_be_asked_for_a_run_is_what_its_status_says(run, tmp_path):
    copy = RunDir(shutil.copytree(run.path, tmp_path / "copy"))
    assert copy.state() == "interrupted"
    (copy.path / ".lock").unlink()
    assert copy.state() == "interrupted"  # who writes a run makes the file
    assert not (copy.path / ".lock").exists()  # looking leaves no trace
    (copy.path / ".lock").mkdir()  # cannot be opened, by root neither
    assert copy.state() == "running"


def test_rewinding_removes_what_a_killed_writer_left_and_nothing_of_the_users(run):
    half = [run.path / "samples" / ".step_00000007.png.x1", run.path / "checkpoints" / ".last.ckpt.new"]
    own = run.path / "samples" / ".ipynb_checkpoints"
    own.mkdir()
    for file in (*half, own / "grid.png", run.path / "probes" / ".note"):
        file.touch()
    run.rewind(0, 0)
    assert not any(file.exists() for file in half)
    assert (own / "grid.png").exists() and (run.path / "probes" / ".note").exists()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("status.json", "{}", "its state must be one of running, finished"),
        ("status.json", '{"state": "failed", "step": "3"}', "a step must be an integer, not '3'"),
        ("status.json", '{"state": "failed", "step": 3, "reason": 1}', "its reason must be text"),
        ("scores.json", "{}", "its scores must be a list of records"),
        ("scores.json", '{"scores": [{"protocol": {}}]}', "a step must be an integer, not None"),
        ("scores.json", '{"scores": [{"step": 1}]}', "a protocol must be a mapping, not None"),
        ("metrics.jsonl", '{"loss_d": 1}\n', "a step must be an integer, not None"),
    ],
)
def test_a_file_of_another_shape_is_named(run, file, content, told):
    (run.path / file).write_text(content)
    read = {"status.json": run.status, "scores.json": run.scores, "metrics.jsonl": run.metrics}[file]
    with pytest.raises(UserError, match=f"{file} must be well-formed: {told}"):
        read()


def test_files_are_found_by_step_in_order(run):
    for step in (900, 1000, 100_000_000):
        run.checkpoint_file(step).touch()
    run.checkpoint_file(None).touch()
    (run.path / "checkpoints" / ".step_00000007.ckpt.x1").touch()  # left by a killed writer
    assert list(run.checkpoints()) == [900, 1000, 100_000_000]


def test_a_cut_last_line_of_metrics_is_left_out_and_a_damaged_middle_is_named(run):
    run.append_metrics(1, {"loss_d": 0.5})
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 2, "lo')
    assert [r["step"] for r in run.metrics()] == [1]
    file.write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 is not"):
        run.metrics()


@pytest.mark.parametrize("text", ["1e3", "12E03", "1.5e-4", "0x1f", "1_000", "yes", "null", "2026-11-22", "é: ü"])
def test_text_that_looks_like_something_else_stays_text(tmp_path, text):
    with RunDir.create(tmp_path / "run", {"study": text, "lr": 1e-4}) as run:
        assert run.config() == {"study": text, "lr": 1e-4}


def test_a_name_is_taken_once(run):
    with pytest.raises(UserError, match="a run's name must be new"), RunDir.create(run.path, CONFIG):
        raise AssertionError("a second run must not begin")
    assert run.config() == CONFIG


def test_a_second_process_cannot_write_the_same_run(run):
    script = f"""
        from gannorm.rundir import RunDir
        try:
            with RunDir({str(run.path)!r}).lock():
                print("locked twice")
        except ValueError as error:
            print(error)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "one process writes a run" in out.stdout


def test_whoever_asks_who_holds_a_run_does_not_keep_its_writer_out(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        pass
    asking = (run.path / ".lock").open()
    fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    threading.Timer(0.05, asking.close).start()
    with run.lock():
        pass


def test_two_who_ask_at_once_do_not_take_each_other_for_the_writer(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        pass
    with (run.path / ".lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert run.state() == "interrupted"


def test_the_last_step_is_found_behind_records_of_any_usual_length(run):
    for step in (1, 2):
        run.append_metrics(step, {f"probe/train/a_metric_of_number_{i}": i / 7 for i in range(100)})
    assert run.last_step() == 2


def test_what_is_written_can_be_read_by_others_and_is_on_disk(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    run.set_status("finished", 2)
    assert len(synced) == 1
    assert (run.path / "status.json").stat().st_mode & 0o777 == 0o644
    run.append_metrics(1, {"loss_d": 0.5})
    assert run.sync_metrics() == (run.path / "metrics.jsonl").stat().st_size
    assert len(synced) == 2


def test_where_there_are_no_links_the_last_checkpoint_is_a_copy(run, monkeypatch):
    def no_links(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for step in (2, 4):
        run.checkpoint_file(step).write_bytes(bytes([step]))
        run.set_last(step)
        assert run.checkpoint_file(step).read_bytes() == run.checkpoint_file(None).read_bytes() == bytes([step])


def test_scores_that_are_added_at_once_are_all_kept(run, monkeypatch):
    read = RunDir.scores

    def slowly(run):
        found = read(run)
        time.sleep(0.02)  # in which another would write
        return found

    monkeypatch.setattr(RunDir, "scores", slowly)
    with ThreadPoolExecutor(4) as pool:  # a lock belongs to an open file, so that threads exclude each other too
        list(pool.map(lambda step: run.add_scores({"step": step, "protocol": {}}), range(8)))
    assert [record["step"] for record in run.scores()] == list(range(8))


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="the output must be writable"), RunDir.create(tmp_path / "file/x", {}):
        raise AssertionError("no run can begin there")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    file = tmp_path / "status.json"
    file.write_text("old")
    with pytest.raises(RuntimeError, match="while writing"), atomic_write(file) as stream:
        stream.write(b"half of the n")
        raise RuntimeError("while writing")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_scores_of_the_same_step_and_protocol_replace_each_other(run):
    run.add_scores({"step": 200, "fid": 3.0, "protocol": {"samples": 10}})
    run.add_scores({"step": 100, "fid": 5.0, "protocol": {"samples": 10}})
    run.add_scores({"step": 200, "fid": 2.0, "protocol": {"samples": 10}})
    run.add_scores({"step": 200, "fid": 2.5, "protocol": {"samples": 99}})
    assert [(s["step"], s["fid"]) for s in run.scores()] == [(100, 5.0), (200, 2.0), (200, 2.5)]
    assert json.loads((run.path / "scores.json").read_text())["version"] == 1


def test_runs_are_found_in_a_study_folder_once(run):
    study = run.path.parent
    assert [r.path for r in find_runs([str(study), str(run.path)])] == [run.path]
    (study / "plan").mkdir()
    assert [r.path for r in find_runs([str(p) for p in study.iterdir()])] == [run.path]
    with pytest.raises(UserError, match=r"plan does not; give a run"):
        find_runs([str(study / "plan")])
    with pytest.raises(UserError, match=r"nowhere does not exist; give a run"):
        find_runs([str(study / "nowhere")])
    above = re.escape(f"{study.parent} does not, but runs further down do; give one, such as {run.path}")
    with pytest.raises(UserError, match=above):
        find_runs([str(study.parent)])


@pytest.mark.parametrize("content", ["[1, 2", "- a list", "!!python/object/apply:os.system [ls]"])
def test_a_damaged_or_hostile_config_is_named_and_never_run(run, content):
    run.config_file.write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        run.config()


def test_a_run_of_format_version_1_is_read_and_goes_on(tmp_path, capsys):
    """A file of this version, made by `gannorm train` and stopped at step 4 of 8: whoever changes a format keeps it."""
    shutil.copytree(Path(__file__).parent / "fixtures" / "run_v1", tmp_path / "run")
    run = RunDir.open(tmp_path / "run")
    assert VERSION == 1, "add a fixture of the new version, and say here what becomes of this one"
    assert (run.status()["state"], run.status()["step"]) == ("failed", 4)
    assert run.series("loss_d")[0] == [1, 2, 3, 4]
    assert run.series("probe/train/accuracy_mixed")[0] == [0, 4]
    assert run.scores()[0]["fid"] == 3.5
    with np.load(run.probes()[4]) as arrays:
        assert arrays["coupling_train"].shape == (32, 32)
    networks = load_networks(run.path)
    assert networks.step == 4 and networks.generator(torch.zeros(2, 4)).shape == (2, 1, 8, 8)
    assert main(["train", "--resume", str(run.path)]) == 0
    assert "finished at step 8" in capsys.readouterr().out
    assert run.series("loss/d")[0] == [5, 6, 7, 8]  # under their names of today


@pytest.mark.parametrize("name", ["status.json", "scores.json"])
def test_a_file_of_a_newer_version_says_what_to_do(run, name):
    run.add_scores({"step": 1, "protocol": {}})
    file = run.path / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": VERSION + 1}))
    with pytest.raises(UserError, match=rf"{name} is of version 2; read it with the gannorm that wrote it, or a newer"):
        run.status(), run.scores()


@pytest.mark.parametrize(
    "path,line",
    [
        ("runs/digits/batch_1", "runs/digits/batch_1 does not exist; did you mean runs/digits/batch_0[?]"),
        ("runs/digits/zzz", "does not exist; give a run, such as runs/digits/batch_0."),
        ("digits", "digits does not exist; did you mean runs/digits[?]"),
        ("digits/batch_0", "did you mean runs/digits/batch_0[?]"),
        ("batch-0", "did you mean runs/digits/batch_0[?]"),
        ("runs/digit", "give a run, such as runs/digits/batch_0."),
    ],
)
def test_a_run_that_is_not_there_leads_to_one_that_is(path, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits/batch_0", "digits/group_hinge_0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    with pytest.raises(UserError, match=line):
        RunDir.open(Path(path))


def test_where_no_run_is_at_all_the_command_that_makes_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist; `gannorm train` makes a run"):
        RunDir.open(Path("nowhere"))
