"""Moments by depth where they are known: linear layers, normalized layers, and biased outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import signal_propagation


def images() -> Tensor:
    return 2 * torch.randn(16, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1


def mean_square(f: nn.Module, x: Tensor) -> Tensor:
    return f(x).square().mean()


def test_moments_are_those_of_the_inputs_and_of_the_output() -> None:
    torch.manual_seed(0)
    f = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2)).double()
    x = images()
    result = signal_propagation(f, mean_square, x)
    assert result.layers == ("0", "3", "(output)")
    flat, output = f[:3](x).detach(), f(x).detach()
    for i, rows in enumerate((x.movedim(1, -1).reshape(-1, 3), flat, output)):
        assert result.channel_means[i] == pytest.approx(rows.mean(0).numpy(), rel=1e-12)
        assert result.channel_variances[i] == pytest.approx(rows.var(0, correction=0).numpy(), rel=1e-12)
        assert result.means[i] == pytest.approx(rows.mean(0).abs().mean().item(), rel=1e-12)


def test_two_calls_are_one_sample() -> None:
    f, x = nn.Linear(6, 1).double(), images()
    once = signal_propagation(f, lambda f, x: f(x).square().mean(), x)
    twice = signal_propagation(f, lambda f, x: (f(x[:4]).square().sum() + f(x[4:]).square().sum()) / x.numel(), x)
    for a, b in zip(once.channel_means, twice.channel_means, strict=True):
        assert a == pytest.approx(b, rel=1e-12)


def test_a_linear_network_multiplies_and_a_batch_norm_keeps() -> None:
    # Layers of 2·identity: means ×2 and variances ×4 a layer, exactly; behind a BatchNorm they are 0 and 1.
    def deep(norm: nn.Module) -> nn.Sequential:
        layers = [m for _ in range(5) for m in (nn.Linear(3, 3, bias=False), norm)]
        for layer in layers[::2]:
            layer.weight.data = 2 * torch.eye(3)
        return nn.Sequential(*layers).double()

    x = images()[:, :, 0, 0]
    plain = signal_propagation(deep(nn.Identity()), mean_square, x)
    assert plain.means == pytest.approx(plain.means[0] * 2.0 ** np.arange(6), rel=1e-12)
    assert plain.variances == pytest.approx(plain.variances[0] * 4.0 ** np.arange(6), rel=1e-12)
    normalized = signal_propagation(deep(nn.BatchNorm1d(3, eps=1e-14)), mean_square, x)
    assert normalized.means[1:] == pytest.approx(np.zeros(5), abs=1e-12)
    assert normalized.variances[1:] == pytest.approx(np.ones(5), rel=1e-12)


def test_class_bias_counts_activations_and_gradients_apart() -> None:
    x = torch.tensor([[5.0, 0, 0], [4, 0, 1], [3, 1, 0], [0, 0, 7]])
    f = nn.Linear(3, 3, bias=False)
    f.weight.data = torch.eye(3)
    # the loss lowers class 1 most in every image
    result = signal_propagation(f, lambda f, x: (f(x) * torch.tensor([1.0, 2.0, -3.0])).mean(), x)
    assert result.majority_by_activation == 3 / 4
    assert result.majority_by_gradient == 1.0


def test_the_majority_by_gradient_is_of_the_class_that_the_loss_would_lower_most_not_raise_most() -> None:
    slopes = torch.tensor([[1.0, 0, -9], [2, 0, -9], [1, 0, -9], [0, 3, -9]])  # ∂ℓ/∂f: largest in class 0, 0, 0, 1
    result = signal_propagation(nn.Linear(3, 3), lambda f, x: (f(x) * slopes).sum(), torch.randn(4, 3))
    assert result.majority_by_gradient == 3 / 4


def test_the_channels_of_a_sequence_are_its_last_dimension() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    x = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = signal_propagation(Tokens(), lambda f, x: f(x).square().mean(), x)
    assert result.channel_means[-1] == pytest.approx(2 * x.detach().mean((0, 1)).numpy(), rel=1e-12)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_the_classes_of_one_logit_are_its_signs(shape: tuple[int, ...]) -> None:
    class Logit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(shape)

    x = torch.tensor([1.0, 2, 3, 4, 5, 6, -1, -2]).requires_grad_()
    result = signal_propagation(Logit(), lambda f, x: (f(x).flatten() * torch.arange(-3.5, 4)).sum(), x)
    assert (result.majority_by_activation, result.majority_by_gradient) == (6 / 8, 4 / 8)


def test_images_have_no_class() -> None:
    result = signal_propagation(nn.Conv2d(3, 3, 1).double(), mean_square, images())
    assert result.majority_by_activation is result.majority_by_gradient is None


def test_a_loss_that_does_not_use_the_network_is_refused() -> None:
    f = nn.Linear(3, 3)
    for loss in (
        lambda f, x: f.weight.square().mean(),
        lambda f, x: f.weight.square().mean() + 0 * f(x).detach().sum(),
    ):
        with pytest.raises(UserError, match="`loss` must use the network's output"):
            signal_propagation(f, loss, torch.zeros(2, 3))


def test_an_output_that_the_loss_does_not_use_is_not_counted() -> None:
    f, x = nn.Linear(6, 1).double(), images()
    once = signal_propagation(f, mean_square, x)
    twice = signal_propagation(f, lambda f, x: mean_square(f, x) + 0 * f(x + 1).detach().sum(), x)
    assert twice.channel_means[-1] == once.channel_means[-1]
    assert twice.majority_by_gradient == once.majority_by_gradient


def test_skewness_and_kurtosis_are_those_of_known_distributions() -> None:
    """Exponential: 2 and 6; uniform: 0 and −1.2; within what 200,000 draws allow (four standard errors and more)."""
    n, generator = 200_000, torch.Generator().manual_seed(0)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    x = torch.stack([-torch.log1p(-uniform), torch.rand(n, generator=generator, dtype=torch.float64)], 1)
    result = signal_propagation(nn.Linear(2, 1).double(), mean_square, x)
    assert result.channel_skewness[0] == pytest.approx([2, 0], abs=0.06)
    assert result.channel_kurtosis[0] == pytest.approx([6, -1.2], abs=0.6)


def test_a_batch_norm_changes_neither_in_a_channel() -> None:
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    x = images()[:, :, 0, 0] ** 3  # far from Gaussian
    without = nn.Sequential(*f[:3], f[4])
    with_norm, plain = (signal_propagation(g, mean_square, x) for g in (f, without))
    assert with_norm.channel_skewness[2] == pytest.approx(plain.channel_skewness[2], rel=1e-8)
    assert with_norm.channel_kurtosis[2] == pytest.approx(plain.channel_kurtosis[2], rel=1e-8)


def test_saturation_is_the_share_of_outputs_at_the_ends_of_the_range() -> None:
    f = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1)).double()
    f[0].weight.data.fill_(1.0)
    x = torch.tensor([[-9.0], [-0.1], [0.1], [0.2]], dtype=torch.float64)
    assert signal_propagation(f, mean_square, x).saturated == {"1": 0.25}
    assert signal_propagation(nn.Linear(1, 1).double(), mean_square, x).saturated == {}
