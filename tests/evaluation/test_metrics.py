"""The scores of features against closed forms, brute force and torch-fidelity."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from gannorm.evaluation import metrics


def gaussians(features, n, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randn(n, features))


def both_solvers(fake, real):
    one, two = metrics.gaussian(fake), metrics.gaussian(real)
    return metrics.frechet_distance(one, two), metrics.frechet_distance_symmetric(one, two, metrics.matrix_root(two[1]))


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_frechet_distance_of_a_scaled_and_shifted_sample_is_the_closed_form(scale):
    real, shift = gaussians(12, 200), torch.linspace(-1, 2, 12, dtype=torch.float64)
    mean, covariance = metrics.gaussian(real)
    difference = scale * mean + shift.numpy() - mean
    expected = difference @ difference + (scale - 1) ** 2 * np.trace(covariance)  # the covariances commute
    for found in both_solvers(scale * real + shift, real):
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)  # float64, twelve eigenvalues


def test_the_two_solvers_agree_on_covariances_that_do_not_commute():
    mix = torch.from_numpy(np.random.RandomState(3).randn(40, 40))
    torch_fidelity, symmetric = both_solvers(gaussians(40, 500), gaussians(40, 400, seed=1) @ mix + 0.3)
    assert symmetric == pytest.approx(torch_fidelity, rel=1e-11)
    # The negative: eigvalsh of the product itself, which is not symmetric, is another number.
    sigma_f = np.cov(gaussians(40, 500), rowvar=False)
    sigma_r = np.cov(gaussians(40, 400, seed=1) @ mix, rowvar=False)
    wrong = np.sqrt(np.linalg.eigvalsh(sigma_f @ sigma_r).clip(0)).sum()
    right = np.sqrt(np.linalg.eigvals(sigma_f @ sigma_r).real).sum()
    assert abs(wrong - right) > 1


def test_inception_score_is_one_for_one_class_and_the_number_of_classes_for_all_alike():
    sharp = 100 * torch.eye(7)  # beyond 745, torch-fidelity takes the logarithm of 0
    assert metrics.inception_score(sharp[2].expand(70, 7), splits=10, seed=0) == pytest.approx((1, 0), abs=1e-12)
    score, spread = metrics.inception_score(sharp.repeat(10, 1), splits=1, seed=0)
    assert score == pytest.approx(7, rel=1e-12) and spread == 0  # e^−100 beside 1 is nothing in float64
    assert metrics.inception_score(torch.zeros(70, 7), splits=10, seed=0)[0] == pytest.approx(
        1
    )  # unsure is not diverse


def brute_force(fake, real):
    """Precision and recall by loops over images, with no matrix product."""

    def radius(cloud, i):
        return sorted((cloud[i] - other).norm() for j, other in enumerate(cloud) if j != i)[2]

    def share(points, centres):
        radii = [radius(centres, i) for i in range(len(centres))]
        inside = [any((p - c).norm() <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    return share(fake, real), share(real, fake)


def test_precision_and_recall_equal_a_loop_over_images():
    fake, real = gaussians(3, 30) * 0.7, gaussians(3, 40, seed=1) + 0.5
    found = metrics.precision_recall(fake, real, metrics.neighbourhood_radii(real))
    assert found == pytest.approx(brute_force(fake, real), abs=1e-6)  # shares are float32
    assert 0 < found[0] < 1 and 0 < found[1] < 1 and found[0] != found[1]


@pytest.mark.parametrize("features", [5, 40])  # torch.cdist subtracts below 26 and multiplies matrices above
def test_precision_and_recall_in_blocks_have_the_bits_of_torch_fidelity_in_memory(features, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 50)
    fake, real = gaussians(features, 173).float(), gaussians(features, 202, seed=1).float() * 1.1
    expected = prc_features_to_metric(fake, real, prc_batch_size=50, verbose=False)
    found = metrics.precision_recall(fake, real, metrics.neighbourhood_radii(real))
    assert found == (expected["precision"], expected["recall"])


def test_no_distance_matrix_is_larger_than_a_block(monkeypatch):
    sizes, cdist = [], torch.cdist
    monkeypatch.setattr(metrics, "BLOCK", 50)
    monkeypatch.setattr(torch, "cdist", lambda a, b: sizes.append(len(a) * len(b)) or cdist(a, b))
    real = gaussians(5, 202)
    metrics.precision_recall(gaussians(5, 173), real, metrics.neighbourhood_radii(real))
    assert max(sizes) == 50 * 50


def test_precision_and_recall_of_equal_clouds_are_one_and_of_distant_ones_zero():
    real = gaussians(4, 60)
    radii = metrics.neighbourhood_radii(real)
    assert metrics.precision_recall(real, real, radii) == (1, 1)
    assert metrics.precision_recall(real + 100, real, radii) == (0, 0)


def test_kernel_distance_of_halves_of_one_sample_is_near_zero_and_of_others_is_not():
    sample = gaussians(8, 400)
    distance = metrics.KernelDistance(sample[200:], 200, subsets=20, subset_size=100, seed=0)
    mean, spread = distance(sample[:200])
    assert abs(mean) < 3 * spread  # unbiased: either sign
    assert distance(sample[:200] + 1)[0] > 10 * spread


@pytest.mark.parametrize("features", [6, 700])  # below and above a block of a matrix product
def test_kernel_distance_has_the_bits_of_torch_fidelity(features):
    fake, real = gaussians(features, 230).float(), gaussians(features, 301, seed=1).float() * 1.1
    options = {"kid_subsets": 7, "kid_subset_size": 101, "rng_seed": 3}
    expected = kid_features_to_metric(fake, real, verbose=False, **options)
    distance = metrics.KernelDistance(real, 230, subsets=7, subset_size=101, seed=3)
    for _ in range(2):
        assert distance(fake) == tuple(expected[f"kernel_inception_distance_{k}"] for k in ("mean", "std"))


def test_kernel_distance_is_the_polynomial_mmd():
    fake, real = gaussians(3, 20), gaussians(3, 20, seed=1) + 0.4

    def kernel(a, b):
        return ((a * b).sum() / 3 + 1) ** 3

    n = 20
    within = sum(kernel(c[i], c[j]) for c in (fake, real) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(a, b) for a in fake for b in real) / n**2
    found, _ = metrics.KernelDistance(real, n, subsets=3, subset_size=20, seed=0)(fake)  # the whole sample each time
    assert found == pytest.approx(float(within - 2 * across), rel=1e-9)
