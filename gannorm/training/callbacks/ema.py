"""An exponential moving average of a module: weights averaged, buffers carried along."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gannorm.isolate import copy_of


class EMA(nn.Module):
    """θ̄ ← decay·θ̄ + (1 − decay)·θ after every step; buffers are copied.

    Running statistics are averages already, and a power-iteration vector averaged with an older one points nowhere: so
    buffers follow the module instead of being averaged (Karras et al. do the same in StyleGAN).

    Args:
        module: the module to follow; a frozen copy of it is made.
        decay: in [0, 1); 0 makes the average equal to the module.

    Raises:
        UserError: a layer of it cannot be copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy_of(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average one step toward `module`."""
        average: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(average, current, 1.0 - self.decay)
        for averaged, trained in zip(self.module.buffers(), module.buffers(), strict=True):
            averaged.copy_(trained)
