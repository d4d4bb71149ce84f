"""The in-domain classifier of colour images: larger, and trained longer, than that of grey ones.

The small network of `in_domain` reaches 70 % on CIFAR-10, so that its inception score says little. This one reaches
88 % in half an hour of one core, once: the extractor is cached with its card.

Its first layer is not trained: 2×2 patches are whitened by their own principal components, as gradient descent in
correlated inputs is slow. Then three blocks of [convolution, maximum of 2×2, BatchNorm, ReLU, convolution, BatchNorm,
ReLU], and the maximum over what is left of the map.

    N batch, C = 3 channels, H W pixels, F features, K classes

Source: Coates & Ng 2012 (whitened patches); Smith & Topin 2019 (one cycle); Szegedy et al. 2016 (label smoothing);
blocks and recipe after Page 2018, "How to train your ResNet", and Jordan 2024 (2404.00498), in another size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

WIDTHS = (64, 128, 256)  # channels of the blocks
PATCH = 2  # pixels a side that are whitened
WHITENING_IMAGES = 2000
FADED = 1e-2  # of the mean variance, added to each component's: those of almost none are noise
LARGEST = 32
BATCH, EPOCHS, MIN_STEPS = 256, 20, 300
PEAK_RATE, WARM_UP, MOMENTUM, DECAY, SMOOTHING = 0.2, 0.2, 0.9, 5e-4, 0.1
SHIFT = 2  # pixels by which a training image is moved, at most


class ColourClassifier(nn.Module):
    """uint8 images (N, 3, H, W) → features (N, F) of norm √F, logits (N, K). In eval mode no layer mixes the batch."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        components = 3 * PATCH**2
        self.whiten = nn.Conv2d(3, 2 * components, PATCH)  # each component and its negative, for the ReLU
        self.whiten.requires_grad_(False)
        inputs = (2 * components, *WIDTHS[:-1])
        self.trunk = nn.Sequential(*(layer for pair in zip(inputs, WIDTHS, strict=True) for layer in _block(*pair)))
        self.head = nn.Linear(WIDTHS[-1], classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.to(self.head.weight.dtype) / 127.5 - 1  # (N, 3, H, W) in [−1, 1]
        if max(x.shape[-2:]) > LARGEST:
            x = F.adaptive_avg_pool2d(x, LARGEST)
        maps = self.trunk(F.relu(self.whiten(x.contiguous(memory_format=torch.channels_last))))
        features = F.normalize(maps.amax((2, 3))) * WIDTHS[-1] ** 0.5  # (N, F)
        return features, self.head(features)


def _block(inputs: int, outputs: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    yield nn.MaxPool2d(2)
    yield nn.BatchNorm2d(outputs)
    yield nn.ReLU()
    yield nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    yield nn.BatchNorm2d(outputs)
    yield nn.ReLU()


def fit(model: ColourClassifier, pixels: Tensor, labels: Tensor, used: Tensor, draw: torch.Generator) -> None:
    """Train `model` where it is, on the images `used`; it is then in eval mode.

    Args:
        pixels: uint8 (M, 3, H, W); labels: (M,), both on the CPU.
        used: indices of the training images.
        draw: decides the batches, shifts and reflections.
    """
    device = model.head.weight.device
    _whiten(model, pixels[used[:WHITENING_IMAGES]])
    updates = max(EPOCHS * len(used) // BATCH, MIN_STEPS)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, PEAK_RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 1) / (updates + 1)))
    model.train()
    order = used[:0]
    with torch.enable_grad():
        for _ in tqdm(range(updates), "training the in-domain extractor, once", unit="step", leave=False, disable=None):
            if len(order) < min(BATCH, len(used)):
                order = used[torch.randperm(len(used), generator=draw)]
            index, order = order[:BATCH], order[BATCH:]
            _, logits = model(augmented(pixels[index], draw).to(device))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[index].to(device), label_smoothing=SMOOTHING).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def augmented(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image moved by up to SHIFT pixels, the border mirrored, and half of them reflected; (N, 3, H, W), bytes."""
    n, _, height, width = images.shape
    padded = F.pad(images.float(), (SHIFT,) * 4, mode="reflect").to(images.dtype)
    down, right = torch.randint(2 * SHIFT + 1, (2, n, 1), generator=draw)
    rows, columns = down + torch.arange(height), right + torch.arange(width)  # (N, H), (N, W)
    mirrored = torch.rand(n, generator=draw) < 0.5
    columns[mirrored] = columns[mirrored].flip(1)
    every = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


@torch.no_grad()
def _whiten(model: ColourClassifier, images: Tensor) -> None:
    """Set the first layer to the principal components of the images' patches, each over its standard deviation."""
    x = images.double() / 127.5 - 1
    if max(x.shape[-2:]) > LARGEST:
        x = F.adaptive_avg_pool2d(x, LARGEST)
    patches = F.unfold(x, PATCH).transpose(1, 2).flatten(0, 1)  # (patches, 3·PATCH²)
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))  # the columns are the components
    components = (vectors / (values + FADED * values.mean()).sqrt()).T
    weight = torch.cat([components, -components])
    model.whiten.weight.copy_(weight.unflatten(1, (3, PATCH, PATCH)))
    model.whiten.bias.copy_(-weight @ mean)  # type: ignore[union-attr]


def _rate(share: float) -> float:
    """The learning rate over its peak, when this share of the updates is done: up and down in two lines."""
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)
