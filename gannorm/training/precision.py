"""Precision and layout of a run: the fastest arithmetic that keeps the mathematics, or the exact one.

The choice depends on the hardware and the config alone, never on a timing, so that a repeated run is the same run. In
both modes parameters, optimizer states, running statistics and the averaged generator are float32, a loss is computed
from float32 logits, and kernels are deterministic; probes, samples and scores run outside the autocast, in float32.
(`trainer.precision` bf16-true or 64-true asks for something else and gets it.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gannorm.config import TrainConfig, keys
from gannorm.isolate import determinism_kept, in_float32, switched
from gannorm.normalizers import NORMALIZERS


@dataclass(frozen=True)
class Arithmetic:
    """How a run computes.

    Attributes:
        precision: Lightning's name: "bf16-mixed" (autocast around the training step), "32-true" or another.
        channels_last: whether feature maps keep their channels innermost in memory.
        exact: refuse kernels that are not deterministic, and TensorFloat-32, instead of a warning.
        why: the reason for the precision, for the printed line.
    """

    precision: str
    channels_last: bool
    exact: bool
    why: str

    def __str__(self) -> str:
        return f"{self.precision} ({self.why}), {'channels_last' if self.channels_last else 'channels_first'}"

    def trainer_options(self) -> dict[str, Any]:
        """The Trainer's part; the rest is `applied` around the fit."""
        return {"precision": self.precision, "deterministic": True if self.exact else "warn"}

    @contextmanager
    def applied(self, module: torch.nn.Module) -> Iterator[None]:
        """Lay out `module`, and inside set torch's global switches, which are put back, the Trainer's too."""
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        wanted: list[tuple[Any, str, Any]] = [
            (torch.utils.deterministic, "fill_uninitialized_memory", False),  # for debugging; it writes every map once
            (torch.backends.cudnn, "benchmark", False),  # it chooses kernels by timing
            (torch.backends.cudnn, "deterministic", True),
        ]
        with determinism_kept(), switched(*wanted), in_float32() if self.exact else nullcontext():
            yield


def choose(config: TrainConfig | Mapping[str, Any]) -> Arithmetic:
    """The arithmetic of a training config: its `precision`, overridden by its `trainer.precision`."""
    config = TrainConfig.of(config)
    mode, options = config.precision, config.trainer
    if options.get("precision"):
        precision, why = str(options["precision"]), "trainer.precision"
    elif mode == "exact":
        precision, why = "32-true", "precision exact"
    else:
        hardware = fast_bf16(_device(str(options.get("accelerator", "auto"))))
        precision = "bf16-mixed" if hardware else "32-true"
        why = f"precision auto: {hardware or 'bf16 would not be faster here'}"
    norms = {config[key] for key in keys(config.task) if key.endswith(".norm")}
    gains = [NORMALIZERS[norm].channels_last for norm in norms]
    channels_last = all(gain is True or (gain == "float32" and precision.startswith("32")) for gain in gains)
    return Arithmetic(precision, channels_last=channels_last, exact=mode == "exact", why=why)


def fast_bf16(device: str) -> str:
    """What multiplies bfloat16 matrices faster than float32's on "cuda" or "cpu": AMX, AVX512-bf16, the GPU; or ""."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name() if native else ""
    if device != "cpu":
        return ""
    cpu = torch.cpu.get_capabilities()  # not mkldnn's own answer, which is yes also where it emulates
    if cpu.get("amx_tile"):
        return "AMX"
    # Intel's processors since Sapphire Rapids, the first with AVX512-fp16, leave bf16 to AMX: where a virtual machine
    # hides that, their AVX512-bf16 has half the rate of float32 (measured: results/benchmark). AMD's Zen 4 has twice.
    slow = cpu.get("avx512_fp16") and "Intel" in str(cpu.get("cpu_name"))
    return "AVX512-bf16" if cpu.get("avx512_bf16") and not slow else ""


def _device(accelerator: str) -> str:
    """The device type that Lightning takes for this accelerator."""
    if accelerator in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return accelerator
