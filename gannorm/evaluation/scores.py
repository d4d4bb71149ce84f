"""Scores of a generator, none of which can be quoted without its protocol.

Two toolkits give one model inception scores and FIDs that differ by more than two models do, because they differ in
split, sample count, extractor or normalization statistics. So a score here carries all of these, equals that of
torch-fidelity's own `calculate_metrics` bit for bit on the same images, and stands beside the floor of real images.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.evaluation import metrics
from gannorm.evaluation.arithmetic import undisturbed
from gannorm.evaluation.extractors import Extractor, build_extractor
from gannorm.evaluation.reference import load_reference, versions
from gannorm.evaluation.sampling import STANDING_SAMPLES, check_generator, generated
from gannorm.registry import choices


@dataclass(frozen=True, repr=False)
class Scores:
    """IS, FID, KID, precision and recall of one generator, and how they were measured.

    Attributes:
        inception_score: [1, classes], higher is better; None through an extractor without class probabilities.
        inception_score_std: over splits of one sample, not over training seeds.
        inception_score_real: of the real images: the ceiling.
        fid: ≥ 0, lower is better.
        fid_floor: FID of one half of the real images against the other.
        kid: 0 in expectation for equal distributions, lower is better.
        kid_std: over subsets.
        precision: share of fakes that lie among the real images, [0, 1].
        recall: share of real images that lie among the fakes, [0, 1].
        seconds: wall time of this scoring.
        protocol: everything that the numbers depend on.
        seconds_by_part: of the wall time: "extractor"; "generator", with what prepares it; "scores" from the features.
    """

    inception_score: float | None
    inception_score_std: float | None
    inception_score_real: float | None
    fid: float
    fid_floor: float
    kid: float
    kid_std: float
    precision: float
    recall: float
    seconds: float
    protocol: Mapping[str, Any]
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)  # empty in records of older versions

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __repr__(self) -> str:
        p, inception = self.protocol, (self.inception_score, self.inception_score_std, self.inception_score_real)
        first = "" if None in inception else "IS {:.3f} ± {:.3f} (real {:.3f})   ".format(*inception)
        return (
            f"{first}FID {self.fid:.3f} (floor {self.fid_floor:.3f})   KID {self.kid:.5f} ± {self.kid_std:.5f}   "
            f"precision {self.precision:.3f}   recall {self.recall:.3f}\n"
            f"{p['fake_images']} fakes, {p['statistics']} statistics{', EMA' if p['ema'] else ''}, against "
            f"{p['real_images']} images of {p['dataset']}/{p['split']}; {p['extractor']} "
            f"{p['extractor_weights_sha256'][:8]}, seed {p['seed']}, {p['inception_splits']} splits"
        )


class Evaluator:
    """Extractor and reference of one dataset, built once, to score any number of generators.

    Args:
        dataset: the real images; all of them are the reference.
        extractor: a name for `build_extractor`, or what it returned; by default Inception for colour images and the
            in-domain classifier for others.
        samples: fakes per score; by default as many as there are real images, at most 50,000.
        batch_size: images in a generator and extractor batch.
        splits: parts for the inception score.
        kid_subsets: random subsets for KID, each of 1000 images, or half of the smaller set if that is fewer.
        seed: of latents, splits and subsets; 2020 is torch-fidelity's.
        kid_kernel: "poly", or "rbf" for that of CMMD, meant for CLIP: see `metrics.kernel_distance`.
        device: of the extractor; the best there is by default. A generator runs where it is.
        quiet: hide the progress bars; None: show them on a terminal alone.

    Raises:
        UserError: too few images, or an extractor that cannot see them.

    Warns:
        UserWarning: fewer images than features, so that a covariance has no full rank.
    """

    def __init__(
        self,
        dataset: Images,
        *,
        extractor: str | Extractor | None = None,
        samples: int | None = None,
        batch_size: int = 64,
        splits: int = 10,
        kid_subsets: int = 100,
        seed: int = 2020,
        kid_kernel: str = "poly",
        device: torch.device | str | None = None,
        quiet: bool | None = None,
    ) -> None:
        _must_be_images(dataset)
        if kid_kernel not in metrics.KID_KERNELS:
            raise UserError(f"unknown kid_kernel {kid_kernel!r}: {choices(kid_kernel, metrics.KID_KERNELS)}")
        if not 0 <= seed < 2**32:
            raise UserError(f"`seed` must be in [0, 2³²), which NumPy takes: got {seed}.")
        self.dataset, self.batch_size, self.splits, self.seed = dataset, batch_size, splits, seed
        self.kid_subsets, self.kid_kernel = kid_subsets, kid_kernel
        self.quiet = quiet
        self.samples = count_samples(dataset, samples, batch_size, splits, kid_subsets)
        if not isinstance(extractor, Extractor):
            extractor = build_extractor(extractor, dataset, device=device)
        self.extractor = extractor
        with undisturbed():
            self.reference = load_reference(
                dataset, extractor, batch_size=batch_size, splits=splits, seed=seed, quiet=self.quiet
            )
        dimension, fewest = len(self.reference.mean), min(len(dataset), self.samples)
        if fewest <= dimension:
            warnings.warn(
                f"FID wants more images than features: {fewest} images, {dimension} features of {extractor.name}; "
                "compare this score only with others of the same counts.",
                stacklevel=2,
            )

    def score(
        self, generator: nn.Module, *, latent_dim: int | None = None, statistics: str = "running", ema: bool = False
    ) -> Scores:
        """Score one generator, which is left bit for bit as it was.

        Args:
            generator: (N, Z) → (N, C, H, W) in [−1, 1].
            latent_dim: Z; by default the generator's attribute of this name.
            statistics: "running", "batch" or "standing": see `sampling.generated`.
            ema: whether these are averaged weights, for the protocol.

        Raises:
            UserError: a generator of another image shape, or with images outside [−1, 1].
        """
        begin = time.perf_counter()
        layers, reference = self.extractor.layers, self.reference
        with undisturbed():
            torch.manual_seed(self.seed)  # layers that draw noise: a score is a function of its protocol
            latent_dim = check_generator(
                generator, self.dataset, latent_dim=latent_dim, statistics=statistics, batch_size=self.batch_size
            )
            with (
                tqdm(total=self.samples, desc="generated images", unit="img", leave=False, disable=self.quiet) as bar,
                generated(
                    generator,
                    self.samples,
                    latent_dim=latent_dim,
                    batch_size=self.batch_size,
                    seed=self.seed,
                    statistics=statistics,
                ) as batches,
            ):
                fake, extraction = self.extractor.features(batches, bar)
            drawn = time.perf_counter()
            score, score_std = None, None
            if self.extractor.classifies:
                score, score_std = metrics.inception_score(fake[layers["isc"]], self.splits, self.seed)
            kid, kid_std = metrics.kernel_distance(
                fake[layers["kid"]],
                reference.features[layers["kid"]],
                subsets=self.kid_subsets,
                subset_size=self.kid_subset_size,
                seed=self.seed,
                kernel=self.kid_kernel,
            )
            precision, recall = metrics.precision_recall(fake[layers["prc"]], reference.features[layers["prc"]])
            fid = metrics.frechet_distance(
                metrics.gaussian(fake[layers["fid"]]), (reference.mean, reference.covariance)
            )
        end = time.perf_counter()
        return Scores(
            inception_score=score,
            inception_score_std=score_std,
            inception_score_real=reference.inception_score,
            fid=fid,
            fid_floor=reference.floor,
            kid=kid,
            kid_std=kid_std,
            precision=precision,
            recall=recall,
            seconds=end - begin,
            protocol=self.protocol(statistics, ema),
            seconds_by_part={"generator": drawn - begin - extraction, "extractor": extraction, "scores": end - drawn},
        )

    @property
    def kid_subset_size(self) -> int:
        # Half at most: subsets of the whole sample would all be the same one, and their spread 0.
        return min(1000, min(len(self.dataset), self.samples) // 2)

    def protocol(self, statistics: str, ema: bool) -> dict[str, Any]:
        """Everything that a score depends on, as plain JSON values."""
        return {
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "fingerprint": self.dataset.fingerprint,
            "real_images": len(self.dataset),
            "fake_images": self.samples,
            "statistics": statistics,
            "standing_samples": STANDING_SAMPLES if statistics == "standing" else None,
            "ema": ema,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "inception_splits": self.splits,
            "kid_subsets": self.kid_subsets,
            "kid_subset_size": self.kid_subset_size,
            "neighbours": metrics.NEIGHBOURHOOD,
            "kid_kernel": self.kid_kernel,
            "extractor": self.extractor.name,
            "extractor_weights_sha256": self.extractor.weights_sha256,
            "extractor_held_out_accuracy": self.extractor.card.get("held_out_accuracy"),
            "layers": dict(self.extractor.layers),
            "device": self.extractor.device.type,
            "versions": versions(),
        }


def count_samples(
    dataset: Images, samples: int | None = None, batch_size: int = 64, splits: int = 10, kid_subsets: int = 100
) -> int:
    """How many fakes a score takes: `samples`, by default as many as there are real images, at most 50,000.

    Raises:
        UserError: counts with which there is no score.
    """
    samples = min(len(dataset), 50_000) if samples is None else samples
    if batch_size < 1 or splits < 1 or kid_subsets < 1:
        raise UserError(
            f"batch_size, splits and kid_subsets must be at least 1: got {batch_size}, {splits}, {kid_subsets}."
        )
    least = max(splits, 2 * (metrics.NEIGHBOURHOOD + 1))
    for kind, count in (("samples", samples), (f"images of {dataset.name}", len(dataset))):
        if count < least:
            raise UserError(
                f"{splits} inception splits and {metrics.NEIGHBOURHOOD} neighbours need at least {least} images: got "
                f"{count} {kind}; take more images or fewer splits."
            )
    return samples


def evaluate(
    generator: nn.Module,
    dataset: Images,
    *,
    latent_dim: int | None = None,
    statistics: str = "running",
    ema: bool = False,
    **options: Any,
) -> Scores:
    """Score one generator against real images; `Evaluator` scores many for the price of one set-up.

    Args:
        generator, latent_dim, statistics, ema: see `Evaluator.score`.
        dataset, options: see `Evaluator`.

    Raises:
        UserError: what does not fit is said before the long part starts.
    """
    _must_be_images(dataset)
    batch = {"batch_size": max(1, options["batch_size"])} if "batch_size" in options else {}
    check_generator(generator, dataset, latent_dim=latent_dim, statistics=statistics, **batch)
    return Evaluator(dataset, **options).score(generator, latent_dim=latent_dim, statistics=statistics, ema=ema)


def _must_be_images(dataset: Any) -> None:
    if not isinstance(dataset, Images):
        raise UserError(
            f"the real images must be gannorm.data.Images: got {type(dataset).__name__}; wrap uint8 pixels "
            '(N, C, H, W) as Images(pixels, labels or None, class names or (), "my data", "train").'
        )
