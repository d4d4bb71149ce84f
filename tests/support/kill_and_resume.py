"""Kill runs with -9 at seeded moments, resume them, and compare each with one that was never stopped.

    python tests/support/kill_and_resume.py FOLDER SEED...

Every run is killed, resumed, killed again and resumed to its end. An even seed kills at file operations, just before a
file is opened, renamed, linked or removed; an odd one kills by the clock. torch is imported once, and each run is a
fork of this process, which computes nothing itself: a fork has no use for another thread's locks.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import yaml
from PIL import Image

from gannorm.commands.inputs.arguments import train_config
from gannorm.models.checkpoint import damage
from gannorm.rundir import RunDir
from gannorm.training import resume, train

TIMES = (
    "images_per_second",
    "optimization/seconds",
    "optimization/share_of_time",
)  # metrics that differ between equal runs
EPOCHS = ("epoch", "epoch_progress", "epoch_loop.state_dict")  # Lightning's own count, which an early end moves
APART = (*EPOCHS, "metrics")  # of a checkpoint's content; the latter is the size of a file in which there are times
OPERATIONS = ("open", "os.rename", "os.link", "os.remove")
TINY = """--data.image_size 8 --data.batch_size 16 --steps 8 --log_every 1 --sample_every 1 --probe_every 8 --wandb off
    --probe_images 16 --checkpoint_every 2 --model.discriminator.width 4 --model.generator.width 4 --precision exact
    --model.generator.latent_dim 4 --model.generator.norm noisy --progress false --name run"""


def differences(whole: RunDir, resumed: RunDir) -> list[str]:
    """Where the second run's directory is not bit for bit the first's, but for times."""
    a, b = (_contents(run) for run in (whole, resumed))
    return list(_differ(a, b, ""))


def _contents(run):
    load = {
        ".ckpt": lambda file: {k: v for k, v in torch.load(file, weights_only=True).items() if k not in APART},
        ".npz": lambda file: dict(np.load(file)),
        ".png": Path.read_bytes,
    }
    files = [file for folder in ("checkpoints", "samples", "probes") for file in (run.path / folder).iterdir()]
    contents = {f"{file.parent.name}/{file.name}": load.get(file.suffix, Path.read_bytes)(file) for file in files}
    contents["metrics"] = [{k: v for k, v in record.items() if k not in TIMES} for record in run.metrics()]
    contents["status"] = {k: v for k, v in run.status().items() if k != "time"}
    return contents


def _differ(a, b, at):
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            yield f"{at}: only one has {sorted(a.keys() ^ b.keys())}"
        for key in a.keys() & b.keys():
            if not (".loops" in at and key in EPOCHS):
                yield from _differ(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            yield f"{at}: {len(a)} and {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from _differ(x, y, f"{at}.{i}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield f"{at}: other numbers"
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if not np.array_equal(a, b, equal_nan=True):
            yield f"{at}: other numbers"
    elif a != b:
        yield f"{at}: other values"


# -- the harness ------------------------------------------------------------------------------------------------------


def fork(action, operation=None, seconds=None) -> int:
    """Run `action` in a child that is killed before its n-th file operation or after some seconds: its exit status."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.addaudithook(Countdown(operation))
            action()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Countdown:
    """An audit hook that counts the operations on a run's files and kills its process at one of them."""

    def __init__(self, fatal):
        self.fatal, self.count = fatal, 0

    def __call__(self, event, arguments):
        if event in OPERATIONS and "run_" in str(arguments[0]):
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        elif event == "count_operations":
            arguments[0].append(self.count)


def check_files(run: RunDir) -> set[str]:
    """Every file under its name is whole; the names of the checkpoints."""
    for file in run.path.rglob("[!.]*"):
        if file.suffix == ".ckpt":
            assert not damage(file), file
        elif file.suffix == ".npz":
            dict(np.load(file))
        elif file.suffix == ".png":
            Image.open(file).load()
        elif file.suffix in (".json", ".yaml"):
            assert yaml.safe_load(file.read_text()), file
    run.metrics()
    return {file.name for file in (run.path / "checkpoints").glob("*.ckpt")}


def begin_or_go_on(path, config):
    return resume(path) if (path / "config.yaml").exists() else train(config, path)


def main(folder: Path, seeds: list[int]) -> None:
    config = train_config(TINY.split()).to_dict()
    whole = folder / "run_whole"

    def count() -> None:
        train(config, whole)
        counted: list[int] = []
        sys.audit("count_operations", counted)
        (folder / "operations").write_text(str(counted[0]))

    start = time.monotonic()
    assert fork(count) == 0
    seconds, operations = time.monotonic() - start, int((folder / "operations").read_text())
    for seed in seeds:
        draw, path = random.Random(seed), folder / f"run_{seed}"
        saved, said = set(), []
        for _ in range(2):
            moment = (
                {"operation": draw.randint(1, operations)} if seed % 2 == 0 else {"seconds": draw.random() * seconds}
            )
            status = fork(lambda path=path: begin_or_go_on(path, config), **moment)
            assert status in (-signal.SIGKILL, 0), status
            now = check_files(RunDir(path)) if path.exists() else set()
            assert saved <= now, f"lost checkpoints: {saved - now}"
            saved = now
            said.append(f"{moment} with {len(saved)} checkpoints")
            if RunDir(path).status()["state"] == "finished":
                break
        else:
            assert fork(lambda path=path: begin_or_go_on(path, config)) == 0
        assert saved <= check_files(RunDir(path))
        found = differences(RunDir(whole), RunDir(path))
        assert not found, f"seed {seed}, killed at {said}: {json.dumps(found[:5])}"
        print(f"seed {seed}, killed at {'; '.join(said)}: bit-identical", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
