"""The package's front: one assertion needs torch and numpy alone, and what the package offers is listed."""

import subprocess
import sys

import pytest

import gannorm

ALONE = """
import sys

class Absent:
    # As after `pip install --no-deps gannorm`, beside torch and numpy.
    names = {names!r}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import torch
import gannorm
gannorm.assert_batch_invariant(torch.nn.GroupNorm(2, 4), torch.randn(8, 4))
try:
    gannorm.assert_batch_invariant(torch.nn.BatchNorm1d(4), torch.randn(8, 4))
except gannorm.BatchCouplingError as error:
    print("caught")
"""
OTHERS = ["scipy", "sklearn", "matplotlib", "PIL", "yaml", "tqdm", "torchvision", "lightning", "torch_fidelity"]
OTHERS += ["wandb", "jsonargparse", "pandas", "ray", "tensorboard"]


def test_one_assertion_needs_torch_and_numpy_alone():
    script = ALONE.format(names=OTHERS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


def test_every_public_name_is_there_and_listed():
    assert dir(gannorm) == sorted([*gannorm.__all__, "__version__"])
    for name in dir(gannorm):
        assert getattr(gannorm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gannorm.nonsense  # noqa: B018


def test_the_module_is_the_command():
    for argv in (["-m", "gannorm", "--version"], ["-m", "gannorm.cli", "--version"]):
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == gannorm.__version__


def test_a_network_is_probed_without_lightning_and_torchvision():
    script = """
import sys
from gannorm.cli import main
assert main(["probe", "--module", "torch.nn:Flatten", "--input", "1", "--images", "32", "--batch_size", "8"]) == 0
print("absent", {"lightning", "torchvision", "wandb"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("absent set()\n"), done.stdout + done.stderr
