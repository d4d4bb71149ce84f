"""What every optimization probe promises: no trace is left, and bad input is refused without one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gannorm import probes
from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, set_reference
from gannorm.probes.optimization import objective

PROBES: dict[str, Callable[..., Any]] = {
    "internal_covariate_shift": lambda f, loss, batch: probes.internal_covariate_shift(f, loss, batch, perturbed(f)),
    "landscape": lambda f, loss, batch: probes.landscape(f, loss, batch, learning_rate=0.1),
    "gradient_statistics": probes.gradient_statistics,
    "sgd_noise": lambda f, loss, batch: probes.sgd_noise(f, loss, batch, batch_size=4),
    "signal_propagation": probes.signal_propagation,
    "unit_variance": probes.unit_variance,
    "mean_gradient": lambda f, loss, batch: probes.mean_gradient(f, loss, [batch, batch], layers=[last_of(f)]),
    "loss_surface": lambda f, loss, batch: probes.loss_surface(f, loss, batch, along=[0, 0.1], across=[0]),
    "gradient_consistency": lambda f, loss, batch: probes.gradient_consistency(
        f, loss, batch, [probes.snapshot(f), perturbed(f)]
    ),
}
BY_INPUT: dict[str, Callable[..., Any]] = {
    "condition_number": probes.condition_number,
    "variance_by_dimension": probes.variance_by_dimension,
}


def last_of(f: nn.Module) -> str:
    """The last layer, a plain linear one: nothing computes its weight."""
    return [name for name, _ in f.named_children()][-1]


def perturbed(network: nn.Module) -> dict[str, Tensor]:
    return {name: 1.1 * p for name, p in probes.snapshot(network).items()}


def network() -> nn.Sequential:
    """Everything that a measurement can disturb: running statistics, power iteration, masks, work in place."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Dropout(),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16, 1),
    )


def squared(f: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """As a discriminator's loss: two calls."""
    real, fake = batch
    return (f(real) - 1).square().mean() + f(fake).square().mean()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 6, 6, generator=generator), torch.randn(8, 3, 6, 6, generator=generator)


