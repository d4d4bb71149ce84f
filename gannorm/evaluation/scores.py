"""Scores of a generator, each with its protocol.

Two toolkits give one model inception scores and FIDs that differ by more than two models do, because they differ in
split, sample count, extractor or normalization statistics. So a score here carries all of these, equals that of
torch-fidelity's own `calculate_metrics` bit for bit on the same images, and is reported with the floor of real images.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gannorm.arithmetic import undisturbed
from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.evaluation import metrics
from gannorm.evaluation.extractors import Extractor, build_extractor
from gannorm.evaluation.generators import Output, Range, Sampler, sampler, warn_of_no_picture
from gannorm.evaluation.inputs import given_images, grey_if, is_given, real_images
from gannorm.evaluation.reference import load_reference, versions
from gannorm.evaluation.ruler import batch_dependence
from gannorm.evaluation.sampling import STANDING_SAMPLES, check_generator, generated, image_shape, require_one_shape
from gannorm.registry import choices

GIVEN = "given"  # as `statistics`: images that are there already
OWN = "own"  # as `statistics`: a function of the number of images decides itself


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
        how = "given images" if p["statistics"] == GIVEN else f"fakes, {p['statistics']} statistics"
        return (
            f"{first}FID {self.fid:.3f} (floor {self.fid_floor:.3f})   KID {self.kid:.5f} ± {self.kid_std:.5f}   "
            f"precision {self.precision:.3f}   recall {self.recall:.3f}\n"
            f"{p['fake_images']} {how}{', EMA' if p['ema'] else ''}, against "
            f"{p['real_images']} images of {p['dataset']}/{p['split']}; {p['extractor']} "
            f"{p['extractor_weights_sha256'][:8]}, seed {p['seed']}, {p['inception_splits']} splits"
        )


class Evaluator:
    """Extractor and reference of one dataset, built once, to score any number of generators.

    Args:
        dataset: the real images; all of them are the reference.
        extractor: a name for `build_extractor`, or what it returned; by default Inception for colour images and the
            in-domain classifier for others.
        training: the images that an in-domain extractor learns from; by default `dataset`.
        weights, sha256: of the extractor, see `build_extractor`.
        samples: fakes per score; by default as many as there are real images, or all that are given, at most 50,000.
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
        training: Images | None = None,
        weights: str | os.PathLike[str] | None = None,
        sha256: str | None = None,
        samples: int | None = None,
        batch_size: int = 64,
        splits: int = 10,
        kid_subsets: int = 100,
        seed: int = 2020,
        kid_kernel: str = "poly",
        device: torch.device | str | None = None,
        quiet: bool | None = None,
    ) -> None:
        if not isinstance(dataset, Images):
            raise UserError(
                f"an Evaluator takes gannorm.data.Images: got {type(dataset).__name__}; `evaluate` takes more."
            )
        if kid_kernel not in metrics.KID_KERNELS:
            raise UserError(f"unknown kid_kernel {kid_kernel!r}: {choices(kid_kernel, metrics.KID_KERNELS)}")
        if not 0 <= seed < 2**32:
            raise UserError(f"`seed` must be in [0, 2³²), which NumPy takes: got {seed}.")
        self.dataset, self.batch_size, self.splits, self.seed = dataset, batch_size, splits, seed
        self.kid_subsets, self.kid_kernel = kid_subsets, kid_kernel
        self.quiet = quiet
        self.asked_samples = samples
        self.samples = count_samples(dataset, samples, batch_size, splits, kid_subsets)
        if not isinstance(extractor, Extractor):
            extractor = build_extractor(extractor, training or dataset, weights=weights, sha256=sha256, device=device)
        self.extractor = extractor
        with undisturbed():
            self.reference = load_reference(
                dataset, extractor, batch_size=batch_size, splits=splits, seed=seed, quiet=self.quiet
            )
            self.batch_dependence = batch_dependence(extractor, tuple(dataset.pixels.shape[1:]))
        dimension, fewest = len(self.reference.mean), min(len(dataset), self.samples)
        if fewest <= dimension:
            warnings.warn(
                f"FID wants more images than features: {fewest} images, {dimension} features of {extractor.name}; "
                "compare this score only with others of the same counts.",
                stacklevel=2,
            )

    def score(
        self,
        generator: Any,
        *,
        statistics: str = "running",
        ema: bool = False,
        fake_range: Range | None = None,
        **how: Any,
    ) -> Scores:
        """Score one generator, which is left bit for bit as it was, or existing images.

        Args:
            generator: an nn.Module from latents to images (N, C, H, W); any other callable, which takes latents where
                latent_dim or latent_shape is given and the number of images otherwise; or images, see `given_images`.
            statistics: "running", "batch" or "standing": see `sampling.generated`.
            ema: whether these are averaged weights, for the protocol.
            fake_range: what black and white are in floats; a generator's are taken to be (−1, 1), those that are given
                need it stated.
            how: latent_dim, latent_shape, output, conditional: see `generators.sampler`; labels are drawn from the real
                images' frequencies.

        Raises:
            UserError: a generator that does not fit, images of another shape, or too few of them.
            NotFiniteError: images that are not finite.

        Warns:
            UserWarning: images that are not what was assumed of them, see `generators.RangeWatch`.
        """
        begin = time.perf_counter()
        conditional, count = False, self.samples
        with undisturbed():
            torch.manual_seed(self.seed)  # layers that draw noise: a score is a function of its protocol
            if is_given(generator):
                pixels = self._chosen(grey_if(given_images(generator, fake_range), self.dataset.channels))
                statistics, count = GIVEN, len(pixels)
                with self._bar(count) as bar:
                    fake, extraction = self.extractor.features(pixels.split(self.batch_size), bar)
            else:
                drawn = sampler(generator, labels=self.dataset.labels, value_range=fake_range, **how)
                check_generator(drawn, self.dataset, statistics=statistics, batch_size=self.batch_size)
                size, seed = self.batch_size, self.seed
                with (
                    self._bar(count) as bar,
                    generated(drawn, count, batch_size=size, seed=seed, statistics=statistics) as batches,
                ):
                    fake, extraction = self.extractor.features(batches, bar)
                statistics = statistics if drawn.latent_shape else OWN
                conditional = drawn.labels is not None
            extracted = time.perf_counter()
            numbers = self._numbers(fake, count)
        end = time.perf_counter()
        return Scores(
            **numbers,
            seconds=end - begin,
            protocol=self.protocol(statistics, ema, conditional=conditional, count=count),
            seconds_by_part={
                "generator": extracted - begin - extraction,
                "extractor": extraction,
                "scores": end - extracted,
            },
        )

    def _numbers(self, fake: Mapping[str, Tensor], count: int) -> dict[str, Any]:
        """The scores of the features of `count` images, by layer."""
        layers, reference = self.extractor.layers, self.reference
        score, score_std = None, None
        if self.extractor.classifies:
            score, score_std = metrics.inception_score(fake[layers["isc"]], self.splits, self.seed)
        kid, kid_std = metrics.kernel_distance(
            fake[layers["kid"]],
            reference.features[layers["kid"]],
            subsets=self.kid_subsets,
            subset_size=self.kid_subset_size(count),
            seed=self.seed,
            kernel=self.kid_kernel,
        )
        precision, recall = metrics.precision_recall(fake[layers["prc"]], reference.features[layers["prc"]])
        return {
            "inception_score": score,
            "inception_score_std": score_std,
            "inception_score_real": reference.inception_score,
            "fid": metrics.frechet_distance(
                metrics.gaussian(fake[layers["fid"]]), (reference.mean, reference.covariance)
            ),
            "fid_floor": reference.floor,
            "kid": kid,
            "kid_std": kid_std,
            "precision": precision,
            "recall": recall,
        }

    def _chosen(self, pixels: Tensor) -> Tensor:
        """The given images in their order, or as many of them as are scored, drawn by the seed."""
        require_one_shape(pixels, self.dataset)
        warn_of_no_picture(pixels[: self.batch_size])
        if self.asked_samples is not None and self.asked_samples > len(pixels):
            raise UserError(f"samples must not exceed the given images, {len(pixels)}: got {self.asked_samples}.")
        count = min(len(pixels), 50_000) if self.asked_samples is None else self.asked_samples
        count_samples(self.dataset, count, self.batch_size, self.splits, self.kid_subsets)
        if count == len(pixels):
            return pixels
        chosen = np.random.RandomState(self.seed).permutation(len(pixels))[:count]
        return pixels[torch.from_numpy(np.sort(chosen))]

    def _bar(self, count: int) -> tqdm:
        return tqdm(total=count, desc="generated images", unit="img", leave=False, disable=self.quiet)

    def kid_subset_size(self, count: int) -> int:
        # Half at most: subsets of the whole sample would all be the same one, and their spread 0.
        return min(1000, min(len(self.dataset), count) // 2)

    def protocol(
        self, statistics: str, ema: bool, *, conditional: bool = False, count: int | None = None
    ) -> dict[str, Any]:
        """Everything that a score depends on, as plain JSON values; `count` images, by default `samples`."""
        count = self.samples if count is None else count
        return {
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "fingerprint": self.dataset.fingerprint,
            "real_images": len(self.dataset),
            "fake_images": count,
            "statistics": statistics,
            "standing_samples": STANDING_SAMPLES if statistics == "standing" else None,
            "conditional": conditional,
            "ema": ema,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "inception_splits": self.splits,
            "kid_subsets": self.kid_subsets,
            "kid_subset_size": self.kid_subset_size(count),
            "neighbours": metrics.NEIGHBOURHOOD,
            "kid_kernel": self.kid_kernel,
            "extractor": self.extractor.name,
            "extractor_weights_sha256": self.extractor.weights_sha256,
            "extractor_held_out_accuracy": self.extractor.card.get("held_out_accuracy"),
            "extractor_batch_dependence": self.batch_dependence,
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
    if not isinstance(samples, int):
        raise UserError(f"`samples` must be a whole number: got {samples!r}.")
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
    generator: Any,
    real: Any,
    *,
    latent_dim: int | None = None,
    latent_shape: Sequence[int] | None = None,
    output: Output | None = None,
    conditional: bool = False,
    fake_range: Range | None = None,
    statistics: str = "running",
    ema: bool = False,
    real_range: Range | None = None,
    real_labels: Any = None,
    split: str | None = None,
    root: str | os.PathLike[str] = "data",
    **options: Any,
) -> Scores:
    """Score one generator, or images, against real images; `Evaluator` scores many with one set-up.

    Args:
        generator: a generator, a function, or images in its place; with latent_dim, latent_shape, output, conditional,
            fake_range, statistics and ema see `Evaluator.score`.
        real: Images, a tensor or array, a folder, or the name of a data set; with real_range, real_labels, split and
            root see `inputs.real_images`.
        options: extractor, weights, sha256, samples and others: see `Evaluator`.

    Raises:
        UserError: what does not fit is said before the long part starts.
    """
    fakes: Any = None
    if is_given(generator):
        fakes = given_images(generator, fake_range)  # (N, C, H, W)
        shape = tuple(fakes.shape[1:])
    else:
        fakes = sampler(
            generator,
            latent_dim=latent_dim,
            latent_shape=latent_shape,
            output=output,
            labels=torch.zeros(1, dtype=torch.int64),  # until the real images' are known
            conditional=conditional,
            value_range=fake_range,
        )
        shape = image_shape(fakes)
    reals = real_images(real, shape=shape, value_range=real_range, labels=real_labels, split=split, root=root)
    if isinstance(fakes, Sampler):
        fakes = fakes.with_labels(reals.images.labels)
        batch = {"batch_size": max(1, options["batch_size"])} if "batch_size" in options else {}
        check_generator(fakes, reals.images, statistics=statistics, **batch)
    else:
        fakes = grey_if(fakes, reals.images.channels)
        require_one_shape(fakes, reals.images)
    evaluator = Evaluator(reals.images, training=reals.training, **options)
    return evaluator.score(fakes, statistics=statistics, ema=ema)
