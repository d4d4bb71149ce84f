"""How torch computes: precision, determinism and devices. Every global switch of torch is set here, and put back.

A run takes the fastest arithmetic that keeps the mathematics, or the exact one (`Arithmetic`). Scores are computed in
full precision (`undisturbed`): TF32 and bf16 matrix products move a FID in its third digit, and autotuned kernels move
its last bits from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gannorm.errors import UserError
from gannorm.isolate import switched
from gannorm.isolate.state import RandomState


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

    def lay_out(self, module: torch.nn.Module) -> None:
        """Keep the feature maps of `module` in memory as this arithmetic does."""
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, torch's global switches are set; all are put back, also those that a Trainer sets."""
        wanted: list[tuple[Any, str, Any]] = [
            (torch.utils.deterministic, "fill_uninitialized_memory", False),  # for debugging; it writes every map once
            (torch.backends.cudnn, "benchmark", False),  # it chooses kernels by timing
            (torch.backends.cudnn, "deterministic", True),
        ]
        with determinism_kept(), switched(*wanted), in_float32() if self.exact else nullcontext():
            yield


# -- switches ---------------------------------------------------------------------------------------------------------


@contextmanager
def undisturbed() -> Iterator[None]:
    """Full float32 precision, deterministic kernels, no autocast; every setting and random state is put back."""
    cudnn = torch.backends.cudnn
    random_state = RandomState()
    try:
        with in_float32(), switched((cudnn, "benchmark", False), (cudnn, "deterministic", True)), ExitStack() as stack:
            for device in {"cpu", best_device().type}:
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        random_state.restore()


@contextmanager
def determinism_kept() -> Iterator[None]:
    """Whatever the block sets of torch's determinism, as a Trainer does for good, is put back."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn: Any = torch.backends.cudnn
    try:
        with switched((cudnn, "benchmark", cudnn.benchmark)):
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def in_float32() -> AbstractContextManager[None]:
    """Products of float32 numbers in float32, on every device, and not in TF32 or bf16."""
    backends: Any = torch.backends  # its precision settings have no type stubs
    owners = [backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    owners += [backends.cudnn.conv, backends.cudnn.rnn]
    return switched(*((owner, "fp32_precision", "ieee") for owner in owners))


@contextmanager
def new_tensors_in(precision: torch.dtype) -> Iterator[None]:
    """New tensors of floats have this precision.

    >>> with new_tensors_in(torch.float64):
    ...     torch.zeros(1).dtype
    torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# -- devices ----------------------------------------------------------------------------------------------------------


def best_device() -> torch.device:
    """The fastest device that torch offers here: CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def require_device(name: str) -> None:
    """Raises UserError unless torch finds a device of this name on this machine."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).split("\n")[0].split(". ")[0][:120]
        raise UserError(f"`device` must be available: got {name!r} ({reason}); choose {best_device()}.") from None


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
