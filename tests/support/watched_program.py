"""python watched_program.py FOLDER: the same two-process training with and without the callback; saves what each left.

Lightning starts the second process with this very command.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from support.foreign import fakes, images, loader, modules

from gannorm import BatchDependence
from gannorm.normalizers import NORMALIZERS

torch.set_num_threads(1)
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
for watched in (True, False):
    torch.manual_seed(0)
    module = modules(pl)["automatic"]()
    for parameter in module.gen.parameters():
        parameter.requires_grad_(False)
    module.critic[2] = NORMALIZERS["sync"](32)  # which waits for the other process, but not in a measurement
    callbacks = []
    if watched:
        callbacks = [BatchDependence("critic", fakes=fakes, real=images(128), every_n_batches=2)]
    processes = {"devices": 2, "strategy": "ddp", "accelerator": "cpu"}
    trainer = pl.Trainer(max_steps=4, max_epochs=-1, callbacks=callbacks, **processes, **quiet)
    trainer.fit(module, loader())
    left = {**module.state_dict(), "random": torch.get_rng_state()}
    torch.save(left, Path(sys.argv[1]) / f"{watched}_{trainer.global_rank}.pt")
    if watched:
        expected = 2 if trainer.global_rank == 0 else 0
        assert callbacks[0].measurements == expected, callbacks[0].measurements
