#!/usr/bin/env python3
"""Many short runs' worth of work in one process: does memory grow, is a file, a thread or a process left behind?

    python tests/soak.py    # 2,000 steps: training, probes, samples, checkpoints, evaluation, W&B offline

Prints resident memory, open files, threads and child processes after each round, and ends with status 1 if memory after
the last round is more than 5 % above that after the warm-up, or if anything else is left. Linux only: it reads /proc.
"""

import argparse
import gc
import os
import sys
import tempfile
import warnings
from pathlib import Path

WARM_UP = 2  # rounds: caches of torch, Lightning, wandb and matplotlib fill once
GROWTH = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="of training, in all")
    parser.add_argument("--rounds", type=int, default=20, help="runs that share them")
    options = parser.parse_args()
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["GANNORM_CACHE"] = str(Path(folder) / "cache")
        counts = []
        for number in range(options.rounds):
            one_round(Path(folder), number, options.steps // options.rounds)
            counts.append(resources())
            print(f"round {number + 1:3d}  " + "  ".join(f"{k} {v}" for k, v in counts[-1].items()), flush=True)
    warm, last = counts[min(WARM_UP, len(counts) - 1)], counts[-1]
    growth = last["resident_KiB"] / warm["resident_KiB"] - 1
    left = [k for k in ("files", "threads", "processes") if last[k] > warm[k]]
    print(f"memory after {options.steps} steps: {growth:+.1%} since the warm-up; left: {' '.join(left) or 'nothing'}")
    return int(growth > GROWTH or bool(left))


def one_round(folder: Path, number: int, steps: int) -> None:
    """A run with everything beside it, and its scores."""
    from gannorm.commands.inputs.arguments import train_config
    from gannorm.evaluation import score_runs
    from gannorm.training import train

    often = max(1, steps // 4)
    flags = "--data.image_size=8 --data.batch_size=16 --model.discriminator.width=8 --model.generator.width=8"
    flags += f" --steps={steps} --log_every=5 --probe_every={often} --sample_every={often} --checkpoint_every={often}"
    flags += f" --probe_images=16 --wandb=offline --progress=false --name=run_{number} --output={folder}"
    config = train_config(flags.split()).to_dict()
    run = train(config, folder / f"run_{number}")
    assert run.status()["state"] == "finished", run.status()
    results = list(score_runs([run], samples=256, kid_subsets=2))
    assert not any(result.failed for result in results), results


def resources() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "resident_KiB": int(status.split("VmRSS:")[1].split()[0]),
        "files": len(os.listdir("/proc/self/fd")) - 1,  # not the one that lists them
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(children),
    }


if __name__ == "__main__":
    sys.exit(main())
