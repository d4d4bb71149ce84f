"""Standard output and error that are closed, or go away."""

import subprocess
import sys

LEAVES = """
import os, sys
from gannorm.terminal import leave
print("before", flush=True)
print("before", file=sys.stderr, flush=True)
leave()
print("after", flush=True)
os.write(2, b"after")
"""
OPENS = """
import os, sys
from gannorm.terminal import require_streams
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
