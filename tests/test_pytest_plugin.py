"""The fixture of the pytest plugin: a failure shows its message and none of our code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_failing_assertion_in_pytest_shows_its_message_and_none_of_our_code(tmp_path: Path) -> None:
    (tmp_path / "test_critic.py").write_text(
        "import torch\n"
        "from gannorm import assert_batch_invariant as direct\n"
        "def test_fixture(assert_batch_invariant):\n"
        "    assert_batch_invariant(torch.nn.BatchNorm1d(3), torch.randn(8, 3))\n"
        "def test_import():\n"
        "    direct(torch.nn.BatchNorm1d(3), torch.randn(8, 3))\n"
        "def test_refusal():\n"
        "    direct(torch.nn.BatchNorm1d(3), torch.ones(8, 3))\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "3 failed" in out
    assert "E       gannorm.probes.dependence.assertion.BatchCouplingError: the output for a sample must not" in out
    assert "E       gannorm.errors.UserError: the samples must differ" in out
    assert "assertion.py" not in out and "swap_test.py" not in out and "def _" not in out
