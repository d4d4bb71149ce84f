"""Trains where the disk fills up, turns read-only or takes no large file, and prints what came of it as JSON.

Run by test_full_disk.py, in a mount namespace of its own where the system permits one: the kernel itself refuses the
writes, nothing of gannorm is replaced. The harm is done by a normalizer that a user could have registered.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from gannorm.commands.inputs.arguments import train_config
from gannorm.normalizers import normalizer
from gannorm.rundir import RunDir
from gannorm.studies.tasks import state
from gannorm.training import resume, train

TINY = "--data.image_size=8 --data.batch_size=16 --steps=8 --log_every=1 --model.discriminator.width=8 --wandb=off"
TINY += " --model.generator.width=8 --model.generator.latent_dim=4 --probe_every=0 --sample_every=2 --progress=false"
TINY += " --checkpoint_every=2 --name=run --model.discriminator.norm=faulty --precision=exact"
CHECKPOINT = 4  # the fault strikes once it is there


def main(folder: Path, mount: bool) -> None:
    cases = {"a file too large": (limit, unlimit)}
    if mount:
        cases |= {"no space": (fill, empty), "read-only": (freeze, thaw)}
    undisturbed = attempt(folder / "undisturbed", lambda: None)
    for name, (harm, mend) in cases.items():
        disk = folder / name.replace(" ", "_")
        disk.mkdir()
        if mount:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
        print(json.dumps(suffer(name, disk, harm, mend, undisturbed)), flush=True)


def suffer(name, disk, harm, mend, undisturbed):
    """What a run that suffers `harm` raises and keeps, and whether it can be brought to its end after `mend`."""
    run = RunDir(disk / "run")
    raised = attempt(run.path, lambda: harm(disk))
    found = {
        "case": name,
        "raised": raised,
        "status": run.status()["state"],
        "checkpoints": list(run.checkpoints()),
        "loadable": all(torch.load(f, weights_only=True)["step"] == s for s, f in run.checkpoints().items()),
        "steps": [r["step"] for r in run.metrics()],
        "litter": [p.name for p in run.path.rglob(".*") if p.name != ".lock"],
    }
    mend(disk)
    found["state"] = state(run)
    resume(run.path)
    clean = RunDir(disk.parent / "undisturbed")
    keys = ("step", "loss/d", "loss/g")
    found["resumed"] = run.status()["state"]
    found["as if undisturbed"] = [[r[k] for k in keys] for r in run.metrics()] == [
        [r[k] for k in keys] for r in clean.metrics()
    ]
    return found


class Faulty(nn.Module):
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and Faulty.last.exists():
            harm, Faulty.harm = Faulty.harm, lambda: None
            harm()
        return x


def attempt(path, harm):
    """Train; the type and the words of the error, or ""."""
    Faulty.harm, Faulty.last = harm, RunDir(path).checkpoint_file(CHECKPOINT)
    config = train_config([*TINY.split(), f"--output={path.parent}"]).to_dict()
    try:
        train(config, path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def limit(disk):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def unlimit(disk):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill(disk):
    with (disk / "of another process").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def empty(disk):
    (disk / "of another process").unlink()


def freeze(disk):
    run = disk / "run"
    subprocess.run(["mount", "--bind", str(run), str(run)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(run)], check=True)


def thaw(disk):
    subprocess.run(["umount", str(disk / "run")], check=True)


if __name__ == "__main__":
    normalizer("faulty", forward_coupling=False, gradient_coupling=False)(lambda channels: Faulty())
    os.umask(0o022)
    main(Path(sys.argv[1]), mount=sys.argv[2] == "mount")
