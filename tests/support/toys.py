"""Networks whose batch dependence is known in closed form, and networks built to hide one.

N batch, C channels, S = H·W pixels; s = √(σ² + ε).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

EPS = 1e-14  # torch refuses 0; in float64 this is 0 against a variance near 1


class Apply(nn.Module):
    """A layer made of one function, so that a network can be built around it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class GradientCentred(torch.autograd.Function):
    """Forward the identity; backward the mean over the batch is taken away: couples only in the gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad - grad.mean(0)


class BatchAttention(nn.Module):
    """Attention whose sequence is the batch: the classic slip of `batch_first`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2)

    def forward(self, x: Tensor) -> Tensor:  # (N, C), read as a sequence of N
        return self.attention(x[:, None], x[:, None], x[:, None], need_weights=False)[0][:, 0]


# (layer for C = 8 channels, couples the forward pass, couples the gradient)
VIOLATORS: dict[str, tuple[Callable[[], nn.Module], bool, bool]] = {
    "reshape mixes N and C": (lambda: Apply(lambda x: x.t().reshape(x.shape)), True, True),
    "centred": (lambda: Apply(lambda x: x - x.mean(0)), True, True),
    "centred by a detached mean": (lambda: Apply(lambda x: x - x.mean(0).detach()), True, False),
    "attention over the batch": (lambda: BatchAttention(8), True, True),
    "sorted along the batch": (lambda: Apply(lambda x: x.sort(0).values), True, True),
    "batch norm": (lambda: nn.BatchNorm1d(8), True, True),
    "argmax over the batch": (lambda: Apply(lambda x: x + 0.1 * x.argmax(0)), True, False),
    "gradient only": (lambda: Apply(GradientCentred.apply), False, True),
    "neighbours only": (lambda: Apply(lambda x: x + 0.1 * x.roll(1, 0)), True, True),
    "pairs only": (lambda: Apply(lambda x: x + 0.1 * x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)), True, True),
    "hidden at 1e-4": (lambda: Apply(lambda x: x + 1e-4 * x.mean(0)), True, True),
}


def around(layer: nn.Module) -> nn.Sequential:
    """(N, 3) -> (N, 1), with `layer` for 8 channels at "2.1"."""
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), layer), nn.Tanh(), nn.Linear(8, 1))


def image_network(normalizer: Callable[[int], nn.Module]) -> nn.Sequential:
    """(N, 3, 8, 8) -> (N, 1), with normalizers at "1" and "4"."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        normalizer(8),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        normalizer(16),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(256, 1),
    )


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


def batch_norm_jacobian(x: Tensor, gamma: float = 1.0) -> Tensor:
    """J = (γ/s)(I − 11ᵀ/N − x̂x̂ᵀ/N) of one BatchNorm unit over the N scalars `x`, ε → 0."""
    n = len(x)
    deviation = x - x.mean()
    s = deviation.square().mean().sqrt()
    hat = deviation / s
    return gamma / s * (torch.eye(n, dtype=x.dtype) - (1 + torch.outer(hat, hat)) / n)


def judge_of_batches(x: Tensor) -> Tensor:
    """(N, K) -> (N,): every logit is the mean of the batch, real if positive."""
    return x.mean().expand(len(x)) + 0.0 * x[:, 0]


class Quadratic(nn.Module):
    """L = ½ θᵀAθ, whatever the batch: ∇L = Aθ, and L and ∇L are known everywhere."""

    def __init__(self, a: Tensor, theta: Tensor) -> None:
        super().__init__()
        self.a, self.theta = a, nn.Parameter(theta)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.theta @ self.a @ self.theta


class DetachedBatchNorm(nn.Module):
    """BatchNorm whose statistics pass no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x.detach(), dim=(0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + EPS).sqrt()


def loss(y):
    """A scalar with a different slope everywhere, so that no gradient vanishes by symmetry."""
    return (y.sin() * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view_as(y)).sum()


def gradients(function, x, parameters):
    x = x.detach().clone().requires_grad_()
    y = function(x)
    found = torch.autograd.grad(loss(y.to(torch.promote_types(y.dtype, torch.float32))), [x, *parameters])
    return [y.detach(), *found]


def close(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        scale = e.abs().max().clamp(min=1).item()
        torch.testing.assert_close(a.to(e.dtype), e, atol=tolerance * scale, rtol=0)
