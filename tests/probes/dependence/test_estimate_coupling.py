"""The estimate of gradient coupling: it converges to the exact sums, at a cost that does not depend on the batch."""

from __future__ import annotations

import math

import pytest
import torch
from support.toys import image_network
from torch import Tensor, nn

from gannorm.probes import coupling_matrix, estimate_coupling


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_estimates_converge_to_the_exact_sums_as_one_over_root_draws() -> None:
    torch.manual_seed(0)
    network = image_network(nn.BatchNorm2d).double()
    x = randn(6, 3, 8, 8)
    squared = coupling_matrix(network, x).square()
    total, off = squared.sum().item(), (squared.sum() - squared.diagonal().sum()).item()
    generator = torch.Generator().manual_seed(0)

    def errors(draws: int) -> Tensor:
        estimates = [estimate_coupling(network, x, draws, generator).off_diagonal for _ in range(60)]
        return torch.tensor(estimates, dtype=torch.float64) - off

    few, many = errors(2), errors(18)
    # Standard errors: a mean of 60 lies within 4 of them of 0; the ratio of two standard deviations is within 40 %
    # of √(17/1) at 60 samples each.
    assert abs(few.mean().item()) < 4 * few.std().item() / math.sqrt(60)
    assert abs(many.mean().item()) < 4 * many.std().item() / math.sqrt(60)
    assert few.std().item() / many.std().item() == pytest.approx(math.sqrt(17), rel=0.4)
    assert estimate_coupling(network, x, 200, generator).total == pytest.approx(total, rel=0.1)
    assert 0 < off < total


def test_cost_of_the_estimate_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: counted.append(1) or grad(*a, **k))
    network = nn.Linear(3, 1)
    costs = []
    for probe, n in ((estimate_coupling, 16), (estimate_coupling, 1024), (coupling_matrix, 64)):
        counted.clear()
        probe(network, torch.randn(n, 3))
        costs.append(len(counted))
    assert costs == [4, 4, 64]
