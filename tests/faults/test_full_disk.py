"""A disk that fills up, turns read-only or takes no large file ends a run in one line, and nothing on it is lost.

See full_disk.py: real refusals by the kernel, in a process and a mount namespace of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "support" / "full_disk.py")
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
REASONS = {
    "a file too large": "File too large",
    "no space": "No space left on device",
    "read-only": "Read-only file system",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """case → what full_disk.py found; only the first case where the system lets nobody mount."""
    folder = tmp_path_factory.mktemp("disks")
    try:
        try_out = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        mount = subprocess.run(try_out, capture_output=True).returncode == 0
    except FileNotFoundError:
        mount = False
    command = [*(NAMESPACE if mount else []), sys.executable, SCRIPT, str(folder), "mount" if mount else "plain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr
    return {outcome["case"]: outcome for outcome in found}


@pytest.mark.slow
@pytest.mark.parametrize("case", REASONS)
def test_a_disk_that_refuses_ends_the_run_in_one_line_and_costs_nothing(outcomes, case):
    if case not in outcomes:
        pytest.skip("this system lets nobody mount a disk of its own")
    found = outcomes[case]
    assert found["raised"].startswith("UserError: the output must be writable: ")
    assert REASONS[case] in found["raised"]
    assert found["checkpoints"] == [2, 4]
    assert found["loadable"]
    assert found["steps"][:4] == [1, 2, 3, 4]
    assert found["litter"] == []
    # Where not even the status could be written, it says "running", and the free lock that nobody does.
    assert (found["state"], found["status"]) in {("failed", "failed"), ("interrupted", "running")}


@pytest.mark.slow
@pytest.mark.parametrize("case", REASONS)
def test_once_the_disk_takes_files_again_the_run_goes_on_as_if_nothing_had_been(outcomes, case):
    if case not in outcomes:
        pytest.skip("this system lets nobody mount a disk of its own")
    assert outcomes[case]["resumed"] == "finished"
    assert outcomes[case]["as if undisturbed"]
