"""No probe changes anything of its caller's: not the network, what hangs on it, the inputs or a random state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fingerprint import fingerprint
from support.third_party import CASES, Case
from torch import nn

from gannorm import BatchCouplingError, assert_batch_invariant, batch_invariance, probes
from gannorm.probes.batch import map_tensors

# What TorchScript and reentrant checkpointing say of themselves, old forms of spectral and weight norm, and gradients
# that were not tested.
pytestmark = pytest.mark.filterwarnings("ignore")


def moved(x: Any) -> Any:
    return map_tensors(lambda t: t + 0.1 if t.is_floating_point() else t.clone(), x)


BY_BATCH: dict[str, Callable[..., Any]] = {
    "assert_batch_invariant": assert_batch_invariant,
    "swap_test": probes.swap_test,
    "coupled_layers": probes.coupled_layers,
    "coupling_matrix": probes.coupling_matrix,
    "estimate_coupling": probes.estimate_coupling,
    "common_mode_gain": probes.common_mode_gain,
}
# batch_invariance calls all the others.
BY_CLASS: dict[str, Callable[..., Any]] = {
    "composition_gap": lambda f, x, n, **o: probes.composition_gap(f, x, moved(x), n, **o),
    "batch_invariance": lambda f, x, n, **o: batch_invariance(f, x, moved(x), n, **o),
}


def of_classes(f: Any, x: Any, n: int, **options: Any) -> Any:
    labels = torch.arange(n) % 2
    return probes.class_composition(f, x, labels, batch_size=2, shares=[1.0, 0.5], **options)


BY_LOSS: dict[str, Callable[..., Any]] = {
    "gradient_statistics": probes.gradient_statistics,
    "landscape": probes.landscape,
    "signal_propagation": lambda network, loss, x: probes.signal_propagation(network, x),
    "sgd_noise": lambda network, loss, x: probes.sgd_noise(network, loss, x, 1),
}


def held_by(case: Case) -> list[Any]:
    return [case.f, case.x, *case.state]


@pytest.mark.parametrize("name", CASES)
def test_every_probe_leaves_everything_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    n = probes.batch.batch_size_of(case.x, case.options.get("batch_dim", 0))
    before = fingerprint(*held_by(case))
    runs: dict[str, Callable[[], Any]] = {}
    for probe, call in BY_BATCH.items():
        runs[probe] = lambda call=call: call(case.f, case.x, **case.options)
    for probe, call in (BY_CLASS | {"class_composition": of_classes}).items():
        runs[probe] = lambda call=call: call(case.f, case.x, n, **case.options)
    if isinstance(case.f, nn.Module) and not case.options and isinstance(case.x, torch.Tensor):
        for probe, call in BY_LOSS.items():
            runs[probe] = lambda call=call: call(case.f, lambda f, x: f(x).square().mean(), case.x)
    for probe, run in runs.items():
        with contextlib.suppress(Exception):  # a network that is not differentiable, or takes no other batch size
            run()
        assert fingerprint(*held_by(case)) == before, probe


@pytest.mark.parametrize("name", ["containers", "scripted_with_a_counter", "input_in_place", "a_counter", "scripted"])
def test_the_fingerprint_sees_what_a_plain_call_changes(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    before = fingerprint(*held_by(case))
    with torch.no_grad():
        case.f(case.x)
    assert fingerprint(*held_by(case)) != before


def test_an_exception_in_the_network_changes_nothing_either() -> None:
    torch.manual_seed(0)
    case = CASES["containers_around_a_batch_norm"]()
    calls = []

    def fail(module: nn.Module, args: Any) -> None:
        calls.append(1)
        if len(calls) % 3 == 0:
            raise RuntimeError("boom")

    case.f.network[3].register_forward_pre_hook(fail)
    before = fingerprint(*held_by(case))
    for call in BY_BATCH.values():
        with contextlib.suppress(RuntimeError, BatchCouplingError):
            call(case.f, case.x)
        assert fingerprint(*held_by(case)) == before
    assert len(calls) > 3


def test_a_classifiers_curve_leaves_it_and_its_images_as_they_were() -> None:
    """One that the curve can judge, which the cases above, of one number a sample, refuse."""
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    images, labels = torch.randn(32, 4), torch.arange(32) % 2
    before = fingerprint(f, images, labels)
    curve = probes.class_composition(f, images, labels, batch_size=4)
    assert fingerprint(f, images, labels) == before
    assert curve.blocks == 4
