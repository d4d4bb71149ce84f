"""Where the samples lie in a tensor: any dimension, and folded into rows by an embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gannorm.probes import (
    assert_batch_invariant,
    coupling_matrix,
    coupling_ratio,
    estimate_coupling,
    swap_test,
)
from gannorm.probes.batch import selecting


def couples(f: Callable[..., Any], x: Any, batch_dim: int = 0) -> tuple[bool, bool]:
    """(forward, gradient), by three probes that must agree on the gradient."""
    by_matrix = coupling_ratio(coupling_matrix(f, x, batch_dim)) > 1e-13
    by_estimate = estimate_coupling(f, x, batch_dim=batch_dim).ratio > 1e-13
    assert by_matrix == by_estimate
    return swap_test(f, x, batch_dim=batch_dim).verdict == "coupled", by_matrix


@pytest.mark.parametrize("coupled", [True, False])
def test_integer_tokens_are_differentiated_by_at_their_embedding(coupled: bool) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # As many positions as samples: they must not be taken for a batch of embeddings.
            self.tokens, self.positions = nn.Embedding(10, 6), nn.Embedding(5, 6)
            self.norm = nn.BatchNorm1d(6) if coupled else nn.LayerNorm(6)

        def forward(self, ids: Tensor) -> Tensor:
            h = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            return self.norm(h.mean(1)).square()[:, 0]

    ids = torch.randint(10, (5, 5), generator=torch.Generator().manual_seed(0))
    assert couples(Tokens(), ids) == (coupled, coupled)
    assert coupling_matrix(Tokens(), ids).diagonal().min() > 0


def test_sequences_with_the_batch_in_another_dimension() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2, enable_nested_tensor=False)
    x = torch.randn(5, 4, 8)  # (T, N, C)
    assert couples(encoder, x, batch_dim=1) == (False, False)
    assert couples(encoder, x, batch_dim=0) == (True, True)
    assert_batch_invariant(encoder, x, batch_dim=1)
    lstm = selecting(nn.LSTM(8, 3), 0)
    assert coupling_matrix(lstm, x, batch_dim=1).shape == (4, 4)
    assert_batch_invariant(lstm, x, batch_dim=1)
