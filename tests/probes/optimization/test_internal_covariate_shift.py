"""Internal covariate shift against the product rule, and against networks that are really set to each mixed point."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gannorm.errors import UserError
from gannorm.probes import deep_linear_network, internal_covariate_shift, one_neuron_chain, snapshot


def squared(f: nn.Module, x: Tensor) -> Tensor:
    return f(x).square().mean()


def images() -> Tensor:
    return torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def vgg() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        parametrizations.weight_norm(nn.Conv2d(4, 5, 3)),
        nn.GroupNorm(1, 5),
        nn.Flatten(),
        nn.Linear(80, 1),
    ).double()


def updated(f: nn.Module, x: Tensor, learning_rate: float = 0.5) -> dict[str, Tensor]:
    """One step of gradient descent; returns the parameters before it."""
    before = snapshot(f)
    squared(f, x).backward()
    with torch.no_grad():
        for p in f.parameters():
            p -= learning_rate * p.grad
    return before


def test_the_chain_follows_the_product_rule() -> None:
    f, loss, x = one_neuron_chain(depth=4)
    w, v = [2.0, 3.0, 5.0, 7.0], [1.0, -1.0, 4.0, 6.0]
    before = {f"{i}.weight": torch.tensor([[w[i]]]).double() for i in range(4)}
    after = {f"{i}.weight": torch.tensor([[v[i]]]).double() for i in range(4)}
    result = internal_covariate_shift(f, loss, x, before, after)
    # G = ∏_{j≠i} w_j; in G' the factors before i are new: 2·3·5 → 1·(−1)·4, …
    assert result.gradient_norm.tolist() == [105, 70, 42, 30]
    assert result.distance.tolist() == [0, 70 - 35, 42 + 7, 30 + 4]
    assert result.cosine.tolist() == [1, 1, -1, -1]
    assert [p.item() for p in f.parameters()] == [1, 1, 1, 1]


def test_two_linear_layers_follow_the_product_rule() -> None:
    # L = ½‖W₂W₁x‖² has ∇_{W₂}L = (W₂h)hᵀ with h = W₁x; only h is renewed in G'_2.
    generator = torch.Generator().manual_seed(0)
    x, w1, v1, w2, v2 = torch.randn(5, 3, 3, dtype=torch.float64, generator=generator)
    f = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    result = internal_covariate_shift(
        f,
        lambda f, x: 0.5 * f(x).square().sum(),
        x.T,
        {"0.weight": w1, "1.weight": w2},
        {"0.weight": v1, "1.weight": v2},
    )
    g, shifted = (w2 @ w @ x @ (w @ x).T for w in (w1, v1))
    assert result.distance == pytest.approx([0, (g - shifted).norm().item()], rel=1e-12)
    assert result.cosine[1] == pytest.approx(((g * shifted).sum() / g.norm() / shifted.norm()).item(), rel=1e-12)


def test_a_vgg_agrees_with_a_network_set_to_each_mixed_point() -> None:
    f, x = vgg(), images()
    before = updated(f, x)
    after = snapshot(f)
    result = internal_covariate_shift(f, squared, x, before)
    assert result.layers == ("0", "3", "6")
    earlier_of = {"0": (), "3": ("0.", "1."), "6": ("0.", "1.", "3.", "4.")}  # γ and β are earlier layers too
    for i, layer in enumerate(result.layers):
        gradients = []
        for new in ((), earlier_of[layer]):
            point = {name: after[name] if name.startswith(new or "-") else before[name] for name in after}
            other = copy.deepcopy(f)
            other.zero_grad()
            other.load_state_dict(point, strict=False)
            squared(other, x).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in other.get_submodule(layer).parameters()]))
        g, shifted = gradients
        # 1e-9: float64, the same sums in another order
        assert result.distance[i] == pytest.approx((g - shifted).norm().item(), rel=1e-9, abs=1e-15)
        assert result.cosine[i] == pytest.approx(torch.cosine_similarity(g, shifted, dim=0).item(), rel=1e-9)
        assert result.gradient_norm[i] == pytest.approx(g.norm().item(), rel=1e-9)
    assert result.distance[1:].min() > 0


def test_without_an_update_nothing_shifts() -> None:
    f = vgg()
    result = internal_covariate_shift(f, squared, images(), snapshot(f))
    assert result.distance.tolist() == [0, 0, 0]
    assert result.cosine == pytest.approx([1, 1, 1], abs=1e-15)


def test_layers_are_ordered_by_their_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.first(x), self.last.weight)  # `last` is never called itself

    f = Backwards()
    before = {name: 2 * p for name, p in snapshot(f).items()}
    # `last` counts with the module that uses its weight, which is called before `first`
    assert internal_covariate_shift(f, squared, torch.ones(2, 1), before).layers == ("last", "first")
    f = nn.Sequential(f.last, f.first)
    f.forward = lambda x: f[0](f[1](x))  # type: ignore[method-assign]
    result = internal_covariate_shift(f, squared, torch.ones(2, 1), {n: 2 * p for n, p in snapshot(f).items()})
    assert result.layers == ("1", "0")
    assert result.distance[0] == 0 < result.distance[1]


def test_a_sample_shows_every_layer_that_can_shift_in_time() -> None:
    f, x = vgg(), images()
    before = updated(f, x)
    everything = internal_covariate_shift(f, squared, x, before)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(8):
        result = internal_covariate_shift(f, squared, x, before, sample=1, generator=generator)
        assert len(result.layers) == 1 and result.layers_in_network == 3
        index = [everything.layers.index(layer) for layer in result.layers]
        assert result.distance.tolist() == everything.distance[index].tolist()
        seen |= set(result.layers)
    assert seen == set(everything.layers[1:])  # nothing lies before the first
    both = internal_covariate_shift(f, squared, x, before, sample=5)
    assert both.layers == everything.layers[1:]
    assert internal_covariate_shift(f, squared, x, before, layers=["0"], sample=2).layers == ("0",)


def test_batch_norm_does_not_lower_it_in_a_deep_linear_network() -> None:
    # The direction of Santurkar 2018, Fig. 3: early in training the plain network has almost none.
    shifts: list[Any] = []
    for normalizer in (None, nn.BatchNorm1d):
        f, loss, batch = deep_linear_network(normalizer=normalizer)
        optimizer = torch.optim.SGD(f.parameters(), lr=1e-6)
        for _ in range(5):
            before = snapshot(f)
            optimizer.zero_grad()
            loss(f, batch).backward()
            optimizer.step()
        shifts.append(internal_covariate_shift(f, loss, batch, before, sample=8))
    plain, normalized = ((s.distance / s.gradient_norm).mean() for s in shifts)
    assert plain < 0.2
    assert normalized > 2 * plain
    assert shifts[1].cosine.min() < shifts[0].cosine.min()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"layers": ["conv"]}, "got 'conv'; choose from 0, 3, 6"),
        ({"layers": ["1"]}, "must be a module with weights to train: got '1'"),
        ({"sample": 0}, "`sample` must be at least 1"),
        ({"before": {}}, r"`before` must hold every parameter: got nothing for '0.weight' of shape \(4, 3, 3, 3\)"),
        ({"after": {"0.weight": torch.zeros(2)}}, r"`after` must hold every parameter: got shape \(2,\)"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    f = vgg()
    with pytest.raises(UserError, match=message):
        internal_covariate_shift(f, squared, images(), **({"before": snapshot(f)} | change))


def test_a_before_that_is_not_a_copy_is_refused() -> None:
    f = vgg()
    with pytest.raises(UserError, match=r"`before` must be a copy .* take snapshot\(network\) before the step"):
        internal_covariate_shift(f, squared, images(), f.state_dict())
