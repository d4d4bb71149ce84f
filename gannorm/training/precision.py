"""The arithmetic that a config asks for, on this hardware.

The choice depends on the hardware and the config alone, never on a timing, so that a repeated run is the same run. In
both modes parameters, optimizer states, running statistics and the averaged generator are float32, a loss is computed
from float32 logits, and kernels are deterministic; probes, samples and scores run outside the autocast, in float32.
(`trainer.precision` bf16-true or 64-true asks for something else and gets it.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gannorm.arithmetic import Arithmetic, best_device, fast_bf16
from gannorm.config import TrainConfig, keys
from gannorm.normalizers import NORMALIZERS


def choose(config: TrainConfig | Mapping[str, Any]) -> Arithmetic:
    """The arithmetic of a training config: its `precision`, overridden by its `trainer.precision`."""
    config = TrainConfig.of(config)
    mode, options = config.precision, config.trainer
    if options.get("precision"):
        precision, why = str(options["precision"]), "trainer.precision"
    elif mode == "exact":
        precision, why = "32-true", "precision exact"
    else:
        accelerator = str(options.get("accelerator", "auto"))
        hardware = fast_bf16(best_device().type if accelerator in ("auto", "gpu") else accelerator)
        precision = "bf16-mixed" if hardware else "32-true"
        why = f"precision auto: {hardware or 'bf16 would not be faster here'}"
    norms = {config[key] for key in keys(config.task) if key.endswith(".norm")}
    gains = [NORMALIZERS[norm].channels_last for norm in norms]
    channels_last = all(gain is True or (gain == "float32" and precision.startswith("32")) for gain in gains)
    return Arithmetic(precision, channels_last=channels_last, exact=mode == "exact", why=why)
