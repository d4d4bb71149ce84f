import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from gannorm import files
from gannorm.errors import UserError
from gannorm.files import cache_dir, lock

# What Windows does not have, or macOS: https://docs.python.org/3/library/ says so beside each.
WINDOWS = """
import os, signal, sys
for module in ("fcntl", "termios", "resource", "pwd", "grp", "pty", "tty"):
    sys.modules[module] = None  # importing it is an ImportError
for name in ("SIGHUP", "SIGUSR1", "SIGKILL"):
    delattr(signal, name)
for name in ("sched_getaffinity", "sysconf", "killpg", "getuid", "fork"):
    delattr(os, name)
"""


COMMAND = "from gannorm.cli import main; sys.exit(main(sys.argv[1:]))"


def on_windows(code, *arguments, folder=None):
    """Run code where what Windows lacks is missing. subprocess itself needs some of it, and is imported before."""
    script = "import subprocess, selectors, multiprocessing, ctypes, pathlib\n" + WINDOWS + code
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=folder)


def test_a_lock_excludes_others_until_its_file_is_closed(tmp_path):
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
        lock(first)
        with pytest.raises(OSError):
            lock(second, wait=False)
        with pytest.raises(OSError):
            lock(second, shared=True, wait=False)
        first.close()
        lock(second, wait=False)


def test_shared_locks_exclude_only_exclusive_ones(tmp_path):
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open() as second:
        lock(first, shared=True)
        lock(second, shared=True, wait=False)
        with (tmp_path / "lock").open("w") as third, pytest.raises(OSError):
            lock(third, wait=False)


def test_a_lock_waits(tmp_path):
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
        lock(first)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lock, second)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            first.close()
            waiting.result(timeout=10)


def test_a_system_without_locks_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with (
        (tmp_path / "lock").open("w") as file,
        pytest.raises(UserError, match=r"need file locks .*: \w+ has none; use"),
    ):
        lock(file)


def test_the_probes_and_digits_work_where_windows_lacks_things():
    code = """
import torch
from torch import nn
import gannorm
from gannorm.data import load_images
real = load_images("digits", "test", image_size=8).take(32, seed=0)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Flatten(0))
print(gannorm.batch_invariance(network, real, -real, batch_size=8).swap.verdict)
try:
    gannorm.assert_batch_invariant(network, real)
except gannorm.BatchCouplingError:
    print("caught")
"""
    done = on_windows(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("caught\n")


def test_the_probe_command_works_where_windows_lacks_things(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef f(): return nn.Sequential(nn.Conv2d(3, 1, 4), nn.Flatten(0))"
    )
    command = ["probe", "--module", "mine:f", "--input", "3x4x4", "--images", "32", "--batch_size", "8"]
    done = on_windows(COMMAND, *command, "--json", "result.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config", "{digits}", "--output", "{folder}/runs"],
        ["train", "--config", "{digits}", "--data.name", "folder", "--data.root", "{images}"],
    ],
)
def test_what_needs_locks_is_one_line_where_windows_lacks_them(command, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (16, 16)).save(tmp_path / "images" / split / f"{k}.png")
    (tmp_path / "digits.yaml").write_text("data: {name: digits, image_size: 16}\nwandb: 'off'\n")
    places = {"digits": tmp_path / "digits.yaml", "folder": tmp_path, "images": tmp_path / "images"}
    arguments = [part.format(**places) for part in command]
    done = on_windows(COMMAND, *arguments)
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert "need file locks" in line and "The probes work everywhere." in line


def test_the_cache_is_where_it_is_chosen_and_among_temporary_files_where_the_home_is_read_only(tmp_path, monkeypatch):
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "chosen"))
    assert cache_dir() == tmp_path / "chosen"
    monkeypatch.delenv("GANNORM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "gannorm"
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # root may write into every folder, and into no file
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.warns(UserWarning, match=r"file/.cache/gannorm is not writable: .*GANNORM_CACHE chooses a folder"):
        instead = cache_dir()
    assert instead.parent == tmp_path / "temporary" and instead.stat().st_mode & 0o777 == 0o700
    instead.rmdir()
    instead.symlink_to(tmp_path)  # somebody else's trap
    assert cache_dir() == tmp_path / "file" / ".cache" / "gannorm"


# -- standard output and error ----------------------------------------------------------------------------------------

LEAVES = """
import os, sys
from gannorm.files import leave
print("before", flush=True)
print("before", file=sys.stderr, flush=True)
leave()
print("after", flush=True)
os.write(2, b"after")
"""
OPENS = """
import os, sys
from gannorm.files import require_streams
require_streams()
file = open("file", "w")
assert file.fileno() > 2
print("nowhere", flush=True)
print("nowhere", file=sys.stderr, flush=True)
os.write(2, b"nowhere")
"""


def test_what_is_gone_is_written_to_no_more_and_a_file_keeps_what_comes(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        ended = subprocess.run([sys.executable, "-c", LEAVES], stdout=log, stderr=subprocess.PIPE, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"before\n")
    assert (tmp_path / "log").read_bytes() == b"before\nafter\n"


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-c", OPENS]
    assert subprocess.run(command, cwd=tmp_path, timeout=60).returncode == 0
    assert (tmp_path / "file").read_text() == ""
