"""Augmentations of the discriminator's real and fake inputs, differentiable for the generator's gradient.

They are for small sets of images: the discriminator cannot memorise images that never look the same twice.
Randomness is torch's global generator of the device, as dropout's is, so that a seeded or resumed run repeats it. Every
image has a draw of its own.

N batch, C channels, H W pixels; images are in [−1, 1], and cut or new pixels are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gannorm.registry import Registry

Augmentation = Callable[[Tensor], Tensor]  # (N, C, H, W) -> the same shape, differentiable
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def augmented(discriminator: nn.Module, augmentation: Augmentation) -> Callable[[Tensor], Tensor]:
    """(N, C, H, W) -> (N,): the discriminator of augmented images.

    It is a `partial`, not a module, so that nothing holds the network twice and `isolate.modules_in` finds it.
    """
    return partial(_judge_augmented, discriminator, augmentation)


def _judge_augmented(discriminator: nn.Module, augmentation: Augmentation, images: Tensor) -> Tensor:
    return discriminator(augmentation(images))


def diffaugment(images: Tensor) -> Tensor:
    """Colour, translation and cutout, in this order (Zhao et al. 2020, section 3.3 and appendix)."""
    return cutout(translated(coloured(images)))


def coloured(images: Tensor) -> Tensor:
    """Brightness, saturation and contrast of each image.

    x + b, b ~ U(−½, ½); then the distance of each channel from the mean over channels times s ~ U(0, 2); then the
    distance from the mean over the image times c ~ U(½, 1½).
    """
    x = images + _uniform(images, -0.5, 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * _uniform(images, 0, 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * _uniform(images, 0.5, 1.5)


def translated(images: Tensor, ratio: float = 0.125) -> Tensor:
    """Each image moved by up to ±`ratio` of its height and width, zeros moving in."""
    for dim in (2, 3):
        size = images.shape[dim]
        most = round(size * ratio)
        moved = torch.randint(-most, most + 1, (len(images), 1), device=images.device)
        source = torch.arange(size, device=images.device) + moved  # (N, size): where each row comes from
        inside = (source >= 0) & (source < size)
        shape = (len(images), 1, *(size if d == dim else 1 for d in (2, 3)))
        index = source.clamp(0, size - 1).view(shape).expand_as(images)
        images = images.gather(dim, index) * inside.view(shape)
    return images


def cutout(images: Tensor, ratio: float = 0.5) -> Tensor:
    """A square of `ratio` of the height and width of each image set to 0, its centre anywhere in the image."""
    inside = []
    for dim in (2, 3):
        size = images.shape[dim]
        side = round(size * ratio)
        centre = torch.randint(0, size + 1 - side % 2, (len(images), 1), device=images.device)
        start = centre - side // 2
        position = torch.arange(size, device=images.device)
        inside.append((start <= position) & (position < start + side))  # (N, size)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * ~hole


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """One number an image, (N, 1, 1, 1)."""
    return torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype).uniform_(low, high)


AUGMENTATIONS.register("none", lambda images: images)
AUGMENTATIONS.register("diffaugment", diffaugment)
AUGMENTATIONS.seal()
