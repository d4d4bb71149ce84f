"""Compute scores in full precision, and restore every setting of the process.

TF32 and bf16 matrix products move a FID in its third digit, and autotuned kernels move its last bits from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from gannorm.errors import UserError
from gannorm.isolate import in_float32, switched
from gannorm.isolate.state import RandomState


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
