"""Run directories as bytes: they arrive as they were, and nothing that is sent lands anywhere else."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from pathlib import Path

import pytest

from gannorm.errors import UserError
from gannorm.rundir import RunDir
from gannorm.studies.transport import bring_home, packed, parts, unpack


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run on a node: with a last checkpoint that is a hard link, a link out of the tree, and half-written files."""
    with RunDir.create(tmp_path / "node/runs/s/a", {"output": str(tmp_path / "node/runs"), "steps": 3}) as run:
        run.append_metrics(1, {"loss": 0.5})
        run.checkpoint_file(3).write_bytes(os.urandom(1000))
        run.set_last(3)
        (run.path / "checkpoints" / ".step_00000004.ckpt.x1").write_bytes(b"half")
        (tmp_path / "secret").write_text("key")
        (run.path / "wandb").symlink_to(tmp_path)
        (run.path / "link").symlink_to(tmp_path / "secret")
    return run


def test_a_run_is_brought_home_whole_and_without_links(run: RunDir, tmp_path: Path) -> None:
    home, plan = RunDir(tmp_path / "runs/s/a"), tmp_path / "runs/s/plan"
    plan.mkdir(parents=True)
    with packed([run]) as file:
        bring_home(file, [home, RunDir(tmp_path / "runs/s/not begun")], plan)
    assert home.config() == {"output": str(tmp_path / "runs"), "steps": 3}  # where it is now
    assert home.metrics() == run.metrics() and home.status() == run.status()
    content = run.checkpoint_file(3).read_bytes()
    assert home.checkpoint_file(3).read_bytes() == home.checkpoint_file(None).read_bytes() == content
    files = {str(path.relative_to(home.path)) for path in home.path.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "metrics.jsonl",
        "status.json",
        "checkpoints/step_00000003.ckpt",
        "checkpoints/last.ckpt",
    }
    assert (home.path / "samples").is_dir()  # empty; a run that goes on writes there
    assert list(plan.iterdir()) == []
    assert sorted(path.name for path in home.path.parent.iterdir()) == ["a", "plan"]


def test_what_was_there_is_replaced(run: RunDir, tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "runs/s/a", {"steps": 3}) as home:
        (home.path / "checkpoints" / "damaged").touch()
    with packed([run]) as file:
        bring_home(file, [home], home.path.parent)
    assert home.metrics() == run.metrics()
    assert not (home.path / "checkpoints" / "damaged").exists()


def test_what_cannot_be_replaced_stays(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDir.create(tmp_path / "runs/s/a", {"steps": 3}) as home:
        (home.path / "checkpoints" / "mine").touch()
    rename, calls = Path.rename, itertools.count(1)

    def fail(path: Path, target: Path) -> Path:
        if next(calls) == 2:  # the old run is aside, the new one does not come
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with packed([run]) as file, pytest.raises(UserError, match=r"must be writable: .*: Input/output error"):
        bring_home(file, [home], home.path.parent)
    assert (home.path / "checkpoints" / "mine").exists()


def test_a_full_disk_at_home_is_one_line_and_changes_nothing(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunDir.create(tmp_path / "runs/s/a", {"steps": 3}) as home:
        (home.path / "checkpoints" / "mine").touch()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gannorm.studies.transport.shutil.copyfileobj", fail)
    with packed([run]) as file, pytest.raises(UserError, match=r"must be writable: .*: No space left on device"):
        bring_home(file, [home], home.path.parent)
    assert (home.path / "checkpoints" / "mine").exists()


@pytest.mark.parametrize("name", ["../../b/config.yaml", "/tmp/x", "b/config.yaml", "a", "a/../../x"])
def test_what_belongs_to_no_run_is_refused(name: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match=r"a node must send the plain files of its runs: got "):
        unpack(file, [RunDir("s/a")], tmp_path / "in")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    file, member = io.BytesIO(), tarfile.TarInfo("a/x")
    member.type, member.linkname = kind, "/etc/hostname"
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(member)
    with pytest.raises(UserError, match="plain files"):
        unpack(file, [RunDir("s/a")], tmp_path)


def test_parts_are_the_whole(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gannorm.studies.transport.PART", 1000)
    with packed([run]) as file:
        whole = file.read()
    pieces = list(parts(packed([run])))
    assert [start for start, _ in pieces] == list(range(0, len(whole), 1000))
    assert b"".join(part for _, part in pieces) == whole
