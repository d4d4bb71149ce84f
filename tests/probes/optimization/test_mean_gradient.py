"""The mean gradient, its radial part behind a normalizer, and the loss around it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import mean_gradient

B, N, D = 5, 16, 6
EPS = 0.05  # large, so that the radial part is not lost in rounding


class Detached(nn.Module):
    """A batch norm whose statistics are constants to the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.detach().mean(0)) / x.detach().std(0, correction=0)


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    return [(draw(N, D), draw(N, 1)) for _ in range(B)]


def squared_error(f: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (f(batch[0]) - batch[1]).square().mean()


def network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 8, bias=False), norm, nn.Tanh(), nn.Linear(8, 1)).double()


def test_mean_and_variance_are_those_of_the_gradients_of_the_batches() -> None:
    f = network(nn.Identity())
    gradients = []
    for batch in batches():
        f.zero_grad()
        squared_error(f, batch).backward()
        gradients.append(f[0].weight.grad.clone())
    g = torch.stack(gradients)
    result = mean_gradient(f, squared_error, batches(), layers=["0"])
    mean = g.mean(0)
    assert result.mean_norm[0] == pytest.approx(mean.norm().item(), rel=1e-10)
    assert result.batch_variance[0] == pytest.approx(g.var(0).sum().item(), rel=1e-10)
    assert result.radial_product[0] == pytest.approx((f[0].weight * mean).sum().item(), rel=1e-10)
    signal = mean.square().sum() - g.var(0).sum() / B
    assert result.signal[0] == pytest.approx(signal.item(), rel=1e-9)


def test_the_radial_part_behind_a_batch_norm_is_what_epsilon_leaves() -> None:
    """⟨w, ∇_w L⟩ = Σ_c ε/(σ_c²+ε)·⟨x̂_c, ∂L/∂x̂_c⟩, averaged over the batches."""
    f = network(nn.BatchNorm1d(8, eps=EPS))
    expected = 0.0
    for x, y in batches():
        z = f[0](x)
        variance = z.var(0, correction=0)
        normalized = ((z - z.mean(0)) / (variance + EPS).sqrt()).detach().requires_grad_()
        loss = (f[3](torch.tanh(normalized * f[1].weight + f[1].bias)) - y).square().mean()
        (g,) = torch.autograd.grad(loss, normalized)
        expected += (EPS / (variance + EPS) * (normalized * g).sum(0)).sum().item() / B
    through = mean_gradient(f, squared_error, batches(), layers=["0"])
    assert through.radial_product[0] == pytest.approx(expected, rel=1e-9)
    small = mean_gradient(network(nn.BatchNorm1d(8, eps=1e-12)), squared_error, batches(), layers=["0"])
    assert small.radial_share[0] < 1e-15  # it vanishes with ε
    detached = mean_gradient(network(Detached()), squared_error, batches(), layers=["0"])
    assert detached.radial_share[0] > 1e-4  # not without the gradient through the statistics


def test_the_loss_along_and_across_is_the_loss_there() -> None:
    f = network(nn.Identity())
    result = mean_gradient(f, squared_error, batches(), layers=["3"], steps=[0.1, 0.5])
    w = f[3].weight.detach().clone()
    mean = torch.stack([torch.autograd.grad(squared_error(f, b), f[3].weight)[0] for b in batches()]).mean(0)
    for i, step in enumerate((0.1, 0.5)):
        f[3].weight.data = w - step * w.norm() * mean / mean.norm()
        there = sum(squared_error(f, b).item() for b in batches()) / B
        assert result.losses_along[0, i] == pytest.approx(there, rel=1e-10)
    # The loss is quadratic in this kernel: across the gradient it can only rise.
    assert (result.losses_across > result.loss).all()
    assert result.losses_along[0, 0] < result.loss


def test_bad_input_is_one_line() -> None:
    f = network(nn.Identity())
    with pytest.raises(UserError, match="needs at least two: got 1"):
        mean_gradient(f, squared_error, batches()[:1])
    with pytest.raises(UserError, match="must have a Linear, Conv2d or ConvTranspose2d layer"):
        mean_gradient(nn.BatchNorm1d(D).double(), lambda f, b: f(b[0]).sum(), batches())
    with pytest.raises(UserError, match="'head'"):
        mean_gradient(f, squared_error, batches(), layers=["head"])
    with pytest.raises(UserError, match="`steps` must be positive"):
        mean_gradient(f, squared_error, batches(), steps=[-1.0])
    with pytest.raises(UserError, match="computed by a weight normalizer"):
        normalized = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(D, 1))).double()
        mean_gradient(normalized, squared_error, batches())
    assert math.isnan(mean_gradient(f, lambda f, b: 0 * f(b[0]).sum(), batches(), layers=["0"]).radial_share[0])