def state(f: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Every number that training reads, and where the parameters' are stored."""
    tensors = [*f.parameters(), *f.buffers(), *(p.grad for p in f.parameters())]
    moments = [v for s in optimizer.state.values() for v in s.values()]
    bits = [None if t is None else t.detach().numpy().tobytes() for t in (*tensors, *moments)]
    places = [(p.data_ptr(), p._version, p.requires_grad) for p in f.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in f.modules()]
    return [bits, places, hooks, torch.get_rng_state().tolist()]


def trained() -> tuple[nn.Sequential, torch.optim.Adam]:
    """In the middle of training: moments, gradients, a frozen layer, one layer in eval mode."""
    torch.manual_seed(0)
    f = network()
    optimizer = torch.optim.Adam(f.parameters())
    squared(f, batch()).backward()
    optimizer.step()
    f[0].requires_grad_(False)
    f[3].eval()
    return f, optimizer


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_leaves_no_trace(name: str) -> None:
    f, optimizer = trained()
    pending = squared(f, batch())  # a graph of the caller, to be differentiated after the probe
    before = state(f, optimizer)
    with torch.no_grad():  # as a callback calls it
        result = PROBES[name](f, squared, batch())
    assert state(f, optimizer) == before
    pending.backward()
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("norm", NORMALIZERS)
def test_every_normalizer_can_be_probed_without_a_trace(norm: str) -> None:
    torch.manual_seed(0)
    options = {"size": 4} if norm == "ghost" else {}  # a divisor of the mini-batches of sgd_noise too
    f = nn.Sequential(nn.Conv2d(3, 8, 3), NORMALIZERS[norm](8, **options), nn.Flatten(), nn.Linear(128, 1))
    if NORMALIZERS[norm].reference:
        set_reference(f, batch()[0])
    optimizer = torch.optim.SGD(f.parameters())
    before = state(f, optimizer)
    for probe in PROBES.values():
        probe(f, squared, batch())
        assert state(f, optimizer) == before


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_repeats_itself(name: str) -> None:
    f, _ = trained()
    first, second = (PROBES[name](f, squared, batch()).to_dict() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", PROBES)
def test_a_loss_that_draws_its_own_batch_is_refused(name: str) -> None:
    f, optimizer = trained()
    before = state(f, optimizer)
    counter = itertools.count(1)
    with pytest.raises(UserError, match=r"`loss` must be deterministic: two calls on the same batch gave .* and "):
        PROBES[name](f, lambda f, b: squared(f, b) * next(counter), batch())
    assert state(f, optimizer) == before


@pytest.mark.parametrize("name", PROBES)
def test_gradients_that_are_not_finite_are_refused(name: str) -> None:
    f, optimizer = trained()
    before = state(f, optimizer)
    with pytest.raises(UserError, match=r"must be finite: .* holds NaN or infinity"):
        # the square root at 0: a finite loss with an infinite gradient
        PROBES[name](f, lambda f, b: (f(b[0]) * 0).square().sum().sqrt(), batch())
    assert state(f, optimizer) == before


@pytest.mark.parametrize(
    "loss,message",
    [
        (lambda f, b: f(b[0]), r"one number: got \(8, 1\); take the mean"),
        (lambda f, b: f(b[0]).mean().item(), "one number: got float"),
        (lambda f, b: f(b[0]).mean().detach(), "no gradient arrived"),
    ],
)
@pytest.mark.parametrize("name", PROBES)
def test_a_loss_that_cannot_be_differentiated_is_refused(name: str, loss: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PROBES[name](network(), loss, batch())


@pytest.mark.parametrize("name", ["internal_covariate_shift", "landscape", "sgd_noise"])
def test_a_frozen_network_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="must have parameters that require gradients"):
        PROBES[name](network().requires_grad_(False), squared, batch())


@pytest.mark.parametrize("name", ["gradient_statistics", "signal_propagation"])
def test_a_probe_of_layers_measures_a_frozen_network_as_well(name: str) -> None:
    f = network()
    free = PROBES[name](f, squared, batch()).to_dict()
    assert PROBES[name](f.requires_grad_(False), squared, batch()).to_dict() == free


def test_the_generator_is_probed_through_the_discriminator() -> None:
    # The loss closes over a second network, whose running statistics must survive too.
    torch.manual_seed(0)
    g, d = nn.Linear(5, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    running = d[0].running_mean.clone()
    result = probes.landscape(g, lambda g, z: -d(g(z)).mean() + d(g(z)).square().mean(), torch.randn(8, 5), 0.1)
    assert result.gradient_norm > 0
    assert torch.equal(d[0].running_mean, running)
    assert all(p.grad is None for p in (*g.parameters(), *d.parameters()))


def test_deep_networks_cost_what_is_stated() -> None:
    f = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    calls = {"forward": 0, "backward": 0}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            calls["forward"] += 1
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            calls["backward"] += 1
            return grad

    def loss(f: nn.Module, x: Tensor) -> Tensor:
        return Counted.apply(f(x).square().mean())

    x = torch.randn(8, 4)
    for probe, backward in [
        (lambda: probes.landscape(f, loss, x, 0.1), 9),
        (lambda: probes.internal_covariate_shift(f, loss, x, perturbed(f), sample=2), 3),
        (lambda: probes.internal_covariate_shift(f, loss, x, perturbed(f)), 12),
        (lambda: probes.sgd_noise(f, loss, x, 2), 5),
        (lambda: probes.gradient_statistics(f, loss, x), 1),
        (lambda: probes.signal_propagation(f, loss, x), 1),
    ]:
        calls.update(forward=0, backward=0)
        probe()
        assert calls == {"forward": backward + 1, "backward": backward}


def test_a_loss_that_drifts_by_a_thousandth_is_refused_and_one_that_rounds_is_not() -> None:
    def drifting(by: float) -> Callable[[nn.Module, Any], Tensor]:
        counter = itertools.count()
        return lambda f, x: f(x).square().mean() * (1 + by * next(counter))

    f, x = nn.Linear(3, 1).double(), torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(UserError, match="must be deterministic"):
        probes.landscape(f, drifting(1e-3), x, learning_rate=0.1)
    probes.landscape(f, drifting(1e-7), x, learning_rate=0.1)


def test_lengths_of_half_precision_gradients_do_not_overflow() -> None:
    big = torch.full((1000,), 30000.0, dtype=torch.float16)
    assert objective.norm([big]) == pytest.approx(30000 * 1000**0.5, rel=1e-3)
    assert objective.inner({"w": big}, {"w": big}) == pytest.approx(9e11, rel=1e-3)
    assert objective.difference({"w": 2 * big}, {"w": -2 * big})["w"][0] == pytest.approx(120000, rel=1e-3)


# -- bad input is one line --------------------------------------------------------------------------------------------

WITH_LAYERS: dict[str, Callable[..., Any]] = {
    "internal_covariate_shift": lambda f, x, **o: probes.internal_covariate_shift(f, mean_square, x, perturbed(f), **o),
    "gradient_statistics": lambda f, x, **o: probes.gradient_statistics(f, mean_square, x, **o),
    "unit_variance": lambda f, x, **o: probes.unit_variance(f, mean_square, x, **o),
    "mean_gradient": lambda f, x, **o: probes.mean_gradient(f, mean_square, [x, x], **o),
    "condition_number": lambda f, x, **o: probes.condition_number(f, x, **o),
}
PLAIN: dict[str, Callable[..., Any]] = {
    **{name: lambda f, x, call=call: call(f, mean_square, x) for name, call in PROBES.items()},
    **BY_INPUT,
    "mean_gradient": WITH_LAYERS["mean_gradient"],
}


def mean_square(f: nn.Module, x: Tensor) -> Tensor:
    return f(x).square().mean()


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(PLAIN.keys() - {"signal_propagation"}))  # which measures the output of any
def test_a_network_without_anything_to_measure_is_refused(name: str) -> None:
    line = refused(lambda: PLAIN[name](nn.Sequential(nn.Tanh()), torch.ones(8, 4)))
    assert "none" in line or "fewer" in line


@pytest.mark.parametrize("name", ["gradient_statistics", "unit_variance", "mean_gradient", "condition_number"])
def test_a_probe_of_kernels_refuses_a_network_that_has_other_parameters_alone(name: str) -> None:
    line = refused(lambda: PLAIN[name](nn.Sequential(nn.BatchNorm1d(4)), torch.randn(8, 4)))
    assert "Linear" in line or "layers with kernels" in line


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("images", [0, 1])
def test_a_batch_too_small_for_its_normalizer_is_refused(name: str, images: int) -> None:
    f = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    line = refused(lambda: PLAIN[name](f, torch.randn(images, 4)))
    if images:
        assert "pass a larger batch" in line


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_a_layer_that_is_not_there_is_named_with_those_that_are(name: str) -> None:
    f = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    line = refused(lambda: WITH_LAYERS[name](f, torch.randn(8, 4), layers=["head"]))
    assert "got 'head'; choose from 0, " in line


def test_other_errors_of_the_network_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        probes.landscape(nn.Linear(4, 1), mean_square, torch.ones(8, 5), learning_rate=0.1)
