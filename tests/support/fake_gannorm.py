"""Stands in for the `gannorm` command where the engine is tested: the same files, without the seconds of imports.

How a run behaves is in its config, by the run's name: trainer: {batch_0: fail_once}. What was started is in calls.txt.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from gannorm.rundir import RunDir


def train(file: str) -> None:
    config = yaml.safe_load(Path(file).read_text())
    path = Path(config["output"], config["study"], config["name"])
    begin(config)
    with RunDir.create(path, config) as run:
        steps(run, config)


def resume(path: str) -> None:
    run = RunDir.open(path)
    begin(run.config())
    call(f"resume {run.name} {len(run.metrics())}")
    with run.lock():
        steps(run, run.config())


def begin(config: dict[str, Any]) -> None:
    name = config["name"]
    call(f"train {name} {os.getpid()} {os.environ['OMP_NUM_THREADS']}")
    if config["trainer"].get(name) == "mistake":
        print("gannorm train: unknown normalizer 'grup': did you mean 'group'?", file=sys.stderr)
        sys.exit(2)


def steps(run: RunDir, config: dict[str, Any]) -> None:
    name, nap = config["name"], float(config["trainer"].get("nap", 0))
    behaviour, again = config["trainer"].get(name, ""), Path(f"{name}.again").exists()
    Path(f"{name}.again").touch()
    if behaviour == "parent":
        child = subprocess.Popen(["sleep", "60"])
        call(f"sleep {child.pid}")
    for step in range(len(run.metrics()) + 1, config["steps"] + 1):
        time.sleep(nap)
        run.append_metrics(step, {"images_per_second": 100.0, "probe/train/accuracy_pure": 0.9})
        if not again and behaviour in ("kill_once", "stop_once"):
            run.set_status("failed" if behaviour == "stop_once" else "running", step, "stopped by SIGTERM")
            os.kill(os.getpid(), signal.SIGKILL)
        if not again and behaviour == "late_once":
            run.set_status("failed", step, "stopped by the trainer")  # trainer.max_time
            sys.exit(1)
        if behaviour == "fail" or (behaviour == "fail_once" and not again):
            run.set_status("failed", step, "MemoryError: no room")
            raise MemoryError("no room")
    run.checkpoint_file(config["steps"]).touch()
    diverged = behaviour == "diverge"
    run.set_status("diverged" if diverged else "finished", config["steps"], "loss=inf" if diverged else "")
    call(f"end {name}")


def evaluate(arguments: list[str]) -> None:
    options = [a for a in arguments if a.startswith("--")]
    for path in [a for a in arguments if not a.startswith("--")]:
        run = RunDir.open(path)
        call(f"evaluate {run.name} {' '.join(options)}".rstrip())
        if run.config()["trainer"].get(run.name) == "damage":  # its last checkpoint: evaluate takes the one before
            run.add_scores({"step": 3, "fid": 3.0, "protocol": {"fake_images": 500, "statistics": "running"}})
            continue
        for step in run.checkpoints():
            images = next((int(o.split("=")[1]) for o in options if o.startswith("--samples")), 500)
            run.add_scores({"step": step, "fid": 3.0, "protocol": {"fake_images": images, "statistics": "running"}})


def call(line: str) -> None:
    with Path("calls.txt").open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    if "--resume" in sys.argv:
        resume(sys.argv[sys.argv.index("--resume") + 1])
    elif sys.argv[1] == "train":
        train(sys.argv[sys.argv.index("--config") + 1])
    else:
        evaluate(sys.argv[2:])
