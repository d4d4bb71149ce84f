"""The mean gradient over many batches: does it point along the weights, or across them?

The mean gradient over many batches is what plain training follows on average. Where a normalizer follows a kernel, the
loss ignores the kernel's length, so the mean gradient should have no radial part (along w); a reviewer of Bjorck et al.
2018 asked whether the data-independent gradient of networks without a normalizer is radial.

L kernels, B batches, S step sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes.batch import default_generator
from gannorm.probes.calls import KERNELS
from gannorm.probes.optimization.objective import Loss, Result, at_least_single, chosen, objective

STEPS = (0.01, 0.03, 0.1)  # of the kernel's norm


@dataclass(frozen=True, eq=False)
class MeanGradient(Result):
    """The mean gradient ḡ of L kernels over B batches, and its spread over the batches."""

    layers: tuple[str, ...]
    batches: int  # B
    weight_norm: np.ndarray  # (L,) ‖w‖
    mean_norm: np.ndarray  # (L,) ‖ḡ‖
    batch_variance: np.ndarray  # (L,) E‖∇_B − E∇_B‖², estimated with B − 1
    radial_product: np.ndarray  # (L,) ⟨w, ḡ⟩
    step_sizes: np.ndarray  # (S,) in units of ‖w‖
    loss: float  # mean over the batches
    losses_along: np.ndarray  # (L, S) mean loss at w − s‖w‖·ḡ/‖ḡ‖
    losses_across: np.ndarray  # (L, S) mean loss at w + s‖w‖·r, r random, of length 1 and orthogonal to ḡ

    @property
    def radial_share(self) -> np.ndarray:
        """(L,) share of ‖ḡ‖² along w, in [0, 1]; 0 where the loss ignores the length of w. NaN where ḡ or w is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.radial_product / (self.weight_norm * self.mean_norm)) ** 2

    @property
    def signal(self) -> np.ndarray:
        """(L,) ‖E∇_B‖² without the noise that ‖ḡ‖² holds, ‖ḡ‖² − variance/B; unbiased, so it may be negative."""
        return self.mean_norm**2 - self.batch_variance / self.batches


def mean_gradient(
    network: nn.Module,
    loss: Loss,
    batches: Sequence[Any],
    layers: Sequence[str] | None = None,
    steps: Sequence[float] = STEPS,
    generator: torch.Generator | None = None,
) -> MeanGradient:
    """The mean over batches of each kernel's gradient: its size, direction, and the loss along and across it.

    ḡ = (1/B) Σ_b ∇_w L_b. Radial part: its projection onto w. For a kernel before a BatchNorm, with gradients through
    the statistics, ⟨w, ∇_w L⟩ = Σ_c ε/(σ_c²+ε)·⟨x̂_c, ∂L/∂x̂_c⟩ exactly, which vanishes as ε → 0. The cost is B
    forward-backward passes and 2·L·S·B + 1 forward passes.

    Args:
        network, loss: see `objective`.
        batches: B ≥ 2 batches, each as `loss` takes it.
        layers: names of Linear, Conv2d or ConvTranspose2d modules; by default all.
        steps: lengths of the looks ahead, > 0, in units of the kernel's norm.
        generator: draws the orthogonal directions; by default a fresh one with seed 0.

    Returns:
        MeanGradient.

    Raises:
        UserError: fewer than two batches, a network without kernels, a layer that does not exist, steps that are not
            positive, gradients that are not finite, a loss that is not deterministic.

    Source: the third review of Bjorck et al. 2018; the radial identity: Santurkar et al. 2018; estimates: defined here.

    >>> net = nn.Linear(1, 1, bias=False)  # L = w·x̄, so that the mean gradient is the mean of x
    >>> result = mean_gradient(net, lambda f, x: f(x).mean(), [torch.tensor([[1.0]]), torch.tensor([[3.0]])])
    >>> result.mean_norm.tolist(), result.batch_variance.tolist(), result.radial_share.tolist()
    ([2.0], [2.0], [1.0])
    """
    batches = list(batches)
    if len(batches) < 2:
        raise UserError(f"a mean over batches needs at least two: got {len(batches)}; pass a list of batches.")
    if not steps or not all(0 < step < math.inf for step in steps):
        raise UserError(f"`steps` must be positive and finite: got {list(steps)}; try {list(STEPS)}.")
    generator = default_generator(generator)
    with objective(network, loss, batches[0]) as o:
        # Inside, since reading the weight of spectral norm moves its power iteration.
        kernels = [name for name, m in network.named_modules() if isinstance(m, KERNELS) and m.weight.requires_grad]
        if not kernels:
            raise UserError(
                "the network must have a Linear, Conv2d or ConvTranspose2d layer that is trained: it has none."
            )
        names = chosen(kernels, layers, "a Linear, Conv2d or ConvTranspose2d that is trained")
        keys = {name: f"{name}.weight" if name else "weight" for name in names}
        if missing := [name for name, key in keys.items() if key not in o.parameters]:
            raise UserError(
                f"the kernel must be a parameter of its own: that of {missing[0]!r} is computed by a weight "
                "normalizer; leave it out of `layers`."
            )
        o.checked_gradient()
        losses, gradients = [], []
        for batch in batches:
            o.batch = batch
            value, by_key = o.gradient(keys.values())
            o.require_finite(value, by_key)
            losses.append(value)
            gradients.append({name: at_least_single(by_key[key]).double() for name, key in keys.items()})
        means = {name: torch.stack([g[name] for g in gradients]).mean(0) for name in names}
        rows = []
        for name, key in keys.items():
            w, mean = at_least_single(o.parameters[key].detach()).double(), means[name]
            spread = sum((g[name] - mean).square().sum().item() for g in gradients) / (len(batches) - 1)
            across = _orthogonal(mean, generator)
            size = mean.norm().item()
            along = mean / size if size else torch.zeros_like(mean)
            lengths = [step * w.norm().item() for step in steps]
            rows.append(
                {
                    "weight_norm": w.norm().item(),
                    "mean_norm": size,
                    "batch_variance": spread,
                    "radial_product": (w * mean).sum().item(),
                    "losses_along": [_mean_loss(o, key, w - length * along, batches) for length in lengths],
                    "losses_across": [_mean_loss(o, key, w + length * across, batches) for length in lengths],
                }
            )
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    mean_loss = math.fsum(losses) / len(losses)
    return MeanGradient(tuple(names), len(batches), step_sizes=np.array(steps), loss=mean_loss, **columns)


def _orthogonal(direction: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction of length 1 that is orthogonal to `direction`; 0 where there is no room for one."""
    noise = torch.randn(direction.shape, generator=generator, device=generator.device, dtype=torch.float64)
    noise = noise.to(direction.device)
    if direction.norm() > 0:
        unit = direction / direction.norm()
        for _ in range(2):  # the second time removes what rounding left
            noise = noise - (noise * unit).sum() * unit
    if direction.numel() == 1:
        return torch.zeros_like(noise)
    return noise / noise.norm()


def _mean_loss(o: Any, key: str, value: Tensor, batches: Sequence[Any]) -> float:
    losses = []
    with o.at({key: value}), torch.no_grad():
        for batch in batches:
            o.batch = batch
            losses.append(o.value())
    return math.fsum(losses) / len(losses)
