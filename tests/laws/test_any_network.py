"""Networks that the probes have never seen: every kind of input, output and module; and each is left as it was."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from support.toys import group_norm, image_network
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, set_reference
from gannorm.probes import (
    assert_batch_invariant,
    common_mode_gain,
    companion_variance,
    composition_gap,
    coupled_layers,
    coupling_matrix,
    coupling_ratio,
    estimate_coupling,
    leak_ratio,
    swap_test,
)
from gannorm.probes.batch import selecting


def couples(f: Callable[..., Any], x: Any, batch_dim: int = 0) -> tuple[bool, bool]:
    """(forward, gradient), by three probes that must agree on the gradient."""
    by_matrix = coupling_ratio(coupling_matrix(f, x, batch_dim)) > 1e-13
    by_estimate = estimate_coupling(f, x, batch_dim=batch_dim).ratio > 1e-13
    assert by_matrix == by_estimate
    return swap_test(f, x, batch_dim=batch_dim).verdict == "coupled", by_matrix


# -- every registered normalizer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMALIZERS)
def test_declared_flags_are_the_measured_coupling(name: str) -> None:
    torch.manual_seed(0)
    normalizer = NORMALIZERS[name]
    network = nn.Sequential(nn.Conv2d(3, 8, 3), normalizer(8), nn.Tanh(), nn.Flatten(), nn.Linear(288, 1)).double()
    x = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    set_reference(network, torch.randn(5, 3, 8, 8, dtype=torch.float64))
    if name == "renorm":
        # It starts as BatchNorm (r_max = 1, d_max = 0) and is free of forward coupling once inside its clip range.
        assert couples(network, x) == (True, True)
        with_clip_range(network[1], x, network[0])
    assert couples(network, x) == (normalizer.forward_coupling, normalizer.gradient_coupling)
    expected = ["1"] if normalizer.forward_coupling or normalizer.gradient_coupling else []
    assert coupled_layers(network, x) == expected


def with_clip_range(renorm: Any, x: Tensor, before: nn.Module) -> None:
    """Schedule past its end, running statistics near the batch's."""
    renorm.num_batches_tracked.fill_(10**6)
    h = before(x).detach()
    renorm.running_mean.copy_(h.mean((0, 2, 3)))
    (renorm.running_var if hasattr(renorm, "running_var") else renorm.running_std.square()).copy_(h.var((0, 2, 3)))


# -- inputs -----------------------------------------------------------------------------------------------------------


