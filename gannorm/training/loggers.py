"""Where a run's metrics go: the run directory always, Weights & Biases beside it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from gannorm.files import atomic_write
from gannorm.rundir import RunDir
from gannorm.wandb_run import WandbRun


class RunDirLogger(Logger):
    """Metrics to metrics.jsonl. A run's file is complete with or without any other logger."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        return self.run.path.parent.name

    @property
    def version(self) -> str:
        return self.run.name

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run directory has its config.yaml already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.run.append_metrics(step, metrics)

    def log_image(self, key: str, images: list[Image.Image], step: int, caption: list[str] | None = None) -> None:
        """Samples are files of the run; matrices are kept as arrays."""
        if key == "samples":
            with atomic_write(self.run.sample_file(step)) as file:
                images[0].save(file, "PNG")

    def log_arrays(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Add arrays to the run's probe file of this step, beside those of other probes."""
        target, kept = self.run.probe_file(step), {}
        if target.exists():
            with np.load(target) as there:
                kept = dict(there)
        with atomic_write(target) as file:
            np.savez_compressed(file, **kept | dict(arrays))  # type: ignore[arg-type]


class WandbLogger(LightningWandbLogger):
    """Lightning's logger around our own W&B run: rows stand at our `step`, and a failure ends the logging alone.

    Args:
        run: an open W&B run.
        with_checkpoints: send every checkpoint as a version of one artifact.
    """

    def __init__(self, run: WandbRun, with_checkpoints: bool = False) -> None:
        super().__init__(experiment=run.experiment)
        self.run, self.with_checkpoints = run, with_checkpoints

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.run.log({**metrics, "step": step})

    def log_checkpoint(self, file: Path, step: int) -> None:
        if self.with_checkpoints:
            self.run.log_file(file, "checkpoint", f"step_{step}")
