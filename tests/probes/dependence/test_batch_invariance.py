"""The whole probe: what it says of discriminators whose judgement is known, and that its result is plain data."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
import torch
from support.toys import GradientCentred, group_norm, image_network, judge_of_batches
from torch import Tensor, nn

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


def test_the_uniformity_of_each_class_is_of_its_own_logits() -> None:
    varied, same = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(64, 3)

    def first(x: Tensor) -> Tensor:
        return x[:, 0]

    result = batch_invariance(first, varied, same)
    assert result.icc_real is not None and result.icc_fake is None  # constant logits have none
    result = batch_invariance(first, same, varied)
    assert result.icc_real is None and result.icc_fake is not None


def test_the_rows_of_the_matrix_are_of_real_images_and_of_fakes() -> None:
    result = batch_invariance(lambda x: x.square().sum(1), *torch.randn(2, 64, 3), batch_size=16)
    assert result.matrix.shape == (4, 16)
    assert [row.nonzero().flatten().tolist() for row in result.matrix] == [[0], [1], [8], [9]]


def test_at_chance_there_is_no_judgement_to_acquit() -> None:
    torch.manual_seed(0)
    result = batch_invariance(image_network(nn.BatchNorm2d), *torch.randn(2, 256, 3, 8, 8))
    assert "whether its judgement does cannot be seen, since it tells these images apart no better" in result.verdict


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


def test_few_images_show_no_judgement_that_chance_may_have_made() -> None:
    # Noise of which none is real: only the coupling is there to be found.
    found = []
    for seed in range(20):
        noise = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(seed))
        found.append(batch_invariance(lambda x: (x - x.mean(0)).sum(1), *noise, batch_size=16))
    assert sum("judges batches" in result.verdict for result in found) <= 4  # 2 tests each, at two standard errors
    by_chance = [result for result in found if "16 images a class may move so far by chance" in result.verdict]
    assert by_chance
    assert all(max(abs(r.composition.accuracy_gap), abs(r.composition.auc_gap)) >= 0.1 for r in by_chance)


def test_where_logits_have_one_sign_auc_alone_tells() -> None:
    x = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)) / 4
    result = batch_invariance(lambda x: torch.sigmoid(x + 3 * x.mean())[:, 0], x + 1, x - 1)
    assert result.composition.accuracy_pure == result.composition.accuracy_mixed == 0.5
    auc = f"(AUC {result.composition.auc_pure:.2f} and {result.composition.auc_mixed:.2f}"
    assert f"{auc}; where all logits are of one sign, only AUC tells)" in result.verdict


def test_a_leak_within_its_error_is_called_one() -> None:
    judge = batch_invariance(lambda x: judge_of_batches(x.flatten(1)), *images())
    assert "not shown to differ from 0" not in repr(judge)
    torch.manual_seed(0)
    noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3 * 8 * 8, 1))
    result = batch_invariance(noisy, *images())
    assert 0 < abs(result.leak.context.value) < 2 * result.leak.context.standard_error
    assert "not shown to differ from 0" in repr(result)


def test_coupling_of_the_gradient_alone_is_said() -> None:
    network = image_network(group_norm)
    result = batch_invariance(lambda x: GradientCentred.apply(network(x)), *images())
    assert result.verdict.startswith("this discriminator judges images, but learns from batches")
    assert [layer.name for layer in result.layers] == [""]


def one_pair(x: Tensor) -> Tensor:
    """(N, K) -> (N,): the identity of sums, but the gradient of image 1 flows into logit 0 too."""
    y = x.flatten(1).sum(1)
    return torch.cat([y[:1] + (y[1:2] - y[1:2].detach()), y[1:]])


def test_one_coupled_pair_is_seen_with_every_seed() -> None:
    # With 4 random signs the estimate is exactly 0 for one seed in eight.
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    results = [
        batch_invariance(one_pair, x, -x, batch_size=8, generator=torch.Generator().manual_seed(seed))
        for seed in range(20)
    ]
    assert any(result.coupling.ratio == 0 for result in results)
    assert all(result.gradient_coupling and not result.forward_coupling for result in results)
    assert all([layer.name for layer in result.layers] == [""] for result in results)


def test_a_reversed_judge_of_batches_is_called_one_too() -> None:
    x = torch.randn(2, 256, 1, generator=torch.Generator().manual_seed(0)) / 4
    real, fake = x[0] + 1, x[1] - 1
    result = batch_invariance(lambda x: (x - 3 * x.mean())[:, 0], real, fake)
    assert result.composition.accuracy_gap < -0.5
    assert result.verdict.startswith("this discriminator judges batches: its accuracy is 0.0")


def test_floors_are_said_only_where_they_are_floors() -> None:
    assert "floor" not in repr(batch_invariance(image_network(nn.BatchNorm2d), *images()))

    def rounded(x: Tensor) -> Tensor:  # the order of summation depends on the size of the batch
        x = x.flatten(1).exp()
        return x.sum(1) if len(x) <= 64 else x.flip(1).cumsum(1)[:, -1]

    result = batch_invariance(rounded, *images())
    swap = result.swap
    assert swap.verdict == "independent"
    assert swap.floor_ratio == result.to_dict()["swap"]["floor_ratio"] > 2**20
    expected = f"(floor {swap.floor_fp32:.2g} in fp32, {swap.floor_fp64:.2g} in fp64, ratio {swap.floor_ratio:.2g})"
    assert expected in repr(result)


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
    assert content == result.to_dict()
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
    file = io.BytesIO()
    result.figure().savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    assert heights == [gap.accuracy_pure, gap.auc_pure, gap.accuracy_mixed, gap.auc_mixed]


def test_the_same_seed_gives_the_same_result_and_the_global_generator_is_not_used() -> None:
    network = image_network(nn.BatchNorm2d)
    state = torch.get_rng_state()
    results = [batch_invariance(network, *images(), generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert results[0].to_dict() == results[1].to_dict()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_cost_is_counted_in_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # In forward passes over 64 images, and in backward calls, of which those of the layers are partial. A training step
    # is two forward and two backward passes; with a backward pass as two forward ones, 30 steps are 180 of them, and
    # these are at most 80 + 2·(15 + 7) = 124.
    network = image_network(nn.BatchNorm2d)
    forwards, backwards, grad = [], [], torch.autograd.grad
    network.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0]) / 64))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backwards.append(1) or grad(*a, **k))
    batch_invariance(network, *images())
    layers = 9 * 7  # nine pieces of network, seven sign patterns each: together seven backward passes
    assert sum(forwards) <= 80
    assert len(backwards) <= 4 + 4 + 7 + layers  # the estimate, four rows of the matrix, the sign test


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (lambda x: x.mean((1, 2, 3)), {"batch_size": 128}, "fill a batch of 128 each: got 64 and 64"),
        (lambda x: x.mean((1, 2, 3)), {"batch_dim": -5}, "got -5 for"),
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


def test_the_remedy_for_few_images_works() -> None:
    real, fake = images(10)
    f = image_network(group_norm)
    with pytest.raises(UserError, match="got 10 and 10 images; pass more, or batch_size=8"):
        batch_invariance(f, real, fake)
    assert batch_invariance(f, real, fake, batch_size=8).batch_size == 8


def test_real_and_fake_of_unequal_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"got \(3,\) and \(4,\) without the batch; pass both"):
        batch_invariance(lambda x: x.sum(1), torch.randn(64, 3), torch.randn(64, 4))