class Conditional(nn.Module):
    """Takes an image vector and a label, as separate arguments."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embedding, self.linear, self.norm = nn.Embedding(4, 3), nn.Linear(3, 3), norm

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return (self.norm(self.linear(x)) * self.embedding(label)).sum(1)


class Whole(nn.Module):
    """Takes its structure of inputs in one argument."""

    def __init__(self, inner: nn.Module, keys: tuple[Any, Any]) -> None:
        super().__init__()
        self.inner, self.keys = inner, keys

    def forward(self, batch: Any) -> Tensor:
        return self.inner(batch[self.keys[0]], batch[self.keys[1]])


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("form", ["tuple", "dict", "whole tuple", "whole dict", "list"])
def test_structures_of_inputs(form: str, coupled: bool) -> None:
    network: nn.Module = Conditional(nn.BatchNorm1d(3) if coupled else nn.LayerNorm(3))
    x, label = torch.randn(8, 3), torch.arange(8) % 4
    inputs: Any = {"x": x, "label": label} if "dict" in form else (x, label)
    if form == "list":
        inputs = [x, label]
    if "whole" in form or form == "list":
        network = Whole(network, ("x", "label") if "dict" in form else (0, 1))
    assert couples(network, inputs) == (coupled, coupled)
    assert [name.removeprefix("inner.") for name in coupled_layers(network, inputs)] == ["norm"] * coupled


def test_named_tuples_and_ordered_dictionaries_keep_their_type() -> None:
    class Pair(NamedTuple):
        x: Tensor
        y: Tensor

    def f(pair: Pair) -> OrderedDict[str, Tensor]:
        return OrderedDict(logits=pair.x.sum(1), features=pair.y - pair.y.mean(0))

    pair = Pair(torch.randn(8, 3), torch.randn(8, 2))
    assert couples(selecting(f, "features"), pair) == (True, True)
    assert couples(selecting(f, "logits"), pair) == (False, False)


# -- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 3)])
def test_outputs_of_any_shape_are_projected_to_a_number_per_sample(shape: tuple[int, ...]) -> None:
    x = torch.randn(6, 18)
    width = max(1, int(torch.tensor(shape).prod())) if shape else 1
    head = lambda x: x[:, :width].reshape(6, *shape)  # noqa: E731
    assert couples(head, x) == (False, False)
    assert couples(lambda x: head(x - x.mean(0)), x) == (True, True)
    # Signs over √K: the derivative by the K inputs is a unit vector.
    assert coupling_matrix(head, x).diagonal().tolist() == pytest.approx([1] * 6)


def test_outputs_without_a_batch_are_refused() -> None:
    with pytest.raises(UserError, match=r"one entry per sample: got \(3,\) for 6 samples"):
        swap_test(lambda x: x[:3, 0], torch.randn(6, 2))


# -- modules ----------------------------------------------------------------------------------------------------------

FAMILIES = [
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
]  # and VisionTransformer below; without AlexNet and VGG, whose first linear layers take seconds to make


@pytest.mark.parametrize("name", FAMILIES)
def test_classification_networks_in_eval_mode_are_innocent(name: str) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, num_classes=4, **options).eval()
    assert_batch_invariant(network, torch.randn(2, 3, 32, 32))


def test_a_vision_transformer_is_innocent() -> None:
    network = torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    assert_batch_invariant(network, torch.randn(3, 3, 16, 16))


def test_a_classification_network_in_train_mode_is_caught() -> None:
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=4)
    names = coupled_layers(network, torch.randn(4, 3, 32, 32))
    norms = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(names) == sorted(norms)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("kind", ["bfloat16", "autocast", "frozen", "shared", "hooked", "parametrized", "checkpointed"])
def test_kinds_of_modules(kind: str, coupled: bool) -> None:
    torch.manual_seed(0)
    network = image_network(nn.BatchNorm2d if coupled else group_norm)
    x = torch.randn(8, 3, 8, 8)
    f: Callable[..., Any] = network
    if kind == "bfloat16":
        network, x = network.bfloat16(), x.bfloat16()
    elif kind == "autocast":
        f = autocast_to_bfloat16(network)
    elif kind == "frozen":
        network.requires_grad_(False)
    elif kind == "shared":
        network[0] = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 3, padding=1))
        network[0][0] = nn.Sequential(shared := nn.Conv2d(3, 3, 1), nn.Tanh(), shared)
    elif kind == "hooked":
        network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
        network[3].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    elif kind == "parametrized":
        nn.utils.parametrizations.spectral_norm(network[0])
        nn.utils.parametrizations.weight_norm(network[3])
    elif kind == "checkpointed":
        f = lambda x: torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False)  # noqa: E731
    assert couples(f, x) == (coupled, coupled)
    assert [name.split(".")[-1] for name in coupled_layers(f, x)] == ["1", "4"] * coupled


def autocast_to_bfloat16(network: nn.Module) -> Callable[[Tensor], Tensor]:
    def f(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    return f


def test_an_outer_no_grad_or_inference_mode_does_not_matter() -> None:
    network, x = image_network(nn.BatchNorm2d), torch.randn(8, 3, 8, 8)
    with torch.no_grad():
        expected = coupling_matrix(network, x)
    with torch.inference_mode():
        assert torch.equal(coupling_matrix(network, x), expected)
        assert coupled_layers(network, x) == ["1", "4"]


def test_compiled_modules() -> None:
    # The eager backend compiles without a C++ compiler: it tests guards, hooks and state, not generated code.
    network, x = image_network(nn.BatchNorm2d), torch.randn(8, 3, 8, 8)
    compiled = torch.compile(network, backend="eager")
    assert couples(compiled, x) == (True, True)
    assert coupled_layers(compiled, x) == ["1", "4"]
    assert network[1].num_batches_tracked == 0


PROBES: dict[str, Callable[..., Any]] = {
    "coupling_matrix": lambda f, x: coupling_matrix(f, x),
    "estimate_coupling": lambda f, x: estimate_coupling(f, x),
    "common_mode_gain": lambda f, x: common_mode_gain(f, x),
    "composition_gap": lambda f, x: composition_gap(f, x, -x, batch_size=4),
    "leak_ratio": lambda f, x: leak_ratio(f, x, -x, batch_size=4),
    "companion_variance": lambda f, x: companion_variance(f, x, x, draws=2, batch_size=4),
    "swap_test": lambda f, x: swap_test(f, x),
    "coupled_layers": lambda f, x: coupled_layers(f, x),
}


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("name", PROBES)
def test_every_probe_leaves_the_network_bit_identical_and_repeats(name: str, raises: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(image_network(nn.BatchNorm2d), nn.Dropout(0.3))
    nn.utils.parametrizations.spectral_norm(network[0][0])
    x = torch.randn(8, 3, 8, 8)
    network(x).sum().backward()
    calls = 0

    def fail(module: nn.Module, inputs: Any) -> None:
        nonlocal calls
        calls += 1
        if raises and calls > 1:
            raise RuntimeError("boom")

    network[0][5].register_forward_pre_hook(fail)
    before = state_of(network)
    if raises:
        with pytest.raises(RuntimeError, match="boom"):
            PROBES[name](network, x) if name not in ("coupling_matrix", "estimate_coupling", "common_mode_gain") else (
                PROBES[name](functools.partial(call_twice, network), x)
            )
    else:
        assert repr(PROBES[name](network, x)) == repr(PROBES[name](network, x))
    assert str(before) == str(state_of(network))


def call_twice(network: nn.Module, x: Tensor) -> Tensor:
    return network(x) + network(x)


def state_of(network: nn.Module) -> list[Any]:
    tensors = [t.tolist() for t in network.state_dict().values()]
    grads = [p.grad.tolist() for p in network.parameters() if p.grad is not None]
    modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]
    return [tensors, grads, modes, torch.get_rng_state().tolist()]
