"""A supervised classifier on the discriminator's networks: where the papers' claims about optimization can be repeated.

The network is the discriminator's trunk with a logit a class in the place of the one logit, and the same normalizer
slots; so what a normalizer does to the optimization of a classifier, which is what the papers measured, and of a
discriminator is measured with the same probes on the same layers.

N batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gannorm.config import ClassifierModel, TrainConfig, taken_by
from gannorm.data import Images, to_float
from gannorm.errors import UserError
from gannorm.isolate import isolated
from gannorm.models import initialize
from gannorm.models.build import build_classifier as build_network
from gannorm.normalizers import set_reference
from gannorm.normalizers.reference import fresh_references, refresh_reference, restore_references
from gannorm.seeds import stream
from gannorm.training.callbacks.every import Every, record

REFERENCE_IMAGES = 64  # of LSUV, virtual batch normalization and the equalized bias of a GAN, in whole batches there
TEST_BATCH = 256


class Classifier(LightningModule):
    """A network in training by stochastic gradient descent on the cross-entropy.

    Args:
        network: (N, C, H, W) -> (N, K) logits.
        learning_rate: constant, as nothing but the normalizer and the rate shall differ between runs.
        momentum: of the gradient; 0 for none.
        weight_decay: λ ≥ 0; the gradient of every parameter w becomes ∇L + λ·w.
        max_loss: a loss that is larger (exploded), or not finite, ends the run.

    Raises:
        UserError: a number out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        max_loss: float = 1e4,
    ) -> None:
        super().__init__()
        for name, value, holds, must in (
            ("learning_rate", learning_rate, learning_rate > 0, "positive"),
            ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
            ("weight_decay", weight_decay, weight_decay >= 0, "at least 0"),
            ("max_loss", max_loss, max_loss > 0, "positive"),
        ):
            if not holds:
                raise UserError(f"`{name}` must be {must}: got {value}.")
        self.automatic_optimization = False  # the step is as plain as the GAN's, and is counted like it
        self.network = network
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.max_loss = max_loss
        self.step = 0
        self.losses: dict[str, Tensor] = {}  # of the last step, on the device
        self.parts: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        optimizer: Any = self.optimizers()
        images, labels = batch
        logits = self.network(images)
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        refresh_reference(self.network, images)
        self.step += 1
        self.losses = {"loss": loss.detach()}
        self.parts = {"train/accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    def figures(self) -> dict[str, Tensor]:
        """What is logged of the last step."""
        return {**self.losses, **self.parts}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step
        checkpoint["references"] = fresh_references(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]
        restore_references(self, checkpoint.get("references", {}))


class TestAccuracy(Every):
    """Loss and accuracy on the held-out images, and how much better it is on as many training images.

    Both in eval mode, without a trace.

    Args:
        every: steps between tests; 0: never.
        held_out: the images that the training does not see.
        training: those that it sees, of which as many as there are held out are drawn once, by the seed.
        seed: of that draw.
    """

    state_key = "TestAccuracy"  # type: ignore[assignment]
    at_start = True
    __test__ = False  # pytest would take it for a test

    def __init__(self, every: int, held_out: Images, training: Images, seed: int) -> None:
        super().__init__(every)
        self.held_out = held_out
        order = torch.randperm(len(training), generator=stream(seed, "test on training images"))
        assert training.labels is not None
        chosen = order[: len(held_out)]
        self.training = replace(training, pixels=training.pixels[chosen], labels=training.labels[chosen])

    def act(self, trainer: pl.Trainer, classifier: Classifier) -> None:  # type: ignore[override]
        loss, accuracy = test(classifier.network, self.held_out, classifier.device)
        _, on_training = test(classifier.network, self.training, classifier.device)
        values = {"test/loss": loss, "test/accuracy": accuracy, "test/accuracy_gap": on_training - accuracy}
        record(trainer, classifier.step, values)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


@torch.no_grad()
def test(network: nn.Module, images: Images, device: torch.device) -> tuple[float, float]:
    """(mean cross-entropy, accuracy in [0, 1]) of the network in eval mode, which is left as it was."""
    assert images.labels is not None
    loss, right = 0.0, 0
    with isolated(network):
        network.eval()
        for start in range(0, len(images), TEST_BATCH):
            chosen = slice(start, start + TEST_BATCH)
            labels = images.labels[chosen].to(device)
            logits = network(to_float(images.pixels[chosen].to(device))).float()
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
    return loss / len(images), right / len(images)


def build_classifier(config: TrainConfig, images: Images) -> Classifier:
    """The initialized classifier of a config. It has judged a training batch: one that cannot is found here."""
    seed, model = config.seed, config.model
    assert isinstance(model, ClassifierModel)
    network = build_network(model, images.image_size, images.channels, classes=len(images.classes))
    reference = images.take(min(REFERENCE_IMAGES, len(images)), seed)
    initialize(
        network,
        model.initialization,
        generator=stream(seed, "initialization", "classifier"),
        reference=reference,
        **model.initialization_options,
    )
    set_reference(network, reference)
    refresh_reference(network, reference[: config.data.batch_size])
    with torch.no_grad(), isolated(network) as pure:
        pure(images.take(min(config.data.batch_size, len(images)), seed))
    return Classifier(network, **taken_by(Classifier, model))
