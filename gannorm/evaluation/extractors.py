"""Feature extractors by name: the features of images that the scores are computed from.

Every extractor is a torch-fidelity one: its Inception and whatever else is registered there by name (CLIP, DINOv2,
VGG16, your own through `torch_fidelity.register_feature_extractor`), and our `in_domain` classifier beside them. A
weight file is read only after its sha256 was checked, or after torch has read it without running its code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import re
import time
import urllib.error
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gannorm.arithmetic import best_device, require_device, undisturbed
from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.files import cache_dir, writing
from gannorm.isolate import switched
from gannorm.models.checkpoint import refusal
from gannorm.registry import UnknownNameError, choices

IN_DOMAIN, INCEPTION = "in_domain", "inception-v3-compat"
INCEPTION_PREFIX = "6726825d"  # the first digits of its sha256, as in the file's published name
METRICS = ("isc", "fid", "kid", "prc")
HUB = "facebookresearch/dinov2"  # the repository whose code torch.hub downloads and runs


@dataclass(frozen=True)
class Extractor:
    """A feature extractor, built once, with what identifies it.

    Attributes:
        name: the registered name.
        module: uint8 images (N, C, H, W) → a tuple of (N, F) features, one for each of its `features_list`.
        layers: metric ("isc", "fid", "kid", "prc") → the layer that it reads.
        weights_sha256: of the weight file; without one, of the weights in memory and the source of the class.
        device: where the module lives.
        card: what is known of a trained extractor, e.g. its held-out accuracy.
    """

    name: str
    module: nn.Module
    layers: Mapping[str, str]
    weights_sha256: str
    device: torch.device
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        """Whether it gives class probabilities: an embedding (CLIP, DINOv2) names its one layer for every metric."""
        return self.layers["isc"] != self.layers["fid"]

    def features(self, batches: Iterable[Tensor], bar: tqdm) -> tuple[dict[str, Tensor], float]:
        """Layer → (N, F) features on the CPU, of all uint8 batches in order, and the seconds spent in the extractor.

        Args:
            batches: (N, C, H, W) each.
            bar: counts the images.
        """
        seconds, parts = 0.0, []
        with torch.no_grad():
            for batch in batches:
                begin = time.perf_counter()
                output = self.module(batch.to(self.device, non_blocking=True))
                layers = self.module.convert_features_tuple_to_dict(output)  # type: ignore[operator]
                parts.append({layer: features.cpu() for layer, features in layers.items()})  # waits for a GPU
                seconds += time.perf_counter() - begin
                bar.update(len(batch))
        return {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}, seconds


def default_extractor(dataset: Images) -> str:
    """Inception for colour images, the in-domain classifier for others: Inception takes three channels."""
    return INCEPTION if dataset.pixels.shape[1] == 3 else IN_DOMAIN


def build_extractor(
    name: str | None,
    dataset: Images,
    *,
    weights: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Extractor:
    """Build an extractor for the images of `dataset`.

    Args:
        name: "in_domain", "inception-v3-compat" or another name registered with torch-fidelity; None: the default for
            the images, see `default_extractor`.
        dataset: the images to be scored against; their labels train "in_domain", unless `weights` are given.
        weights: a weight file; for "in_domain" the folder that a training wrote. By default "in_domain" is trained
            once and kept in the cache, and the others are downloaded. Of DINOv2 it replaces the weights alone.
        sha256: the digest of the weight file, 64 hex digits. It vouches for the file, which may then hold more than
            tensors.
        seed: of the in-domain training, which is on the CPU: there it is deterministic.
        device: where to run; the best there is by default.

    Raises:
        UserError: an unknown name, weights that are missing, damaged or unsafe, images that it cannot take.

    Warns:
        UserWarning: DINOv2, whose code torch.hub downloads and runs.
    """
    registered = _registered()
    name = name or default_extractor(dataset)
    if name not in registered:
        raise UnknownNameError(f"unknown extractor {name!r}: {choices(name, registered)}")
    if device is not None:
        require_device(str(device))
    device = torch.device(device) if device is not None else best_device()
    with undisturbed():
        card: Mapping[str, Any] = {}
        path = Path(weights) if weights is not None else None
        if name == IN_DOMAIN:
            path, card = _in_domain(dataset, path, seed)
            sha256 = sha256 or card["weights_sha256"]
        elif name == INCEPTION:
            path = path or _inception_file()
        elif name.startswith("clip-") and path is not None:
            sha256 = sha256 or _known_clip(name, path)
        elif name.startswith("dinov2-"):
            warnings.warn(f"{name} runs code that torch.hub downloads from github.com/{HUB}.", stacklevel=2)
        digest = None if path is None else _verified_digest(path, sha256)
        if name == INCEPTION and weights is None and not str(digest).startswith(INCEPTION_PREFIX):
            raise UserError(
                f"the sha256 of {path} must begin with {INCEPTION_PREFIX}, as its name says: it is {digest}; the file "
                "is damaged: remove it, and it is fetched again."
            )
        module = _create(name, registered[name], path, device)
        extractor = Extractor(
            name=name,
            module=module,
            layers={metric: registered[name].get_default_feature_layer_for_metric(metric) for metric in METRICS},
            weights_sha256=digest or _state_digest(module),
            device=device,
            card=card,
        )
        _try(extractor, dataset)
    return extractor


def train_in_domain(
    dataset: Images, folder: str | os.PathLike[str] | None = None, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Mapping[str, Any]:
    """Train the in-domain extractor into `folder` and return its card; see `in_domain.train`.

    Without a folder it is kept in the cache, where `build_extractor` looks for it, and not trained again.
    """
    from gannorm.evaluation import in_domain

    if folder is None:
        return _in_domain(dataset, None, seed)[1]
    return in_domain.train(dataset, Path(folder), seed=seed, device=device)


def _registered() -> dict[str, Any]:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    from gannorm.evaluation.in_domain import InDomainExtractor

    if IN_DOMAIN not in FEATURE_EXTRACTORS_REGISTRY:  # the registry is global and refuses a second registration
        register_feature_extractor(IN_DOMAIN, InDomainExtractor)
    return {IN_DOMAIN: FEATURE_EXTRACTORS_REGISTRY[IN_DOMAIN], **FEATURE_EXTRACTORS_REGISTRY}


def _in_domain(dataset: Images, folder: Path | None, seed: int) -> tuple[Path, Mapping[str, Any]]:
    from gannorm.evaluation import in_domain

    if folder is not None:
        card = in_domain.load_card(folder)
        if card is None:
            raise UserError(
                f"an in-domain extractor is a folder with card.json and the weights that it names, undamaged: {folder} "
                "is not; train it again."
            )
    else:
        in_domain.check_labels(dataset)
        folder = cache_dir() / "extractors" / in_domain.training_key(dataset, seed)
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        except UserError as error:
            raise UserError(f"{error} The environment variable GANNORM_CACHE sets it.") from None
        card = in_domain.load_card(folder) or dict(in_domain.train(dataset, folder, seed=seed))
    return folder / card["weights"], card


def _inception_file() -> Path:
    """torch-fidelity's Inception weights in torch's hub folder, downloaded and checked if they are not there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    file = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix=INCEPTION_PREFIX)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong digest is a RuntimeError
            raise UserError(
                f"Inception needs its weights: downloading them gave {_reason(error)}; put the file from "
                f"{URL_INCEPTION_V3} at {file}, or, for images in class folders, give --extractor in_domain."
            ) from None
    return file


