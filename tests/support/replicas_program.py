"""Trains configs on several gloo processes, and saves the state that each of them ends with.

    python replicas_program.py FOLDER     # with cases.json: [[processes, name, config], …]; writes name_rank.pt

The processes are forked after the imports, which cost more than the training.
"""

import json
import os
import socket
import sys
from itertools import groupby
from pathlib import Path

import lightning.pytorch as pl
import torch

from gannorm.distributed import Replicas
from gannorm.training import prepare


def fit(config, processes):
    module, data = prepare(config)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["enable_model_summary"] = False
    ours = {"strategy": Replicas(), "devices": processes, "accelerator": "cpu", "precision": "64-true"}
    trainer = pl.Trainer(max_steps=config["steps"], max_epochs=-1, **ours, **quiet)
    trainer.fit(module, datamodule=data)
    losses = {name: value.clone() for name, value in module.losses.items()}
    return {**module.state_dict(), **losses}


def main(folder):
    cases = json.loads((folder / "cases.json").read_text())
    for processes, group in groupby(cases, key=lambda case: case[0]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        mine, children = list(group), []
        for rank in range(processes):
            if child := os.fork():
                children.append(child)
                continue
            os.environ["LOCAL_RANK"] = str(rank)
            torch.set_num_threads(1)
            for _, name, config in mine:
                torch.save(fit(config, processes), folder / f"{name}_{rank}.pt")
            os._exit(0)
        for child in children:
            if os.waitpid(child, 0)[1]:
                sys.exit("a process failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
