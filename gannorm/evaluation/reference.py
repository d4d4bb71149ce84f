"""Features and statistics of the real images for the scores, computed once and kept on disk.

torch-fidelity's own cache is keyed by a name alone: after a change of the weights or the data it
returns the old statistics. Here the key is a hash of everything that the content depends on, and a damaged file is
computed again.

    N images, F features
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import gannorm
from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.evaluation import metrics
from gannorm.evaluation.extractors import Extractor
from gannorm.files import atomic_write, cache_dir, writing

VERSION = 3  # of the file's content: a change of this module that changes a number must raise it


@dataclass(frozen=True)
class Reference:
    """The real images as the scores see them.

    Attributes:
        features: layer → (N, F), the layers that KID and precision/recall read.
        mean, covariance: (F,) and (F, F) of FID's layer.
        floor: FID of one random half of the images against the other; a good score is near this floor, and not near 0.
        inception_score: IS of the real images: the ceiling; None where the extractor gives no class probabilities.
    """

    features: dict[str, Tensor]
    mean: np.ndarray
    covariance: np.ndarray
    floor: float
    inception_score: float | None


def load_reference(
    dataset: Images, extractor: Extractor, *, batch_size: int, splits: int, seed: int, quiet: bool | None = None
) -> Reference:
    """The reference of `dataset` under `extractor`, from the cache if it is there whole, else computed and kept.

    Args:
        dataset: the real images, all of which are used.
        extractor: the feature extractor.
        batch_size: images an extraction batch.
        splits: parts for the inception score.
        seed: of the halves of the floor and the shuffling of the splits.
        quiet: hide the progress bar; None: show it on a terminal alone.

    Warns:
        UserWarning: the cache cannot be written; the reference is still used.
    """
    file = cache_dir() / "references" / f"{reference_key(dataset, extractor, batch_size, splits, seed)}.npz"
    reference = _read(file)
    if reference is None:
        reference = _compute(dataset, extractor, batch_size, splits, seed, quiet)
        try:
            with writing(file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
            _write(file, reference)
        except UserError as error:
            warnings.warn(
                f"the reference statistics are not kept: {error} GANNORM_CACHE sets their folder.", stacklevel=2
            )
    return reference


def reference_key(dataset: Images, extractor: Extractor, batch_size: int, splits: int, seed: int) -> str:
    """A hash of everything that the reference depends on, to the last bit."""
    module = type(extractor.module)
    content = {
        "data": [dataset.fingerprint, dataset.split],
        "extractor": [extractor.name, f"{module.__module__}.{module.__qualname__}", extractor.weights_sha256],
        "layers": dict(extractor.layers),
        "settings": [batch_size, splits, seed, extractor.device.type],
        "versions": [VERSION, versions()],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of the libraries that decide a score."""
    others = {name: importlib.metadata.version(name) for name in ("torch", "torch-fidelity", "numpy")}
    return {"gannorm": gannorm.__version__, **others}


def _compute(
    dataset: Images, extractor: Extractor, batch_size: int, splits: int, seed: int, quiet: bool | None
) -> Reference:
    with tqdm(total=len(dataset), desc="real images", unit="img", leave=False, disable=quiet) as bar:
        features, _ = extractor.features(dataset.pixels.split(batch_size), bar)
    layers = extractor.layers
    mean, covariance = metrics.gaussian(features[layers["fid"]])
    return Reference(
        features={layer: features[layer] for layer in (layers["kid"], layers["prc"])},
        mean=mean,
        covariance=covariance,
        floor=_floor(features[layers["fid"]], seed),
        inception_score=(
            metrics.inception_score(features[layers["isc"]], splits, seed)[0] if extractor.classifies else None
        ),
    )


def _floor(features: Tensor, seed: int) -> float:
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(features)))
    one, other = (metrics.gaussian(features[half]) for half in order.chunk(2))
    return metrics.frechet_distance(one, other)


def _write(file: Path, reference: Reference) -> None:
    arrays: dict[str, Any] = {f"features/{layer}": features for layer, features in reference.features.items()}
    arrays |= {k: np.nan if v is None else v for k, v in vars(reference).items() if k != "features"}
    with atomic_write(file) as stream:  # two writers at once: each its own temporary file, the last rename wins
        np.savez(stream, **arrays)


def _read(file: Path) -> Reference | None:
    """None if the file is missing, cut or damaged: zip keeps a checksum of each array and reading verifies it."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Reference(
            features={n.removeprefix("features/"): torch.from_numpy(a) for n, a in arrays.items() if "/" in n},
            mean=arrays["mean"],
            covariance=arrays["covariance"],
            floor=float(arrays["floor"]),
            inception_score=None if np.isnan(arrays["inception_score"]) else float(arrays["inception_score"]),
        )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
