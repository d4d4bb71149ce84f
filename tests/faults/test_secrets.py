"""A key in the environment reaches no file and no line that a run writes, whatever happens to the run."""

import os
import subprocess
import sys

import pytest

KEY = "0123456789abcdef0123456789abcdef01234567"  # made up, in the form of W&B's
OTHER = "the-password-of-a-database"

# Trains once to the end and once into an error that leaves a traceback, then reads the runs in every way there is.
SCRIPT = """
import sys, traceback
from gannorm.cli import main
from gannorm.normalizers import normalizer
from torch import nn

@normalizer("failing", forward_coupling=False, gradient_coupling=False)
class Failing(nn.Module):
    def __init__(self, channels):
        super().__init__()
    def forward(self, x):
        if self.training and x.requires_grad and x.grad_fn is not None:
            raise ZeroDivisionError("a bug of a user's module")
        return x

tiny = "--data.image_size=8 --data.batch_size=16 --steps=2 --log_every=1 --checkpoint_every=1 --sample_every=1".split()
tiny += "--model.discriminator.width=8 --model.generator.width=8 --probe_every=2 --probe_images=16".split()
tiny += ["--study=runs"]
mode = sys.argv[1]
assert main(["train", *tiny, "--wandb", mode, "--name=good"]) == 0
try:
    main(["train", *tiny, "--wandb", mode, "--name=bad", "--model.generator.norm=failing"])
except ZeroDivisionError:
    traceback.print_exc()
else:
    raise AssertionError("the failing run must fail")
assert main(["train", "--config", "runs/runs/good/config.yaml", "--steps", "one"]) == 2
assert main(["probe", "runs/runs/good", "--images=16", "--batch_size=8", "--json=probe.json"]) == 0
assert main(["compare", "runs/runs"]) == 0
"""


@pytest.mark.slow
def test_a_key_and_the_environment_are_written_nowhere(tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path / "home"),
        "WANDB_API_KEY": KEY,
        "DATABASE_PASSWORD": OTHER,
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # nobody listens on the discard port
    }
    environment.pop("WANDB_SERVICE", None)  # of this process, if an earlier test has started one
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", SCRIPT, "offline"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"ZeroDivisionError" in done.stderr
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} >= {".yaml", ".jsonl", ".ckpt", ".json", ".html", ".csv", ".wandb", ".log"}
    for secret in (KEY, OTHER):
        assert secret.encode() not in done.stdout + done.stderr
        assert not [p for p in files if secret.encode() in p.read_bytes()]
    # wandb-core compresses nothing that it writes offline: what is not found in its file is not there.
    (offline,) = (work / "runs" / "runs" / "good" / "wandb").glob("offline-run-*/*.wandb")
    assert b"non_saturating" in offline.read_bytes()
