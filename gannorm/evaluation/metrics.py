"""The four scores as functions of features, with the same bits as torch-fidelity's `calculate_metrics`.

torch-fidelity computes everything anew for each pair of inputs. Here whatever depends on the reference alone (its
covariance and matrix root, its kernels and neighbourhood radii) is computed once, and precision and recall are taken in
blocks, so that 50,000 images need no 10 GB of distances.

    N images, F features; "fake" is torch-fidelity's input1, "real" its input2
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

NEIGHBOURHOOD = 3  # k = 3, as in Kynkäänniemi et al. 2019
BLOCK = 10_000  # torch-fidelity's prc_batch_size: equal blocks give equal bits


def inception_score(logits: Tensor, splits: int, seed: int) -> tuple[float, float]:
    """IS = exp(E_x KL(p(y|x) ‖ p(y))), mean and standard deviation over splits of the shuffled sample.

    Args:
        logits: (N, K).
        splits: how many parts.
        seed: of the shuffling.

    Returns:
        (mean, std): mean in [1, K], 1 where every image gets the same class probabilities. The std is over splits of
        one sample; it says nothing about other training seeds.

    Source: Salimans et al. 2016, section 4.

    >>> round(inception_score(100 * torch.eye(5).repeat(4, 1), splits=1, seed=0)[0], 6)
    5.0
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    found = isc_features_to_metric(logits, splits, True, seed)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]


