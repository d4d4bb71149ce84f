"""Progress is shown where a probe is slow, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from support.third_party import mlp
from torch import nn

from gannorm import assert_batch_invariant


def test_a_slow_network_shows_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert_batch_invariant(mlp(nn.LayerNorm(8)), torch.randn(8, 3))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("gannorm.probes.progress.AFTER", 0.0)
    assert_batch_invariant(mlp(nn.LayerNorm(8)), torch.randn(8, 3))
    error = capsys.readouterr().err
    assert error.startswith("\rassert_batch_invariant: 1 of at most 40 forward passes, 0 s") and error.endswith("\n")
