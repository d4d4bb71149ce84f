"""Coupling behind a zero is named, and what couples nothing names nothing."""

from __future__ import annotations

import torch
from torch import nn

from gannorm.probes.dependence.hidden_coupling import hidden_coupling


def test_the_layer_behind_a_zero_head_is_named() -> None:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    for norm, names in ((nn.BatchNorm1d(8), ("1",)), (nn.GroupNorm(2, 8), ())):
        network = nn.Sequential(nn.Linear(3, 8), norm, nn.ReLU(), nn.Linear(8, 1))
        nn.init.zeros_(network[3].weight)
        assert hidden_coupling(network, x, False, torch.Generator().manual_seed(0)) == names
