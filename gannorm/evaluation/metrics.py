"""The four scores as functions of features, with the same bits as torch-fidelity's `calculate_metrics`.

torch-fidelity computes everything anew for each pair of inputs. Here whatever depends on the reference alone (its
covariance and matrix root, its kernels and neighbourhood radii) is computed once, and precision and recall are taken in
blocks, so that 50,000 images need no 10 GB of distances.

    N images, F features; "fake" is torch-fidelity's input1, "real" its input2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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

    The subsets and the kernels among the real images are the same for every generator and are computed once; the
    subsets are taken on as many threads as torch has. Neither changes a bit.

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
        self.real, self.fakes, self.pairs = real.numpy(), fakes, subset_size * (subset_size - 1)
        self.among_real = _on_threads(lambda index: _kernel_sum(self.real[index[1]]), self.indices)

    def __call__(self, fake: Tensor) -> tuple[float, float]:
        """(mean, std) of (N, F) fakes: 0 in expectation for equal distributions, either sign."""
        assert len(fake) == self.fakes, (len(fake), self.fakes)
        x = fake.numpy()

        def squared_mmd(work: tuple[list[np.ndarray], np.floating]) -> float:
            (fakes, reals), among_real = work
            between = _kernel(x[fakes], self.real[reals]).sum(axis=0).sum()
            return (_kernel_sum(x[fakes]) + among_real) / self.pairs - 2 * between / len(fakes) ** 2

        found = np.array(
            _on_threads(squared_mmd, list(zip(self.indices, self.among_real, strict=True))), dtype=np.float64
        )
        return float(np.mean(found)), float(np.std(found))


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


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from torch_fidelity.metric_kid import kernel_poly

    return kernel_poly(x, y)


def _kernel_sum(x: np.ndarray) -> np.floating:
    """Over all pairs of different images; the order of the sums is torch-fidelity's."""
    kernel = _kernel(x, x)
    return (kernel.sum(axis=1) - np.diagonal(kernel)).sum()


def _on_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    # NumPy's sums and powers use one core and hold no lock.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, items))


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, length, BLOCK))
