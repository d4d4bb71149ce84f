"""The in-domain extractor: a classifier trained on a dataset's own labels: small ones in seconds.

Inception has never seen a digit, wants colour, and runs at a few images a second on a CPU. A classifier of the dataset
itself gives an inception score whose ceiling is the number of classes, and features in which the classes separate. Its
scores compare generators of one dataset; they are not comparable with published Inception numbers. Colour images of 32
or more pixels get a larger network, where there are enough of them: see `colour_classifier`.

    N batch, C channels, H W pixels, F features, K classes

Imported lazily by `extractors`: this module needs torch-fidelity at import.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gannorm.arithmetic import undisturbed
from gannorm.data import Images
from gannorm.errors import UserError
from gannorm.evaluation import colour_classifier
from gannorm.evaluation.colour_classifier import ColourClassifier
from gannorm.files import atomic_write, write_json, writing

VERSION = 1  # of the architecture, the training and the files: a change here retrains every cached extractor
COLOUR_VERSION = "colour 2"  # the same of the larger network
COLOUR_IMAGES, COLOUR_SIZE = 5000, 32  # the fewest, and their smallest size, for the larger network
WIDTH, FEATURES = 16, 64
CPU_BATCH = 16  # images at once on a CPU, whose caches do not hold the float64 maps of many more
LARGEST = 32  # larger images are averaged down to this many pixels a side
HELD_OUT = 0.1
BATCH, EPOCHS, MIN_STEPS, MAX_STEPS = 64, 10, 300, 5000


class Classifier(nn.Module):
    """uint8 images (N, C, H, W) → features (N, F) of norm √F, logits (N, K). No layer mixes the batch.

    The norm bounds x·y/F in KID's kernel (x·y/F + 1)³ to [−1, 1]: on free features it explodes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(2 * WIDTH, 4 * WIDTH, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * WIDTH, FEATURES)),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.to(self.head.weight.dtype) / 127.5 - 1  # (N, C, H, W) in [−1, 1]
        if max(x.shape[-2:]) > LARGEST:
            x = F.adaptive_avg_pool2d(x, LARGEST)
        features = F.normalize(self.trunk(x)) * FEATURES**0.5  # (N, F)
        return features, self.head(features)


