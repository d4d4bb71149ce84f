"""Both variances are those of one-way random effects, and the noise of the means is subtracted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import unit_variance

N, U = 8, 400


def with_gradient(g: Tensor) -> tuple[nn.Module, object, Tensor]:
    """A layer whose output has the gradient g (N, U)."""
    return nn.Linear(1, g.shape[1], dtype=torch.float64), lambda f, x: (f(x) * g).sum(), torch.ones(len(g), 1).double()


@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (4.0, 1.0), (0.25, 9.0)])
def test_random_effects_have_their_variances(between: float, within: float) -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        units = between**0.5 * torch.randn(1, U, generator=generator, dtype=torch.float64)
        noise = within**0.5 * torch.randn(N, U, generator=generator, dtype=torch.float64)
        result = unit_variance(*with_gradient(units + noise))
        found.append((result.between_units[0], result.within_units[0]))
    means, errors = np.mean(found, 0), np.std(found, 0, ddof=1) / 40**0.5
    # Within four standard errors of the truth: a chance of 1e-4 to fail by itself, and the seed is fixed.
    assert abs(means[0] - between) < 4 * errors[0]
    assert abs(means[1] - within) < 4 * errors[1]


def test_without_the_subtraction_noise_would_count_as_a_difference_between_units() -> None:
    noise = torch.randn(N, U, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    naive = noise.mean(0).var().item()
    assert naive > 0.8 / N  # the variance of a mean of N
    # The estimate scatters around 0 by about √(2/U)/N.
    assert abs(unit_variance(*with_gradient(noise)).between_units[0]) < 4 * (2 / U) ** 0.5 / N


def test_a_unit_of_a_convolution_is_a_channel() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2)).double()
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    output = network[0](x).detach().requires_grad_()
    loss = lambda f, x: f(x).square().mean()  # noqa: E731
    (g,) = torch.autograd.grad(network[1:](output).square().mean(), output)
    g = g.mean((2, 3))
    result = unit_variance(network, loss, x, layers=["0"])
    assert result.within_units[0] == pytest.approx(g.var(0).mean().item(), rel=1e-9)
    assert result.between_units[0] == pytest.approx(g.mean(0).var().item() - g.var(0).mean().item() / 5, rel=1e-9)
    assert unit_variance(network, loss, x).layers == ("0", "3")


def test_wrong_input_is_one_line() -> None:
    square = lambda f, x: f(x).square().mean()  # noqa: E731
    with pytest.raises(UserError, match="need at least two images and two units: '' has 1 and 3"):
        unit_variance(nn.Linear(2, 3), square, torch.ones(1, 2))
    with pytest.raises(UserError, match="a layer of at least two: the network has none"):
        unit_variance(nn.Linear(2, 1), square, torch.ones(4, 2))
    with pytest.raises(UserError, match="it uses none"):
        unit_variance(nn.BatchNorm1d(2), square, torch.randn(4, 2))
    with pytest.raises(UserError, match="'head'"):
        unit_variance(nn.Linear(2, 3), square, torch.ones(4, 2), layers=["head"])