def _known_clip(name: str, path: Path) -> str | None:
    """The digest of OpenAI's own file, where this is it: a TorchScript archive, of which no tensors alone are read."""
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA

    published = MODEL_METADATA[name]["hash"]
    return published if path.is_file() and _digest(path) == published else None


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    except OSError as error:
        raise UserError(f"the extractor's weights must be a readable file: {path} gave {error.strerror}.") from None
    return state.hexdigest()


def _verified_digest(path: Path, expected: str | None) -> str:
    """The file's sha256. Raises unless the file is safe to load or `sha256` vouches for it."""
    if expected is not None and not re.fullmatch("[0-9a-f]{64}", expected.lower()):
        raise UserError(f"a sha256 must be 64 hex digits: got {expected!r}; `sha256sum` prints them all.")
    digest = _digest(path)
    if expected is not None:
        if digest != expected.lower():
            raise UserError(
                f"the sha256 of {path} must be {expected}: it is {digest}; the file is damaged or another one: fetch "
                "it again."
            )
        return digest
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"a weight file must hold tensors alone: {path}: {refusal(error)}; if you trust it, give its whole "
            f"sha256, {digest}."
        ) from None
    return digest


def _create(name: str, cls: Any, path: Path | None, device: torch.device) -> nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    layers = sorted({cls.get_default_feature_layer_for_metric(metric) for metric in METRICS})
    options: dict[str, Any] = {"cuda": False, "verbose": False}  # that flag knows CUDA alone: the module is moved below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's to torch-fidelity, on TorchScript
            if name.startswith("dinov2-") and path is not None:  # torch-fidelity takes no file for it
                without_weights = functools.partial(torch.hub.load, pretrained=False)
                with switched((torch.hub, "load", without_weights)):
                    module = create_feature_extractor(name, layers, **options)
                module.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))  # verified above
            else:
                file = None if path is None else str(path)
                module = create_feature_extractor(name, layers, feature_extractor_weights_path=file, **options)
    except urllib.error.URLError as error:
        remedy = "the code needs the network once" if name.startswith("dinov2-") else "give the file's path"
        raise UserError(
            f"extractor {name!r} needs its weights: downloading them gave {_reason(error)}; {remedy}."
        ) from None
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        if path is None:
            raise
        raise UserError(f"{path} must hold the weights of {name}: {_reason(error)}.") from None
    if device.type == "mps":
        module.float()  # MPS has no float64
    return module.to(device)


def _try(extractor: Extractor, dataset: Images) -> None:
    """Run the extractor on one image, so that a wrong number of channels fails before the long part."""
    try:
        with torch.no_grad():
            extractor.module(dataset.pixels[:1].to(extractor.device))
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:  # torch-fidelity's own checks, and a layer's
        raise UserError(
            f"extractor {extractor.name!r} cannot take {dataset.name} images of {tuple(dataset.pixels.shape[1:])}: "
            f"{_reason(error)}; choose another extractor, for example {IN_DOMAIN}."
        ) from None


def _state_digest(module: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    with contextlib.suppress(OSError, TypeError):  # a class made at a prompt has no source
        state.update(inspect.getsource(type(module)).encode())
    return state.hexdigest()


def _reason(error: BaseException) -> str:
    """The first line of an error, short enough for one line."""
    text = str(getattr(error, "reason", None) or error).strip().split("\n")[0]
    return f"{type(error).__name__} ({text[:200]})"