class InDomainExtractor(FeatureExtractorBase):
    """The classifier as torch-fidelity wants it: layers "features" (N, F) and "logits" (N, K).

    It computes in float64 and rounds to float32 at the end, so that the size of a batch, the device and the number of
    threads, which change the last bits of float32 convolutions, change no score.
    """

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any) -> None:
        super().__init__(name, features_list)
        state = torch.load(feature_extractor_weights_path, map_location="cpu", weights_only=True)
        is_colour, classes = "whiten.weight" in state, len(state["head.bias"])
        self.channels = state["whiten.weight" if is_colour else "trunk.0.weight"].shape[1]
        self.classifier = ColourClassifier(classes) if is_colour else Classifier(self.channels, classes)
        self.classifier.load_state_dict(state)
        self.classifier.double().eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != self.channels:
            raise UserError(
                f"the in-domain extractor takes uint8 images of {self.channels} channels, (N, C, H, W): got "
                f"{images.dtype}, {tuple(images.shape)}; train it on the dataset that you score."
            )
        parts = images.split(CPU_BATCH if images.device.type == "cpu" else len(images))
        features, logits = (torch.cat(of_parts) for of_parts in zip(*map(self.classifier, parts), strict=True))
        outputs = {"features": features.float(), "logits": logits.float()}
        return tuple(outputs[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


def load_card(folder: Path) -> dict[str, Any] | None:
    """The card of a trained extractor; None without one, or if its weights differ from those that it names."""
    try:
        card = json.loads((folder / "card.json").read_text())
        weights = (folder / card["weights"]).read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if hashlib.sha256(weights).hexdigest() == card["weights_sha256"] else None


def training_key(dataset: Images, seed: int) -> str:
    """A key from everything that the weights depend on: images, labels, this code and the seed."""
    assert dataset.labels is not None
    content = [dataset.fingerprint, dataset.labels.tolist(), version(dataset), seed, torch.__version__]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def version(dataset: Images) -> int | str:
    """Which of the two networks learns from these images, and its version."""
    is_large = len(dataset) >= COLOUR_IMAGES and dataset.channels == 3 and dataset.image_size >= COLOUR_SIZE
    return COLOUR_VERSION if is_large else VERSION


def train(dataset: Images, folder: Path, *, seed: int = 0, device: torch.device | str = "cpu") -> Mapping[str, Any]:
    """Train the classifier on nine tenths of the images, measure it on the rest, write weights and card.

    Args:
        dataset: labelled images.
        folder: where card.json and the weights that it names go; made if missing.
        seed: of the split, the initial weights and the batches; the weights are a function of it on one machine.
        device: where to train; on CUDA the weights are not the same twice.

    Returns:
        The card: held_out_accuracy in [0, 1], held_out_images, weights (file name), weights_sha256 and what it was
        trained on.

    Raises:
        UserError: no labels, one class, too few images to hold some out, or a folder that cannot be written.

    Source: defined here.
    """
    check_labels(dataset)
    assert dataset.labels is not None
    begin = time.perf_counter()
    with undisturbed():
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(dataset), generator=draw)
        held_out, used = order.split(
            [max(1, round(HELD_OUT * len(dataset))), len(dataset) - round(HELD_OUT * len(dataset))]
        )
        torch.manual_seed(seed)  # inside undisturbed: the layers' default initialization reads the global generator
        classes = int(dataset.labels.max()) + 1
        model: nn.Module
        if version(dataset) == COLOUR_VERSION:
            model = ColourClassifier(classes).to(device)
            colour_classifier.fit(model, dataset.pixels, dataset.labels, used, draw)
        else:
            model = Classifier(dataset.channels, classes).to(device)
            _fit(model, dataset, used, draw, device)
        accuracy = _accuracy(model, dataset, held_out, device)
    weights = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, weights)
    sha256 = hashlib.sha256(weights.getvalue()).hexdigest()
    card = {
        "extractor": "in_domain",
        "version": version(dataset),
        "dataset": dataset.name,
        "split": dataset.split,
        "fingerprint": dataset.fingerprint,
        "training_images": len(used),
        "held_out_images": len(held_out),
        "held_out_accuracy": accuracy,
        "seed": seed,
        "seconds": round(time.perf_counter() - begin, 2),
        "weights": f"weights-{sha256[:16]}.pth",
        "weights_sha256": sha256,
    }
    # The weights carry their digest in their name and the card is written last: two trainings at once both leave a
    # card whose weights are there.
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"weights-{sha256[:16]}.pth") as stream:
        stream.write(weights.getvalue())
    write_json(folder / "card.json", card)
    return card


def check_labels(dataset: Images) -> None:
    """Raises UserError unless a classifier can be trained on `dataset`."""
    if dataset.labels is None:
        raise UserError(
            f"the in-domain extractor needs labels: {dataset.name} has none; put its images into class folders, "
            "give real_labels, or choose another extractor."
        )
    if len(dataset) < 20 or int(dataset.labels.max()) < 1:
        raise UserError(
            f"the in-domain extractor needs at least 20 images of 2 classes: {dataset.name} has {len(dataset)} of "
            f"{int(dataset.labels.max()) + 1}; choose another extractor."
        )


def _fit(model: Classifier, dataset: Images, used: Tensor, draw: torch.Generator, device: torch.device | str) -> None:
    assert dataset.labels is not None
    steps = min(max(EPOCHS * len(used) // BATCH, MIN_STEPS), MAX_STEPS)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    with torch.enable_grad():
        for _ in range(steps):
            index = used[torch.randint(len(used), (BATCH,), generator=draw)]
            _, logits = model(dataset.pixels[index].to(device))
            optimizer.zero_grad()
            F.cross_entropy(logits, dataset.labels[index].to(device)).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def _accuracy(model: nn.Module, dataset: Images, held_out: Tensor, device: torch.device | str) -> float:
    assert dataset.labels is not None
    right = 0
    for index in held_out.split(256):
        _, logits = model(dataset.pixels[index].to(device))
        right += int((logits.argmax(1).cpu() == dataset.labels[index]).sum())
    return right / len(held_out)
