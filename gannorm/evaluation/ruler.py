"""The swap test of an extractor: do its features of an image depend on the rest of the batch?

A score is a function of features. If the same image has other features in another batch, by a layer that couples or by
the rounding of other kernels, then the score depends on the evaluation batch size.

    N images, C channels, H W pixels, F features
"""

from __future__ import annotations

import hashlib
import json
import warnings

import torch
from tqdm import tqdm

from gannorm.errors import UserError
from gannorm.evaluation.extractors import Extractor
from gannorm.evaluation.reference import versions
from gannorm.files import cache_dir
from gannorm.rundir import write_json, writing
from gannorm.seeds import stream

VERSION = 1  # of the measurement: a change that changes the number must raise it
IMAGES = 16
TOLERANCE = 1e-3  # of a feature's size; rounding in float32 is a thousandth of that


def batch_dependence(extractor: Extractor, shape: tuple[int, ...]) -> float:
    """The largest change of an image's features between a batch of its own and a batch of 16, over their size.

    max over images of ‖f(x | alone) − f(x | batch)‖ / max(‖f(x | alone)‖, ‖f(x | batch)‖), the largest over layers, on
    images of noise.
    Measured once for an extractor, its weights, device and the images' shape, and kept in the cache.

    Args:
        extractor: what is measured.
        shape: (C, H, W) of the images.

    Returns:
        0 where the batch has no bearing on the features; about 1e-6 where kernels round differently; about 1 where a
        layer uses batch statistics.

    Warns:
        UserWarning: above `TOLERANCE`.

    Source: defined here.
    """
    module = type(extractor.module)
    content = [VERSION, extractor.name, f"{module.__module__}.{module.__qualname__}", extractor.weights_sha256]
    content += [dict(extractor.layers), extractor.device.type, list(shape), versions()]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file = cache_dir() / "extractors" / f"batch_dependence_{key[:32]}.json"
    try:
        dependence = float(json.loads(file.read_text())["batch_dependence"])
    except (OSError, ValueError, KeyError, TypeError):
        dependence = _measured(extractor, shape)
        try:
            with writing(file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"extractor": extractor.name, "batch_dependence": dependence})
        except UserError:
            pass  # measured again next time; load_reference names the folder that cannot be written
    if not dependence <= TOLERANCE:
        warnings.warn(
            f"the features of {extractor.name} depend on the other images of a batch: they change by {dependence:.2g} "
            "of their size; compare its scores only at one batch_size.",
            stacklevel=2,
        )
    return dependence


def _measured(extractor: Extractor, shape: tuple[int, ...]) -> float:
    noise = torch.randint(0, 256, (IMAGES, *shape), generator=stream(0, "ruler"), dtype=torch.uint8)
    bar = tqdm(disable=True)
    together, _ = extractor.features([noise], bar)
    alone, _ = extractor.features(noise.split(1), bar)
    changes = [0.0]
    for layer, features in alone.items():
        one, other = features.double(), together[layer].double()
        size, change = torch.maximum(one.norm(dim=1), other.norm(dim=1)), (one - other).norm(dim=1)
        changes.append(float((change / size.clamp(min=torch.finfo(torch.float32).tiny)).max()))
    return max(changes)
