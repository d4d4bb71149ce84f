"""Composition gap, leak ratio and companion variance: functions of a batch whose logits are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support.toys import group_norm, image_network, judge_of_batches
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.probes import companion_shift, companion_variance, composition_gap, leak_ratio
from gannorm.probes.dependence.composition_curve import auc
from gannorm.probes.dependence.leak_ratio import _clustered_least_squares


def classes(n: int, *shape: int, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    real, fake = torch.randn(2, n, *shape, dtype=torch.float64, generator=generator)
    return real + shift, fake - shift


def first(x: Tensor) -> Tensor:
    return x[:, 0]


# -- composition ------------------------------------------------------------------------------------------------------


def test_judge_of_batches_is_perfect_on_pure_batches_and_at_chance_on_mixed() -> None:
    gap = composition_gap(judge_of_batches, *classes(512, 1), batch_size=64)
    assert gap.accuracy_pure == gap.auc_pure == 1
    # 16 mixed batches of one logit each: accuracy and AUC are near 1/2, by less than 4/√(12·16) for a uniform spread.
    assert abs(gap.accuracy_mixed - 0.5) < 0.1
    assert abs(gap.auc_mixed - 0.5) < 0.29
    assert gap.accuracy_gap == pytest.approx(1 - gap.accuracy_mixed)


def test_judge_of_images_has_exactly_no_gap() -> None:
    real, fake = classes(128, 3, 8, 8, shift=0.1)
    torch.manual_seed(0)
    gap = composition_gap(image_network(group_norm).double(), real, fake, batch_size=32)
    assert gap.accuracy_gap == gap.auc_gap == 0
    gap = composition_gap(image_network(nn.BatchNorm2d).double(), real, fake, batch_size=32)
    assert gap.auc_gap != 0


def test_accuracy_and_auc_are_those_of_the_logits() -> None:
    real, fake = classes(100, 1, shift=0.3)
    gap = composition_gap(first, real, fake, batch_size=25)
    logits = torch.cat([real, fake])[:, 0]
    labels = np.repeat([1, 0], 100)
    assert gap.auc_pure == gap.auc_mixed == pytest.approx(roc_auc_score(labels, logits.numpy()), abs=1e-12)
    assert gap.accuracy_pure == gap.accuracy_mixed == pytest.approx(((logits > 0).numpy() == labels).mean())


def test_auc_counts_ties_half() -> None:
    values, labels = torch.tensor([1.0, 2, 2, 3, 3, 3]), torch.tensor([0, 0, 1, 0, 1, 1])
    assert auc(values, labels == 1) == pytest.approx(roc_auc_score(labels, values))


def test_a_ragged_end_is_dropped_and_said() -> None:
    real, fake = classes(70, 1)
    gap = composition_gap(first, real, fake[:69], batch_size=16)
    assert (gap.images, gap.batch_size) == (64, 16)


def test_every_batch_has_the_stated_size_and_purity() -> None:
    seen: list[Tensor] = []
    real, fake = torch.ones(32, 1), -torch.ones(32, 1)
    composition_gap(lambda x: seen.append(x.mean()) or x[:, 0], real, fake, batch_size=8)
    means = torch.stack(seen)
    assert means[:8].tolist() == [1.0] * 4 + [-1.0] * 4
    assert (means[8:].abs() < 1).all()
    assert means[8:].sum() == 0


def test_patch_discriminators_are_averaged_over_their_map() -> None:
    real, fake = classes(32, 1, 4, 4)
    gap = composition_gap(lambda x: x, real, fake, batch_size=8)
    assert gap == composition_gap(lambda x: x.mean((1, 2, 3)), real, fake, batch_size=8)


def test_bad_batches_are_refused() -> None:
    real, fake = classes(32, 1)
    with pytest.raises(UserError, match="fill a batch of 64 each: got 32 and 32 images; pass more, or batch_size=32"):
        composition_gap(first, real, fake)
    with pytest.raises(UserError, match="got 32 and 7 images; pass at least 64 of each"):
        composition_gap(first, real, fake[:7])
    with pytest.raises(UserError, match="`batch_size` must be at least 2, for companions: got 1"):
        composition_gap(first, real, fake, batch_size=1)
    with pytest.raises(UserError, match="`batch_size` must be a multiple of 4, for quarters: got 10; try 8"):
        leak_ratio(first, real, fake, batch_size=10)


def test_images_of_two_kinds_are_refused_before_any_run() -> None:
    real, other, run = torch.randn(8, 3), torch.randn(8, 4), Never()
    with pytest.raises(UserError, match=r"one shape and structure: got \(3,\) and \(4,\) without the batch"):
        composition_gap(run, real, other, batch_size=4)
    with pytest.raises(UserError, match=r"got \(3,\) and \(3, 2\)"):
        leak_ratio(run, real, torch.randn(8, 3, 2), batch_size=4)
    with pytest.raises(UserError, match=r"got \(3,\) and \(4,\)"):
        companion_variance(run, real, other)
    with pytest.raises(UserError, match=r"got \{'x': \(3,\)\} and \{'y': \(3,\)\}"):
        composition_gap(run, {"x": real}, {"y": real}, batch_size=4)
    with pytest.raises(UserError, match=r"`batch_dim` must be .* got -5 for \(8, 3\)"):
        composition_gap(run, real, real, batch_size=4, batch_dim=-5)


class Never(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the network must not run")


# -- leak -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0.0, 0.5, -3.0])
def test_leak_ratio_recovers_the_coefficients_that_made_the_logits(context: float) -> None:
    real, fake = torch.ones(64, 1, dtype=torch.float64), torch.zeros(64, 1, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        others = (x.sum() - x[:, 0]) / (len(x) - 1)
        return 7 + 2 * x[:, 0] + context * others

    leak = leak_ratio(f, real, fake, batch_size=16)
    assert leak.own.value == pytest.approx(2, abs=1e-10)
    assert leak.context.value == pytest.approx(context, abs=1e-10)
    assert leak.ratio == pytest.approx(abs(context) / 2, abs=1e-10)


def test_no_context_effect_is_zero_up_to_rounding_and_not_merely_on_average() -> None:
    # The logits vary from image to image; a random design would leave a coefficient of the size of its standard error.
    real, fake = classes(64, 1, shift=0.1)
    leak = leak_ratio(first, real, fake, batch_size=16)
    assert leak.ratio < 1e-12
    assert leak.context.standard_error > 0.01


def test_standard_errors_are_clustered_by_batch() -> None:
    # Noise shared by a batch: coefficients scatter as their standard errors say (±45 %: 4 SE of 40 repetitions).
    real, fake = torch.ones(256, 1, dtype=torch.float64), torch.zeros(256, 1, dtype=torch.float64)
    generator, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    f = lambda x: x[:, 0] + torch.randn((), generator=noise, dtype=torch.float64)  # noqa: E731
    leaks = [leak_ratio(f, real, fake, 16, generator) for _ in range(40)]
    scatter = np.std([leak.context.value for leak in leaks])
    assert np.mean([leak.context.standard_error for leak in leaks]) == pytest.approx(scatter, rel=0.45)


def test_standard_errors_are_those_of_a_loop_over_clusters() -> None:
    # Cameron & Miller 2015, Eqs. 11 and 12: (X'X)⁻¹ Σ_g X_g'u_g u_g'X_g (X'X)⁻¹, G/(G−1)·(N−1)/(N−K) times.
    generator = torch.Generator().manual_seed(0)
    values, own, context = torch.randn(3, 5, 7, dtype=torch.float64, generator=generator).numpy()
    design = np.stack([np.ones_like(own), own, context], axis=2)
    flat, target = design.reshape(-1, 3), values.reshape(-1)
    bread = np.linalg.inv(flat.T @ flat)
    beta = bread @ flat.T @ target
    meat = np.zeros((3, 3))
    for g in range(5):
        score = design[g].T @ (values[g] - design[g] @ beta)
        meat += np.outer(score, score)
    covariance = 5 / 4 * 34 / 32 * bread @ meat @ bread
    found = _clustered_least_squares(*map(torch.from_numpy, (values, own, context)))
    assert [c.value for c in found] == pytest.approx(beta[1:], rel=1e-10)  # float64
    assert [c.standard_error for c in found] == pytest.approx(np.sqrt(np.diag(covariance))[1:], rel=1e-10)


def test_every_image_meets_every_share_equally_often() -> None:
    counts = torch.zeros(3, 64)
    shares: list[float] = []

    def f(x: Tensor) -> Tensor:
        share = (x < 32).double().mean().item()
        shares.append(share)
        counts[round(share * 4) - 1].index_add_(0, x[:, 0].long(), torch.ones(len(x)))
        return x[:, 0]

    leak_ratio(f, torch.arange(32.0)[:, None], torch.arange(32.0, 64)[:, None], batch_size=16)
    assert sorted(shares) == [0.25] * 8 + [0.5] * 8 + [0.75] * 8
    assert counts[:, :32].T.tolist() == [[1, 2, 3]] * 32
    assert counts[:, 32:].T.tolist() == [[3, 2, 1]] * 32


def test_constant_logits_have_no_leak_and_pure_context_an_infinite_one() -> None:
    real, fake = torch.ones(16, 1, dtype=torch.float64), torch.zeros(16, 1, dtype=torch.float64)
    for value in (1.0, 0.1, 1000.1):  # the last two are not exact, and neither is their mean
        constant = torch.full((16,), value, dtype=torch.float64)
        assert leak_ratio(lambda x, y=constant: y, real, fake, batch_size=16).ratio == 0
    # The mean of the others, which is all that this f sees.
    assert leak_ratio(lambda x: (x.sum() - x[:, 0]) / 15, real, fake, batch_size=16).ratio > 1e10


# -- companions -------------------------------------------------------------------------------------------------------


def test_companion_variance_has_its_closed_form_for_a_mean() -> None:
    # f_i = x_i − mean(batch), x fixed, companions ±1: Var_c f_i = (B−1)/B², Var_i E_c f_i = Var(x)·((B−1)/B)².
    size = 5
    x = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    companions = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    cvf = companion_variance(lambda x: x[:, 0] - x.mean(), x, companions, draws=1500, batch_size=size)
    within = (size - 1) / size**2
    between = x.var(correction=0).item() * ((size - 1) / size) ** 2
    assert cvf == pytest.approx(within / (within + between), rel=0.15)  # 1500 draws: a variance to 4 %


def test_companion_variance_is_one_if_only_companions_matter_and_zero_if_they_do_not() -> None:
    real, fake = classes(32, 3)
    assert companion_variance(lambda x: (x.sum() - x[0].sum()).expand(len(x)), real[:4], fake) == pytest.approx(1)
    assert companion_variance(first, real[:4], fake) == 0
    assert companion_shift(first, real[:4], real, fake) == 0


def test_companion_shift_has_its_closed_form() -> None:
    # f_i = x_i + mean of the others: companions all 1 against all 0 move it by 1; SD 1 of x, and 1/2 of the kinds.
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    ones, zeros = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    f = lambda x: x[:, 0] + (x.sum() - x[:, 0]) / (len(x) - 1)  # noqa: E731
    assert companion_shift(f, x, ones, zeros, batch_size=8) == pytest.approx(1 / math.sqrt(1 + 0.25), abs=1e-12)
    assert companion_shift(f, x, zeros, ones, batch_size=8) == pytest.approx(-1 / math.sqrt(1.25), abs=1e-12)
    company = lambda x: (x.sum() - x[:, 0]) / (len(x) - 1)  # noqa: E731
    assert companion_shift(company, x, ones, zeros, batch_size=8) == pytest.approx(2, abs=1e-12)  # nothing else matters


def test_companion_arguments_are_checked() -> None:
    real, fake = classes(8, 1)
    with pytest.raises(UserError, match="`draws` must be at least 2"):
        companion_variance(first, real, fake, draws=1)
    with pytest.raises(UserError, match="at least 1: got 0"):
        companion_shift(first, real, real, fake, draws=0)
    with pytest.raises(UserError, match="at least two samples: got 1"):
        companion_variance(first, real[:1], fake)
    with pytest.raises(UserError, match="`batch_size` must be at least 2"):
        companion_variance(first, real, fake, batch_size=1)
