"""The whole probe: what it says of discriminators whose judgement is known, and that its result is plain data."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn
from toys import GradientCentred, group_norm, image_network, judge_of_batches

from gannorm.errors import UserError
from gannorm.probes import batch_invariance


def images(n: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, n, 3, 8, 8, generator=generator)
    return real + 0.2, fake - 0.2


def test_a_judge_of_batches_is_called_one() -> None:
    result = batch_invariance(lambda x: judge_of_batches(x.flatten(1)), *images())
    assert result.verdict.startswith("this discriminator judges batches: its accuracy is 1.00 on pure batches")
    assert result.forward_coupling
    assert result.gradient_coupling
    assert result.leak.ratio > 1
    assert result.companion_variance > 0.9
    assert result.companion_shift > 1
    assert [layer.name for layer in result.layers] == [""]
    assert result.mode == "unknown"


def test_a_judge_of_images_is_called_one() -> None:
    torch.manual_seed(0)
    result = batch_invariance(image_network(group_norm), *images())
    assert result.verdict.startswith("this discriminator judges images: no logit or gradient depends")
    assert result.composition.accuracy_gap == result.companion_variance == result.coupling.ratio == 0
    assert result.layers == ()
    assert result.mode == "train"


def test_coupling_without_consequence_is_neither() -> None:
    result = batch_invariance(lambda x: x.mean((1, 2, 3)) - 1e-3 * x.mean(), *images())
    assert result.verdict.startswith("this discriminator's logits depend on the batch, but not its judgement")


def test_coupling_of_the_gradient_alone_is_said() -> None:
    network = image_network(group_norm)
    result = batch_invariance(lambda x: GradientCentred.apply(network(x)), *images())
    assert result.verdict.startswith("this discriminator judges images, but learns from batches")
    assert [layer.name for layer in result.layers] == [""]


def test_layers_of_a_batch_norm_network_are_named_in_each_mode() -> None:
    network = image_network(nn.BatchNorm2d)
    result = batch_invariance(network, *images())
    assert [layer.name for layer in result.layers] == ["1", "4"]
    assert "1 (BatchNorm2d), 4 (BatchNorm2d)" in repr(result)
    network.eval()
    assert batch_invariance(network, *images()).verdict.startswith("this discriminator judges images: no logit")
    network[1].train()
    result = batch_invariance(network, *images(), batch_size=16)
    assert result.mode == "mixed"
    assert [layer.name for layer in result.layers] == ["1"]


def test_the_result_is_frozen_and_its_dictionary_is_strict_json() -> None:
    result = batch_invariance(lambda x: torch.ones(len(x)) + 0 * x.mean((1, 2, 3)), *images())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.mode = "eval"  # type: ignore[misc]
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["icc_real"] is None  # constant logits
    assert content["common_mode_gain"] is None
    assert content["leak"]["ratio"] == 0
    assert len(content["matrix"]) == 4
    assert content["verdict"] == result.verdict
    assert "undefined (constant logits)" in repr(result)


def test_the_figure_shows_the_matrix_and_both_compositions() -> None:
    result = batch_invariance(image_network(nn.BatchNorm2d), *images())
    matrix, bars, *_ = result.figure().axes
    assert matrix.images[0].get_array().shape == (4, 64)
    gap = result.composition
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == [gap.accuracy_pure, gap.auc_pure, gap.accuracy_mixed, gap.auc_mixed]


def test_the_same_seed_gives_the_same_result_and_the_global_generator_is_not_used() -> None:
    network = image_network(nn.BatchNorm2d)
    state = torch.get_rng_state()
    results = [batch_invariance(network, *images(), generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert results[0].to_dict() == results[1].to_dict()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_cost_is_counted_in_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # In images: forward passes over 64 images, and backward calls, of which those of the layers are partial.
    network = image_network(nn.BatchNorm2d)
    forwards, backwards, grad = [], [], torch.autograd.grad
    network.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0]) / 64))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backwards.append(1) or grad(*a, **k))
    batch_invariance(network, *images())
    layers = 9 * 3  # nine pieces of network, three sign patterns each: together three backward passes
    assert sum(forwards) <= 75
    assert len(backwards) <= 4 + 4 + layers


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (lambda x: x.mean((1, 2, 3)), {"batch_size": 128}, "fill a batch of 128 each: got 64 and 64"),
        (lambda x: x.mean((1, 2, 3)), {"batch_size": 6}, "multiple of 4 and at least 8: got 6"),
        (lambda x: x.mean((1, 2, 3)).detach(), {}, "differentiable path"),
        (lambda x: x.mean(), {}, "one entry per sample"),
        (lambda x: x.mean((1, 2, 3)) / 0, {}, "outputs must be finite"),
    ],
)
def test_bad_input_is_refused_before_any_work(f: object, options: dict[str, int], message: str) -> None:
    calls = []
    with pytest.raises(UserError, match=message):
        batch_invariance(lambda x: calls.append(1) or f(x), *images(), **options)  # type: ignore[operator]
    assert len(calls) <= 1
