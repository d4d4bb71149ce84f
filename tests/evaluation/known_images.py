"""An extractor that only flattens and a generator that replays images: scores with known answers."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gannorm.data import Images, to_float

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch-fidelity's own imports
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

LOGIT = 100.0  # a pixel of 255 among zeros is a certain class


class PassThrough(FeatureExtractorBase):
    """Features: the pixels, / 255. Logits: the same, sharp, so that one white pixel is a certain class."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.flatten(1).float() / 255
        found = {"pixels": pixels, "logits": LOGIT * pixels}
        return tuple(found[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "pixels", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "pixels"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)


if "pass_through" not in FEATURE_EXTRACTORS_REGISTRY:  # pytest may import this file under two names
    register_feature_extractor("pass_through", PassThrough)


class Replay(nn.Module):
    """A generator that ignores its latents and plays uint8 images one after the other, from the start in each run."""

    latent_dim = 1

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", to_float(pixels))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def forward(self, latents: Tensor) -> Tensor:
        index = (self.position + torch.arange(len(latents))) % len(self.images)
        self.position += len(latents)
        return self.images[index]


class Pixels(Dataset):
    """A fixed set of images, as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def images_of(pixels: Tensor, name: str = "made") -> Images:
    return Images(pixels=pixels, labels=None, classes=(), name=name, split="train")
