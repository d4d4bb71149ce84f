"""The scores of features against closed forms, brute force and torch-fidelity."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from gannorm.evaluation import metrics


def gaussians(features, n, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randn(n, features))


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_frechet_distance_of_a_scaled_and_shifted_sample_is_the_closed_form(scale):
    real, shift = gaussians(12, 200), torch.linspace(-1, 2, 12, dtype=torch.float64)
    mean, covariance = metrics.gaussian(real)
    difference = scale * mean + shift.numpy() - mean
    expected = difference @ difference + (scale - 1) ** 2 * np.trace(covariance)  # the covariances commute
    distance = metrics.frechet_distance(metrics.gaussian(scale * real + shift), (mean, covariance))
    assert distance == pytest.approx(expected, rel=1e-10, abs=1e-10)  # float64, twelve eigenvalues


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


@pytest.mark.parametrize("dense", [10, 100])  # in blocks, and at once
def test_precision_and_recall_equal_a_loop_over_images(dense, monkeypatch):
    monkeypatch.setattr(metrics, "DENSE", dense)
    fake, real = gaussians(3, 30) * 0.7, gaussians(3, 40, seed=1) + 0.5
    shares = metrics.precision_recall(fake, real)
    assert shares == pytest.approx(brute_force(fake, real), abs=1e-6)  # shares are float32
    assert 0 < shares[0] < 1 and 0 < shares[1] < 1 and shares[0] != shares[1]


@pytest.mark.parametrize("dense", [100, 300])
def test_precision_and_recall_have_the_bits_of_torch_fidelity(dense, monkeypatch):
    monkeypatch.setattr(metrics, "DENSE", dense)
    fake, real = gaussians(40, 173).float(), gaussians(40, 202, seed=1).float() * 1.1
    expected = prc_features_to_metric(fake, real, save_cpu_ram=dense == 100, verbose=False)
    assert metrics.precision_recall(fake, real) == (expected["precision"], expected["recall"])


def test_many_images_take_their_distances_in_blocks(monkeypatch):
    """50,000 images at once would take 10 GB a matrix."""
    seen = []
    monkeypatch.setattr(
        "torch_fidelity.metric_prc.calculate_precision_recall_part", lambda *a: seen.append(1) or (0, 0)
    )
    metrics.precision_recall(gaussians(1, 50), gaussians(1, 50))
    assert seen == []
    metrics.precision_recall(gaussians(1, 50), gaussians(1, metrics.DENSE + 1))
    assert seen == [1]


def test_precision_and_recall_of_equal_clouds_are_one_and_of_distant_ones_zero():
    real = gaussians(4, 60)
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.precision_recall(real + 100, real) == (0, 0)


@pytest.mark.parametrize("kernel", metrics.KID_KERNELS)
def test_kernel_distance_of_halves_of_one_sample_is_near_zero_and_of_others_is_not(kernel):
    sample = gaussians(8, 400)
    options = {"subsets": 20, "subset_size": 100, "seed": 0, "kernel": kernel}
    mean, spread = metrics.kernel_distance(sample[:200], sample[200:], **options)
    assert abs(mean) < 3 * spread  # unbiased: either sign
    assert metrics.kernel_distance(sample[:200] + 1, sample[200:], **options)[0] > 10 * spread


@pytest.mark.parametrize("features", [6, 700])  # below and above a block of a matrix product
def test_kernel_distance_has_the_bits_of_torch_fidelity(features):
    fake, real = gaussians(features, 230).float(), gaussians(features, 301, seed=1).float() * 1.1
    expected = kid_features_to_metric(fake, real, verbose=False, kid_subsets=7, kid_subset_size=101, rng_seed=3)
    distance = metrics.kernel_distance(fake, real, subsets=7, subset_size=101, seed=3)
    assert distance == tuple(expected[f"kernel_inception_distance_{k}"] for k in ("mean", "std"))


def polynomial(a, b):
    return ((a * b).sum() / 3 + 1) ** 3


def of_cmmd(a, b):
    return torch.exp(-(a / a.norm() - b / b.norm()).square().sum() / (2 * 10.0**2))


@pytest.mark.parametrize("name,kernel", [("poly", polynomial), ("rbf", of_cmmd)])
def test_kernel_distance_is_the_unbiased_mmd_of_its_kernel(name, kernel):
    fake, real = gaussians(3, 20), gaussians(3, 20, seed=1) + 0.4
    n = 20
    within = sum(kernel(c[i], c[j]) for c in (fake, real) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(a, b) for a in fake for b in real) / n**2
    # The whole sample is each subset. Kernels of CMMD differ from 1 by a hundredth: their differences lose digits.
    distance, _ = metrics.kernel_distance(fake, real, subsets=3, subset_size=n, seed=0, kernel=name)
    assert distance == pytest.approx(float(within - 2 * across), rel=1e-9, abs=1e-13)
