"""The whole probe: what it says of discriminators whose judgement is known, and that its result is plain data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from support.toys import GradientCentred, group_norm, image_network, judge_of_batches
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import batch_invariance
from gannorm.verdict import KINDS, SHARES, Evidence, decide


def images(n: int = 64, shift: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, n, 3, 8, 8, generator=generator)
    return real + shift, fake - shift


def points(n: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = spread * torch.randn(2, n, 1, generator=generator)
    return real + 1, fake - 1


# -- the verdict ------------------------------------------------------------------------------------------------------


def shift(x: Tensor) -> Tensor:
    """Ranks perfectly, its zero moves."""
    return 4 * torch.tanh(3 * x[:, 0]) + 8 * (x[:, 0].var() - 0.25).clamp(0, 1)


def company(x: Tensor) -> Tensor:
    return 6 * torch.tanh(4 * x[:, 0].mean()) + 0.1 * x[:, 0]


def mean_shift(x: Tensor) -> Tensor:
    """Every batch is ranked right; batches of one class are shifted by the class."""
    return x[:, 0] + 8 * x[:, 0].mean().clamp(-1, 1)


def not_monotone(x: Tensor) -> Tensor:
    """Reverses its ranks in batches of half and half, in which no swap that keeps the mixture changes anything."""
    return x[:, 0] * torch.where(x[:, 0].mean().abs() < 0.3, -1.0, 1.0)


GOLDEN: dict[str, tuple[Callable[[Tensor], Tensor], float, str, str]] = {
    "shift": (shift, 0.4, "judges images", "the batch moves its logits, but not its ranks"),
    "company": (company, 1.0, "judges batches", "within one batch it ranks images right"),
    "mean shift": (mean_shift, 0.4, "judges batches", "within one batch it ranks images right"),
    "per image": (lambda x: x[:, 0], 1.0, "judges images", "no logit and no gradient depends on the other images"),
    "wrong way": (lambda x: -x[:, 0], 1.0, "undecided", "it does not depend on the batch, and it ranks real"),
    "batch norm": (nn.Sequential(nn.BatchNorm1d(1), nn.Flatten(0)), 1.0, "judges by contrast", "only where both share"),
    "gradient": (lambda x: GradientCentred.apply(x)[:, 0], 1.0, "learns from batches", "its gradients depend on the"),
    "not monotone": (not_monotone, 0.4, "undecided", "its composition curve is not monotone"),
    "reversed": (lambda x: (x - 3 * x.mean())[:, 0], 0.4, "judges by contrast", "0.00 [0.00, 0.01] in pure"),
}


@pytest.mark.parametrize("cost", ["full", "quick"])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_case(name: str, cost: str) -> None:
    f, spread, kind, words = GOLDEN[name]
    result = batch_invariance(f, *points(256, spread), cost=cost)
    assert result.verdict.kind == kind
    assert words in str(result.verdict)
    assert repr(result).startswith(f"{kind}: ")


class Dead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(1e6 * x)


@pytest.mark.parametrize("cost", ["full", "quick"])
def test_constant_and_saturated_networks_judge_nothing(cost: str) -> None:
    torch.manual_seed(0)
    # GroupNorm of one pixel is 0 but for rounding, which it enlarges; without a bias nothing else is left.
    dead = nn.Sequential(nn.Conv2d(3, 8, 8), nn.GroupNorm(8, 8), nn.Flatten(), nn.Linear(8, 1))
    black = nn.Sequential(*dead[:3], nn.Linear(8, 1, bias=False))
    saturated = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 1), Dead())
    for network, words in ((dead, "dead network"), (black, "dead network"), (saturated, "exactly 0 or exactly 1")):
        verdict = batch_invariance(network, *images(), batch_size=16, cost=cost).verdict
        assert verdict.kind == "undecided" and words in verdict.reason


class Branch(nn.Module):
    """A residual branch with a BatchNorm `b`, multiplied by zero at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3, padding=1)
        self.h = nn.Linear(192, 1)
        nn.init.zeros_(self.c.weight)
        nn.init.zeros_(self.c.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.h((x + self.c(torch.relu(self.b(self.a(x))))).flatten(1))


def zero_gamma() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    nn.init.zeros_(network[2].weight)
    return network


def zero_head() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    nn.init.zeros_(network[3].weight)
    return network


@pytest.mark.parametrize("cost", ["full", "quick"])
@pytest.mark.parametrize(("make", "layer"), [(Branch, "b"), (zero_gamma, "2"), (zero_head, "2")])
def test_a_layer_that_is_multiplied_by_zero_is_named(make: Callable[[], nn.Module], layer: str, cost: str) -> None:
    torch.manual_seed(0)
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = batch_invariance(network, *images(shift=0.5), batch_size=16, cost=cost)
    assert not result.forward_coupling
    assert result.hidden == (layer,)
    constant = make is not Branch  # then there is nothing else to say
    assert constant or f"{layer!r} couples the batch, its effect multiplied by zero" in str(result.verdict)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_nothing_is_hidden_in_a_network_that_couples_nothing() -> None:
    torch.manual_seed(0)
    assert batch_invariance(image_network(group_norm), *images(), batch_size=16, cost="quick").hidden == ()


def untrained(seed: int) -> str:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    real, fake = torch.randn(256, 2) + 0.5, torch.randn(256, 2) - 0.5
    return batch_invariance(network, real, fake, cost="quick").verdict.kind


def test_untrained_batch_norm_networks_judge_no_batches() -> None:
    # 2 of the 200 seeds 0 … 199 did; 8 of 200 are the intervals' own error. Of 20 at .04, more than 4 come with a
    # chance of .001.
    assert sum(untrained(seed) == "judges batches" for seed in range(20)) <= 4


@pytest.mark.parametrize("cost", ["full", "quick"])
def test_with_few_images_only_the_exact_tests_decide(cost: str) -> None:
    result = batch_invariance(company, *points(100), batch_size=32, cost=cost)
    assert result.verdict.kind == "undecided"
    assert "takes at least 128 images a class (4 batches of 32): got 100" in result.verdict.reason
    assert batch_invariance(lambda x: x[:, 0], *points(100), batch_size=32, cost=cost).verdict.kind == "judges images"


def test_at_chance_it_tells_nothing_apart() -> None:
    torch.manual_seed(0)
    noise = torch.randn(2, 256, 3, 8, 8)
    result = batch_invariance(image_network(nn.BatchNorm2d), *noise, cost="quick")
    assert result.verdict.kind == "undecided" and "does not separate real from fake" in result.verdict.reason


def test_answers_that_do_not_repeat_are_undecided() -> None:
    calls = iter(range(10**6))

    def f(x: Tensor) -> Tensor:
        return x[:, 0] * (1 + 0.1 * (next(calls) * 7919 % 13))

    assert "different logits" in batch_invariance(f, *points(64), batch_size=16, cost="quick").verdict.reason


def test_the_probe_and_a_reader_of_its_metrics_say_the_same() -> None:
    for f, spread, kind, _ in GOLDEN.values():
        result = batch_invariance(f, *points(64, spread), batch_size=16, cost="quick")
        metrics = result.metrics("batch_dependence/train/")
        read = Evidence.from_metrics(metrics, "batch_dependence/train/")
        assert read == result.evidence
        assert decide(read) == result.verdict
        assert KINDS[int(metrics["batch_dependence/train/verdict"])] == result.verdict.kind, kind


# -- what is measured -------------------------------------------------------------------------------------------------


def test_every_quantity_of_a_judge_of_batches() -> None:
    result = batch_invariance(lambda x: judge_of_batches(x.flatten(1)), *images(256))
    assert result.verdict.kind == "judges batches"
    assert result.forward_coupling and result.gradient_coupling
    assert result.leak is not None and result.leak.ratio > 1
    assert result.companion_variance is not None and result.companion_variance > 0.9
    assert result.companion_shift is not None and result.companion_shift > 1
    assert result.uniformity is not None and result.uniformity.icc is not None and result.uniformity.icc.icc > 0.99
    assert [layer.name for layer in result.layers] == [""]
    assert result.mode == "unknown"


def test_a_judge_of_images_has_zeros() -> None:
    torch.manual_seed(0)
    result = batch_invariance(image_network(group_norm), *images())
    assert result.composition.auc_gap == result.composition.accuracy_gap == result.companion_variance == 0
    assert result.coupling is not None and result.coupling.ratio == 0
    assert result.layers == () and result.mode == "train"
    assert "leak ratio    0 within rounding" in repr(result)


def test_the_rows_of_the_matrix_are_of_real_images_and_of_fakes() -> None:
    result = batch_invariance(lambda x: x.square().sum(1), *torch.randn(2, 64, 3), batch_size=16)
    assert result.matrix is not None and result.matrix.shape == (4, 16)
    assert [row.nonzero().flatten().tolist() for row in result.matrix] == [[0], [1], [8], [9]]


def one_pair(x: Tensor) -> Tensor:
    """(N, K) -> (N,): the identity of sums, but the gradient of image 1 flows into logit 0 too."""
    y = x.flatten(1).sum(1)
    return torch.cat([y[:1] + (y[1:2] - y[1:2].detach()), y[1:]])


def test_one_coupled_pair_is_seen_with_every_seed() -> None:
    # With 4 random signs the estimate is exactly 0 for one seed in eight.
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    results = [
        batch_invariance(one_pair, x, -x, batch_size=8, generator=torch.Generator().manual_seed(seed))
        for seed in range(10)
    ]
    assert all(result.gradient_coupling and not result.forward_coupling for result in results)
    assert all([layer.name for layer in result.layers] == [""] for result in results)


def test_floors_are_given_only_where_they_are_floors() -> None:
    assert "floor" not in repr(batch_invariance(image_network(nn.BatchNorm2d), *images(), batch_size=16))

    def rounded(x: Tensor) -> Tensor:  # the order of summation depends on the place in the batch
        x = x.flatten(1).exp()
        return torch.where(torch.arange(len(x)) % 2 > 0, x.sum(1), x.flip(1).cumsum(1)[:, -1])

    result = batch_invariance(rounded, *images())
    swap = result.swap
    assert swap.verdict == "independent"
    assert swap.floor_ratio == result.to_dict()["swap"]["floor_ratio"] > 2**20
    expected = f"(floor {swap.floor_fp32:.2g} in fp32, {swap.floor_fp64:.2g} in fp64, ratio {swap.floor_ratio:.2g})"
    assert expected in repr(result)


def test_layers_of_a_batch_norm_network_are_named_in_each_mode() -> None:
    network = image_network(nn.BatchNorm2d)
    result = batch_invariance(network, *images(), batch_size=16)
    assert [layer.name for layer in result.layers] == ["1", "4"]
    assert "1 (BatchNorm2d), 4 (BatchNorm2d)" in repr(result)
    network.eval()
    assert not batch_invariance(network, *images(), batch_size=16).forward_coupling
    network[1].train()
    result = batch_invariance(network, *images(), batch_size=16)
    assert result.mode == "mixed"
    assert [layer.name for layer in result.layers] == ["1"]


def test_one_of_several_outputs_is_chosen_everywhere() -> None:
    def f(x: Tensor) -> dict[str, Tensor]:
        return {"features": x, "logit": company(x)}

    chosen = batch_invariance(f, *points(64), batch_size=16, output="logit")
    alone = batch_invariance(company, *points(64), batch_size=16)
    assert chosen.metrics() == alone.metrics()
    with pytest.raises(UserError, match="output"):
        batch_invariance(f, *points(64), batch_size=16)


def test_real_images_of_the_training_set_are_judged_beside_the_others() -> None:
    real, fake = points(64)
    known = real[:, 0].clone()

    def memorized(x: Tensor) -> Tensor:
        return x[:, 0] / 10 + 9 * torch.isin(x[:, 0], known)

    held_out = points(128)[0][64:]
    result = batch_invariance(memorized, held_out, fake, batch_size=16, cost="quick", training_real=real)
    assert result.auc_pure_training is not None and result.auc_pure_training.mean == 1
    assert result.composition.auc_pure < 0.99
    assert result.metrics()["auc_pure_training"] == 1
    assert "AUC 1.00" in repr(result) and "training set" in repr(result)


# -- the result -------------------------------------------------------------------------------------------------------


def test_metrics_are_finite_numbers_under_the_agreed_names() -> None:
    metrics = batch_invariance(company, *points(64), batch_size=16).metrics("batch_dependence/train/")
    assert all(isinstance(value, float) and abs(value) < float("inf") for value in metrics.values())
    agreed = {
        *("auc_pure", "auc_share_0.75", "auc_mixed", "auc_share_0.25", "auc_conflict", "auc_gap", "auc_conflict_low"),
        *("accuracy_pure", "accuracy_mixed", "accuracy_gap", "accuracy_conflict", "auc_same_batch"),
        *("logit_real_among_real", "logit_real_among_fake", "logit_fake_among_real", "logit_fake_among_fake"),
        *("decisions_follow_batch", "leak_own", "leak_context", "leak_context_real", "leak_context_fake"),
        *("leak_ratio", "leak_own_error", "leak_context_error", "companion_variance", "companion_shift"),
        *("coupling_ratio", "common_mode_gain", "gradient_change", "swap_max_change", "swap_bitwise_equal"),
        *("swap_floor_fp32", "swap_floor_fp64", "uniformity_icc", "uniformity_icc_low", "uniformity_icc_high"),
        *("uniformity_majority_share", "uniformity_sd_ratio", "verdict"),
    }
    assert {f"batch_dependence/train/{name}" for name in agreed} <= set(metrics)
    critic = batch_invariance(company, *points(64), batch_size=16, threshold=None, cost="quick").metrics()
    assert not [name for name in critic if name.startswith(("accuracy", "decisions", "leak", "uniformity"))]


def test_the_result_is_frozen_and_its_dictionary_is_strict_json() -> None:
    result = batch_invariance(lambda x: torch.ones(len(x)) + 0 * x.mean((1, 2, 3)), *images())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.mode = "eval"  # type: ignore[misc]
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content == result.to_dict()
    assert content["uniformity"]["icc"] is None  # constant logits
    assert content["common_mode_gain"] is None
    assert content["leak"]["ratio"] == 0
    assert len(content["matrix"]) == 4
    assert content["verdict"] == {"kind": "undecided", "reason": result.verdict.reason}
    assert len(content["composition"]["auc"]) == len(SHARES)
    assert "undefined (constant logits)" in repr(result)


def test_the_same_seed_gives_the_same_result_and_the_global_generator_is_not_used() -> None:
    network = image_network(nn.BatchNorm2d)
    state = torch.get_rng_state()
    draws = [torch.Generator().manual_seed(1) for _ in range(2)]
    results = [batch_invariance(network, *images(), batch_size=16, generator=generator) for generator in draws]
    assert results[0].to_dict() == results[1].to_dict()
    assert torch.equal(torch.get_rng_state(), state)


# -- one own image ----------------------------------------------------------------------------------------------------


def test_one_own_image_ends_the_curve_of_every_batch_size() -> None:
    """x + s·batch mean on ±1: a real image among N−1 fakes gets 1 − s(1 − 2/N), the mirrored fake the opposite.

    With s = 1.1 the order turns where |mean| > .909: at one own image of 32 or 64, and not at 4 of 64 or 1 of 8.
    """
    real = torch.ones(256, 1, dtype=torch.float64)
    for n, conflict, one_own in ((8, 1, 1), (32, 1, 0), (64, 1, 0)):
        judge = lambda x: x[:, 0] + 1.1 * x.mean()  # noqa: E731
        result = batch_invariance(judge, real, -real, batch_size=n, cost="quick", one_own=True)
        assert result.auc_one_own is not None and result.auc_one_own.mean == one_own
        assert result.composition.conflict.mean == conflict
        assert result.metrics()["auc_one_own"] == one_own
        assert result.verdict.kind == "judges images"  # by its five shares: the verdict reads no other


@pytest.mark.parametrize("name", ["company", "per image", "shift"])
def test_one_own_image_changes_no_other_number(name: str) -> None:
    f, spread, _, _ = GOLDEN[name]
    plain, more = (batch_invariance(f, *points(256, spread), one_own=asked) for asked in (False, True))
    added = {f"auc_one_own{end}" for end in ("", "_low", "_high")}
    assert more.metrics().keys() - plain.metrics().keys() == added
    assert {key: value for key, value in more.metrics().items() if key not in added} == plain.metrics()
    assert more.evidence == plain.evidence and Evidence.from_metrics(more.metrics()) == plain.evidence
    if more.composition.flat:
        assert more.auc_one_own == more.composition.pure


# -- cost -------------------------------------------------------------------------------------------------------------


def passes(monkeypatch: pytest.MonkeyPatch, network: nn.Module, cost: str) -> float:
    """Forward passes of 64 images, a backward pass through the whole network counted as two."""
    forwards: list[float] = []
    grad = torch.autograd.grad

    def counted(outputs: Tensor, *args: object, **options: object) -> object:
        forwards.append(2.0)
        return grad(outputs, *args, **options)  # type: ignore[arg-type]

    network.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0]) / 64))
    monkeypatch.setattr(torch.autograd, "grad", counted)
    result = batch_invariance(network, *images(256), cost=cost)
    assert result.composition.blocks == 4
    return sum(forwards)


@pytest.mark.parametrize("normalizer", [nn.BatchNorm2d, group_norm, lambda channels: nn.Dropout2d()])
def test_quick_takes_at_most_64_forward_passes(normalizer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes(monkeypatch, image_network(normalizer), "quick") <= 64


def test_full_takes_at_most_250_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Besides, the search for the coupled layers differentiates each of nine pieces by seven sign patterns: together
    # seven backward passes, which are counted here as 63, of 126 forward passes instead of 14.
    assert passes(monkeypatch, image_network(nn.BatchNorm2d), "full") <= 250 + 126 - 14