def gaussian(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and unbiased covariance (F, F) of (N, F) features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    found = fid_features_to_statistics(features)
    return found["mu"], found["sigma"]


def frechet_distance(fake: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray]) -> float:
    """FID = ‖μ_f − μ_r‖² + tr Σ_f + tr Σ_r − 2 tr (Σ_f Σ_r)^½, by torch-fidelity's own arithmetic.

    Args:
        fake, real: (mean, covariance) of each.

    Returns:
        The squared Fréchet distance of two Gaussians, 0 where they are equal, up to rounding on either side.

    Source: Heusel et al. 2017, equation 6.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    (mu_f, sigma_f), (mu_r, sigma_r) = fake, real
    return fid_statistics_to_metric({"mu": mu_f, "sigma": sigma_f}, {"mu": mu_r, "sigma": sigma_r}, False)[
        KEY_METRIC_FID
    ]


def matrix_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root Σ^½ of a positive semi-definite (F, F) matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance_symmetric(
    fake: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray], root: np.ndarray
) -> float:
    """The same distance from the eigenvalues of Σ_r^½ Σ_f Σ_r^½, which are those of Σ_f Σ_r and come many times faster.

    It differs from `frechet_distance` by rounding alone: about 1e-12 of it where both covariances have full
    rank, 1e-8 where there are fewer images than features and both take square roots of rounding errors.

    Args:
        fake, real: (mean, covariance) of each.
        root: matrix_root of the real covariance, computed once.

    Source: defined here (similar matrices share their eigenvalues).

    >>> one, two = (np.zeros(2), np.eye(2)), (np.ones(2), 4 * np.eye(2))  # ‖1‖² + 2·(1 − 2)²
    >>> round(frechet_distance_symmetric(one, two, matrix_root(two[1])), 12)
    4.0
    """
    (mu_f, sigma_f), (mu_r, sigma_r) = fake, real
    product = root @ sigma_f @ root
    values = np.linalg.eigvalsh((product + product.T) / 2)
    difference = mu_f - mu_r
    trace = np.trace(sigma_f) + np.trace(sigma_r) - 2 * np.sqrt(values.clip(0)).sum()
    return float(difference.dot(difference) + trace)


class KernelDistance:
    """KID: the unbiased squared MMD under k(x, y) = (x·y/F + 1)³, mean and standard deviation over random subsets.

    The subsets and the kernels among the real images are the same for every generator and are computed once, and all
    kernels are computed in one place in memory: the bits are torch-fidelity's, in about three quarters of its time. It
    is still the one dear score beside a small extractor: on 1438 digits and one core, scoring takes 1.7 times the bare
    passes of generator and extractor with 100 subsets, and 1.06 times without KID.

    Args:
        real: (N, F).
        fakes: how many there will be.
        subsets: how many.
        subset_size: images of each kind in a subset.
        seed: of the subsets.

    Source: Bińkowski et al. 2018.
    """

    def __init__(self, real: Tensor, fakes: int, subsets: int, subset_size: int, seed: int) -> None:
        draw = np.random.RandomState(seed)
        sizes = (fakes, len(real))  # torch-fidelity draws from both in turn
        self.indices = [[draw.choice(n, subset_size, replace=False) for n in sizes] for _ in range(subsets)]
        self.real, self.fakes, self.size = real.numpy(), fakes, subset_size
        space = self._space()
        self.among_real = [_sum_of_pairs(self.real[index], space) for _, index in self.indices]

    def __call__(self, fake: Tensor) -> tuple[float, float]:
        """(mean, std) of (N, F) fakes: 0 in expectation for equal distributions, either sign."""
        assert len(fake) == self.fakes, (len(fake), self.fakes)
        found, space, n = [], self._space(), self.size
        for (fakes, reals), among_real in zip(self.indices, self.among_real, strict=True):
            x, y = fake.numpy()[fakes], self.real[reals]
            within = (_sum_of_pairs(x, space) + among_real) / (n * (n - 1))
            found.append(within - 2 * _kernel(x, y, space).sum(axis=0).sum() / (n * n))
        return float(np.mean(found, dtype=np.float64)), float(np.std(found, dtype=np.float64))

    def _space(self) -> np.ndarray:
        return np.empty((self.size, self.size), self.real.dtype)


def neighbourhood_radii(features: Tensor) -> Tensor:
    """(N,) distance of each image to its third-nearest neighbour among the others: the balls that make the manifold."""
    nearest = NEIGHBOURHOOD + 1  # each image is its own nearest
    radii = []
    for rows in features.split(BLOCK):
        kept = [
            distances.topk(min(nearest, distances.shape[1]), largest=False).values
            for distances in (torch.cdist(rows, columns) for columns in features.split(BLOCK))
        ]
        radii.append(torch.cat(kept, dim=1).kthvalue(nearest).values)
    return torch.cat(radii)


def precision_recall(fake: Tensor, real: Tensor, real_radii: Tensor) -> tuple[float, float]:
    """Precision: the share of fakes inside a real image's ball. Recall: the share of real images inside a fake's ball.

    Args:
        fake, real: (N, F).
        real_radii: `neighbourhood_radii(real)`.

    Returns:
        (precision, recall) in [0, 1]; 0 where no image lies on the other's manifold.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2.
    """
    fake_radii = neighbourhood_radii(fake)
    fake_inside = np.zeros(len(fake), dtype=bool)
    real_inside = np.zeros(len(real), dtype=bool)
    for rows in _blocks(len(real)):
        for columns in _blocks(len(fake)):
            distances = torch.cdist(real[rows], fake[columns])  # once, for both: as torch-fidelity's in-memory mode
            real_inside[rows] |= (distances <= fake_radii[columns]).numpy().any(axis=1)
            fake_inside[columns] |= (distances <= real_radii[rows, None]).numpy().any(axis=0)
    precision, recall = (torch.from_numpy(inside).float().mean().item() for inside in (fake_inside, real_inside))
    return precision, recall


def _kernel(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(n, n) of (x·y/F + 1)³, written into `out`: fresh memory for each step costs as much as the arithmetic."""
    np.matmul(x, y.T, out=out)
    out *= 1.0 / x.shape[1]
    out += 1.0
    return np.power(out, 3, out=out)


def _sum_of_pairs(x: np.ndarray, space: np.ndarray) -> np.floating:
    """The kernel's sum over all pairs of different images; the order of the sums is torch-fidelity's."""
    kernel = _kernel(x, x, space)
    return (kernel.sum(axis=1) - np.diagonal(kernel)).sum()


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, length, BLOCK))
