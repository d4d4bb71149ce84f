"""What every test starts from."""

import os
import signal

import pytest

# Before torch is imported. What runs on a GPU is asked for by GANNORM_TEST_GPU=1 scripts/test.sh -n 0 -k on_a_gpu; all
# else is about the CPU's numbers.
if not os.environ.get("GANNORM_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# On small tensors and a busy machine two threads wait for one another, many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from gannorm.normalizers import NORMALIZERS

pytest_plugins = ["support.accounts", "support.run_directories", "support.tiny_config"]
collect_ignore = ["support"]  # some of it changes torch for good when imported

# Tests started in the background or under nohup have these ignored, and the runs that they start would inherit that. A
# handler they do not inherit, and under nohup the tests themselves outlive their terminal as they should.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or "PYTEST_XDIST_WORKER" in os.environ:  # which ends with the rest
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def only_built_in_normalizers(monkeypatch):
    """A normalizer that a test registers is gone after it: which tests share a process is left to chance."""
    monkeypatch.setattr(NORMALIZERS, "_entries", dict(NORMALIZERS._entries))
