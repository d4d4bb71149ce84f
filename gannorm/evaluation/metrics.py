"""The four scores of features, by torch-fidelity's own functions: the bits are those of its `calculate_metrics`.

N images, F features; "fake" is torch-fidelity's input1, "real" its input2
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURHOOD = 3  # k = 3, as in Kynkäänniemi et al. 2019
DENSE = 10_000  # of more images, precision and recall are taken in blocks: three such matrices are 1.2 GB
KID_KERNELS = ("poly", "rbf")
CMMD_SIGMA = 10.0  # Jayasumana et al. 2024, of features of norm 1


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

    >>> import torch
    >>> round(inception_score(100 * torch.eye(5).repeat(4, 1), splits=1, seed=0)[0], 6)
    5.0
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    scores = isc_features_to_metric(logits, splits, True, seed)
    return scores[KEY_METRIC_ISC_MEAN], scores[KEY_METRIC_ISC_STD]


def gaussian(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and unbiased covariance (F, F) of (N, F) features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics = fid_features_to_statistics(features)
    return statistics["mu"], statistics["sigma"]


def frechet_distance(fake: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray]) -> float:
    """FID = ‖μ_f − μ_r‖² + tr Σ_f + tr Σ_r − 2 tr (Σ_f Σ_r)^½.

    Args:
        fake, real: (mean, covariance) of each.

    Returns:
        The squared Fréchet distance of two Gaussians, 0 where they are equal, up to rounding on either side.

    Source: Heusel et al. 2017, equation 6.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    (mu_f, sigma_f), (mu_r, sigma_r) = fake, real
    distance = fid_statistics_to_metric({"mu": mu_f, "sigma": sigma_f}, {"mu": mu_r, "sigma": sigma_r}, False)
    return distance[KEY_METRIC_FID]


def kernel_distance(
    fake: Tensor, real: Tensor, *, subsets: int, subset_size: int, seed: int, kernel: str = "poly"
) -> tuple[float, float]:
    """KID: the unbiased squared MMD, mean and standard deviation over random subsets.

    Args:
        fake, real: (N, F).
        subsets: how many.
        subset_size: images of each kind in a subset.
        seed: of the subsets.
        kernel: "poly": k(x, y) = (x·y/F + 1)³. "rbf": k(x, y) = exp(−‖x − y‖²/2σ²) with σ = 10 on features of norm 1,
            in float64: the kernel of CMMD, whose authors multiply the distance by 1000 and take all images at once.

    Returns:
        (mean, std): 0 in expectation for equal distributions, either sign.

    Source: Bińkowski et al. 2018 (poly); Jayasumana et al. 2024 (rbf).
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    if kernel == "rbf":
        fake, real = F.normalize(fake.double()), F.normalize(real.double())
    distance = kid_features_to_metric(
        fake,
        real,
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        kid_kernel=kernel,
        kid_kernel_rbf_sigma=CMMD_SIGMA,
        rng_seed=seed,
        verbose=False,
    )
    return distance[KEY_METRIC_KID_MEAN], distance[KEY_METRIC_KID_STD]


def precision_recall(fake: Tensor, real: Tensor) -> tuple[float, float]:
    """Precision: the share of fakes inside a real image's ball. Recall: the share of real images inside a fake's ball.

    An image's ball reaches to its third-nearest neighbour among its own kind.

    Args:
        fake, real: (N, F).

    Returns:
        (precision, recall) in [0, 1]; 0 where no image lies on the other's manifold. The bits are those of
        `calculate_metrics(save_cpu_ram=…)`: False up to `DENSE` images, True above.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    in_blocks = max(len(fake), len(real)) > DENSE
    shares = prc_features_to_metric(fake, real, prc_neighborhood=NEIGHBOURHOOD, save_cpu_ram=in_blocks, verbose=False)
    return shares[KEY_METRIC_PRECISION], shares[KEY_METRIC_RECALL]
