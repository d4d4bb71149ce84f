"""The rule of the verdict on plain numbers: golden cases, the order of the rules, and a round trip through metrics."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from gannorm.verdict import (
    CONFLICT,
    KINDS,
    MIXED,
    PURE,
    SHARES,
    Estimate,
    Evidence,
    Verdict,
    decide,
    over_runs,
)


def evidence(*aucs: float, half: float = 0.05, same_batch: float | None = 0.5, **more: object) -> Evidence:
    """A coupled network with these AUCs from pure to conflict, each ± half, and the differences that follow."""
    curve = {share: around(auc, half) for share, auc in zip(SHARES, aucs, strict=True)}
    falls = zip(SHARES[1:], (auc - aucs[0] for auc in aucs[1:]), strict=True)
    changes = {share: Estimate(fall, fall - half, fall + half) for share, fall in falls}
    numbers = Evidence(
        images=256,
        batch_size=64,
        forward_coupled=True,
        gradient_coupled=True,
        units=4,
        curve=curve,
        changes=changes,
        auc_images=around(aucs[0], half),
        same_batch=None if same_batch is None else around(same_batch, half),
    )
    return replace(numbers, **more)  # type: ignore[arg-type]


def around(mean: float, half: float) -> Estimate:
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0))


FLAT = (0.8, 0.8, 0.8, 0.8, 0.8)
FALLING = (0.9, 0.6, 0.3, 0.1, 0.02)
INDEPENDENT = {"forward_coupled": False, "gradient_coupled": False}

# (evidence, kind, words of the reason); the sentence of each kind for a newcomer stands here
GOLDEN = {
    "unrepeatable": (evidence(*FALLING, repeats=False), "undecided", "two calls on the same batch give different"),
    "constant": (evidence(*FLAT, constant=True, **INDEPENDENT), "undecided", "dead network judges nothing"),
    "saturated": (evidence(*FALLING, saturated=True), "undecided", "exactly 0 or exactly 1"),
    "independent": (evidence(*FLAT, **INDEPENDENT), "judges images", "no logit and no gradient depends on the other"),
    "wrong way": (evidence(*5 * [0.2], **INDEPENDENT), "undecided", "depend on the batch, and it ranks real"),
    "blind": (evidence(*5 * [0.52], **INDEPENDENT), "undecided", "the batch, and it does not separate"),
    "gradient only": (evidence(*FLAT, forward_coupled=False), "learns from batches", "but its gradients depend on"),
    "at chance": (evidence(0.53, 0.52, 0.5, 0.49, 0.47), "undecided", "does not separate real from fake: no AUC"),
    "batches": (evidence(*FALLING), "judges batches", "a real image among fakes is ranked below a fake among real"),
    "contrast, pure at chance": (
        evidence(0.5, 0.7, 0.9, 0.9, 0.9),
        "judges by contrast",
        "only where both share a batch",
    ),
    "pure reversed": (evidence(0.1, 0.2, 0.3, 0.3, 0.3), "undecided", "ranks pure batches the wrong way round"),
    "pure and mixed at chance": (evidence(0.52, 0.5, 0.5, 0.3, 0.1), "undecided", "not shown to separate pure batches"),
    "ranks unmoved": (evidence(0.9, 0.9, 0.91, 0.9, 0.89), "judges images", "moves its logits, but not its ranks"),
    "contrast, rising": (evidence(0.7, 0.75, 0.8, 0.9, 0.9), "judges by contrast", "where the other class is in the"),
    "both": (evidence(0.95, 0.9, 0.8, 0.7, 0.6), "judges both", "weaken its judgement, but do not reverse it"),
    "not monotone": (evidence(0.9, 0.6, 0.3, 0.5, 0.7), "undecided", "not monotone"),
    "unresolved": (evidence(0.8, 0.8, 0.75, 0.7, 0.7, half=0.15), "undecided", "the change of its AUC is not resolved"),
    "conflict at chance": (evidence(0.9, 0.8, 0.7, 0.6, 0.5), "undecided", "outweigh the image itself is not shown"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_case(name: str) -> None:
    numbers, kind, words = GOLDEN[name]
    verdict = decide(numbers)
    assert verdict.kind == kind
    assert words in verdict.reason
    assert str(verdict) == f"{kind}: {verdict.reason}"


def test_every_kind_has_a_golden_case() -> None:
    assert {kind for _, kind, _ in GOLDEN.values()} == set(KINDS)


@pytest.mark.parametrize(("same_batch", "order"), [(0.9, "right"), (0.5, "at chance"), (0.1, "the wrong way round")])
def test_a_judge_of_batches_says_how_it_ranks_within_one(same_batch: float, order: str) -> None:
    assert f"within one batch it ranks images {order}" in decide(evidence(*FALLING, same_batch=same_batch)).reason


def test_a_dead_network_is_undecided_whatever_else_holds() -> None:
    for numbers, _, _ in GOLDEN.values():
        for flag in ({"repeats": False}, {"constant": True}, {"saturated": True}):
            assert decide(replace(numbers, **flag)).kind == "undecided"  # type: ignore[arg-type]


def test_chance_is_tested_before_any_gap() -> None:
    # Pure shown above 0.5 and conflict below, each at 95 %, but neither of five at 99 %: with 4 blocks a half-width of
    # 0.05 becomes 0.05·t(3, .995)/t(3, .975) = 0.092.
    numbers = evidence(0.58, 0.5, 0.5, 0.5, 0.42)
    assert "does not separate real from fake" in decide(numbers).reason
    assert decide(replace(numbers, units=1000)).kind == "judges batches"  # there it is 0.066


def test_too_few_images_say_how_many_it_takes() -> None:
    few = evidence(*FALLING)
    few = replace(few, images=100, curve={share: Estimate(auc.mean) for share, auc in few.curve.items()}, changes={})
    assert "takes at least 256 images a class (4 batches of 64): got 100" in decide(few).reason


def test_a_network_that_no_batch_moves_is_judged_by_all_its_images() -> None:
    few = evidence(*FLAT, **INDEPENDENT)
    few = replace(few, images=100, curve={share: Estimate(auc.mean) for share, auc in few.curve.items()}, changes={})
    assert decide(few).kind == "judges images"


def test_a_layer_multiplied_by_zero_is_named() -> None:
    numbers = evidence(*FLAT, hidden_layers=2, hidden_names=("b", ""), **INDEPENDENT)
    assert "'b', the network's own code couples the batch, its effect multiplied by zero" in decide(numbers).reason
    read = Evidence.from_metrics(numbers.metrics())
    assert read is not None and "a layer couples the batch" in decide(read).reason


def test_without_a_conflict_end_nothing_is_decided() -> None:
    old = {"probe/train/auc_pure": 1.0, "probe/train/auc_mixed": 0.5, "probe/train/swap_bitwise_equal": 0.0}
    numbers = Evidence.from_metrics(old, "probe/train/")
    assert numbers is not None
    assert str(decide(numbers)) == "undecided: the conflict end was not measured"
    assert Evidence.from_metrics(old, "batch_dependence/train/") is None


def random_evidence(draw: random.Random) -> Evidence:
    half = draw.choice([None, 0.02, 0.1, 0.3])
    start, slope = draw.uniform(0, 1), draw.uniform(-0.2, 0.2)

    def estimate(mean: float, least: float = 0.0) -> Estimate:
        mean = max(min(mean + draw.uniform(-0.1, 0.1), 1.0), least)
        return Estimate(mean) if half is None else Estimate(mean, max(mean - half, least), min(mean + half, 1.0))

    return Evidence(
        images=draw.randint(8, 512),
        batch_size=draw.choice([8, 64]),
        units=draw.randint(1, 8),
        curve={share: estimate(start + i * slope) for i, share in enumerate(SHARES)},
        changes={share: estimate(i * slope, -1.0) for i, share in enumerate(SHARES) if i},
        auc_images=draw.choice([None, estimate(start)]),
        same_batch=draw.choice([None, estimate(0.5)]),
        forward_coupled=draw.random() < 0.8,
        gradient_coupled=draw.random() < 0.5,
        repeats=draw.random() < 0.95,
        constant=draw.random() < 0.05,
        saturated=draw.random() < 0.05,
    )


def test_what_the_probe_says_a_reader_of_its_metrics_says_too() -> None:
    draw = random.Random(0)
    kinds = set()
    for _ in range(2000):
        numbers = random_evidence(draw)
        written = json.loads(json.dumps(numbers.metrics("batch_dependence/train/")))
        assert all(isinstance(value, float | int) for value in written.values())
        read = Evidence.from_metrics({"loss/d": 1.0, **written}, "batch_dependence/train")
        assert read == numbers
        verdict = decide(numbers)
        assert decide(read) == verdict == over_runs([numbers])
        kinds.add(verdict.kind)
    assert kinds == set(KINDS)


def test_metrics_have_the_agreed_names() -> None:
    names = {
        *("auc_pure", "auc_share_0.75", "auc_mixed", "auc_share_0.25", "auc_conflict", "auc_conflict_low"),
        *("auc_same_batch", "auc_same_batch_high", "auc_change_conflict", "forward_coupled", "images"),
    }
    assert {f"x/{name}" for name in names} <= set(evidence(*FALLING).metrics("x/"))


# -- over runs --------------------------------------------------------------------------------------------------------


def test_a_shared_verdict_is_the_conditions() -> None:
    verdict = over_runs([evidence(*FALLING), evidence(0.8, 0.6, 0.4, 0.2, 0.1), evidence(*FALLING)])
    assert verdict.kind == "judges batches"
    assert verdict.reason.startswith("3 of 3 runs: a real image among fakes is ranked below a fake among real images")
    blind = evidence(*5 * [0.5])
    assert over_runs([blind, evidence(*5 * [0.51])]).reason.startswith("2 of 2 runs, 1 of them since its logits")
    assert over_runs([]) == Verdict("undecided", "no run was measured")


def test_two_runs_that_disagree_are_undecided() -> None:
    verdict = over_runs([evidence(*FALLING), evidence(0.95, 0.9, 0.8, 0.7, 0.6)])
    assert verdict.kind == "undecided"
    assert "the runs disagree (1 of 2 judges batches, 1 of 2 judges both)" in verdict.reason


def test_three_runs_that_disagree_are_decided_by_the_interval_over_runs() -> None:
    unresolved = evidence(0.9, 0.6, 0.3, 0.2, 0.45, half=0.09)
    assert decide(unresolved).kind == "undecided"
    close = [evidence(0.9, 0.6, 0.3, 0.1, conflict) for conflict in (0.38, 0.4)]
    verdict = over_runs([*close, unresolved])
    # conflict: mean 0.41, Student's half-width 4.30·0.036/√3 = 0.09
    assert verdict.kind == "judges batches"
    assert "the runs disagree (2 of 3 judges batches, 1 of 3 undecided); over 3 runs:" in verdict.reason
    wide = [evidence(0.9, 0.6, 0.3, 0.1, conflict) for conflict in (0.02, 0.3)]
    assert over_runs([*wide, evidence(0.9, 0.8, 0.7, 0.6, 0.6)]).kind == "undecided"


def test_runs_that_answer_nothing_count_in_no_interval() -> None:
    dead = evidence(*5 * [0.5], constant=True)
    runs = [evidence(0.9, 0.6, 0.3, 0.1, conflict) for conflict in (0.02, 0.03, 0.02)]
    verdict = over_runs([*runs, dead])
    assert verdict.kind == "judges batches"
    assert "over 3 runs" in verdict.reason
    assert over_runs([*runs[:2], dead]).kind == "undecided"


def test_gradients_count_as_tested_where_they_were_in_every_run() -> None:
    aucs = (0.9, 0.45, 0.4)
    runs = [evidence(*5 * [auc], gradient_tested=i > 1, **INDEPENDENT) for i, auc in enumerate(aucs)]
    for some in (runs, runs[::-1]):
        assert "gradients could not be tested" in over_runs(some).reason


def test_intervals_over_runs_end_where_an_auc_does() -> None:
    runs = [evidence(1.0, 0.9, 0.8, 0.7, conflict) for conflict in (0.6, 0.99, 0.2)]
    verdict = over_runs(runs)
    assert verdict.kind == "undecided"
    assert "1.00]" in verdict.reason and "[0.00" in verdict.reason


def test_an_interval_is_compared_by_the_bound_on_that_side() -> None:
    estimate = Estimate(0.8, 0.6, 0.9)
    assert estimate.above(0.5) and not estimate.above(0.7) and not estimate.below(0.85) and estimate.below(0.95)
    assert not estimate.above(0.5, wider=2.0)
    assert not Estimate(0.8).above(0.5) and not Estimate(0.2).below(0.5)
    assert str(estimate) == "0.80 [0.60, 0.90]" and str(Estimate(0.8)) == "0.80"
    assert {PURE, MIXED, CONFLICT} < set(SHARES)
