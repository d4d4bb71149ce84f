"""The GAN: two networks, their losses, their two gradients and their optimizers, and nothing else.

N batch, C channels, H W pixels, Z latent. `step` counts generator updates.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gannorm.errors import UserError, require_positive
from gannorm.isolate import switched
from gannorm.losses import LOSSES, PENALTIES
from gannorm.losses.moments import moment_penalty, record_activations
from gannorm.models.augmentation import AUGMENTATIONS, augmented
from gannorm.normalizers.reference import fresh_references, refresh_reference, restore_references
from gannorm.seeds import stream
from gannorm.training.accumulation.microbatches import Gradients, Microbatches, WholeBatch, logits
from gannorm.training.assumptions import warn_of_assumptions
from gannorm.training.callbacks.ema import EMA


class GAN(LightningModule):
    """A generator and a discriminator in training.

    A step takes `d_steps` real batches, updates the discriminator on each, then the generator once. The last
    discriminator step and the generator step share one generator forward: the generator does not change in between, so
    the fakes would be drawn from the same distribution either way. The discriminator's weights get no gradient in the
    generator step.

    How a batch normalizer in the discriminator sees the images is decided by the two compositions, which are different
    models with it and the same model without it. All four combinations exist in published code.

    Args:
        generator: (N, Z) -> (N, C, H, W) in [−1, 1], with an attribute `latent_dim`.
        discriminator: (N, C, H, W) -> (N,) logits, positive for "real".
        loss: a name in LOSSES.
        penalty: of the discriminator, a name in PENALTIES.
        penalty_weight: factor of the penalty in the discriminator's loss.
        moment_weight: factor of the penalty that pulls each of the discriminator's layers toward zero mean and unit
            variance, an alternative to normalizing; its parts are logged by layer.
        augment: what is done to real and fake images alike before the discriminator, a name in AUGMENTATIONS.
        d_composition: in the discriminator's step, real and fake images in "separate" batches or one "joint" batch.
        g_composition: in the generator's step, the discriminator sees the "fake" batch alone, or "joint" with the real.
        d_steps: discriminator updates for each generator update.
        accumulate: microbatches that an update's batch is split into, which must divide it; 1 for none. Memory is that
            of one microbatch, as `d_composition` and `g_composition` compose it.
        accumulation: what a batch normalizer in either network normalizes a microbatch by, see `accumulate_gradients`:
            "exact" computes the step of the undivided batch, in at most 2L + 2 times the time of "naive" for the L
            batch normalizers on the way; "frozen" lacks the gradient through the statistics; "naive" is another model,
            ghost batch normalization of the microbatch's size.
        lr_d: Adam's learning rate for the discriminator.
        lr_g: Adam's learning rate for the generator.
        betas: Adam's β₁ and β₂.
        ema_decay: of the averaged generator that is sampled and scored; 0 follows the generator itself.
        max_loss: a loss that is larger in absolute value (exploded), or not finite, ends the run.
        seed: of the latents.

    Raises:
        UserError: an unknown loss or penalty, or a number out of range.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str = "non_saturating",
        penalty: str = "none",
        penalty_weight: float = 10.0,
        moment_weight: float = 0.0,
        augment: str = "none",
        d_composition: Literal["separate", "joint"] = "separate",
        g_composition: Literal["fake", "joint"] = "fake",
        d_steps: int = 1,
        accumulate: int = 1,
        accumulation: Literal["exact", "frozen", "naive"] = "exact",
        lr_d: float = 2e-4,
        lr_g: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        ema_decay: float = 0.999,
        max_loss: float = 1e4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["generator", "discriminator"], logger=False)
        self.loss, self.penalty = LOSSES[loss], PENALTIES[penalty]
        self.view = AUGMENTATIONS[augment]
        self.discriminate = augmented(discriminator, self.view)  # as both losses see it
        self.penalty_weight = penalty_weight if penalty != "none" else 0.0
        self.moment_weight = moment_weight
        require_positive(d_steps=d_steps, accumulate=accumulate)
        _require(lr_d > 0 and lr_g > 0, f"learning rates must be positive: got lr_d={lr_d}, lr_g={lr_g}.")
        _require(all(0 <= b < 1 for b in betas), f"`betas` must be in [0, 1): got {betas}.")
        _require(0 <= ema_decay < 1, f"`ema_decay` must be in [0, 1): got {ema_decay}; 0 switches averaging off.")
        _require(penalty_weight >= 0 and moment_weight >= 0, "penalty weights must not be negative.")
        _require(
            accumulate == 1 or not moment_weight,
            f"`moment_weight` pulls at the whole batch's moments, not a microbatch's: got accumulate={accumulate}; "
            "set accumulate 1 or moment_weight 0.",
        )
        _require(
            accumulate == 1 or not self.loss.couples_batch,
            f"loss {loss!r} compares each image with the mean of its batch, not of a microbatch: got "
            f"accumulate={accumulate}; set accumulate 1 or choose another loss.",
        )
        _require(max_loss > 0, f"`max_loss` must be positive: got {max_loss}.")
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim: int = generator.latent_dim  # type: ignore[assignment]
        self.ema = EMA(generator, ema_decay)
        self.d_composition, self.g_composition = d_composition, g_composition
        self.d_steps, self.betas, self.max_loss, self.seed = d_steps, betas, max_loss, seed
        self.gradients: Gradients = WholeBatch() if accumulate == 1 else Microbatches(accumulate, accumulation)
        self.lr_d, self.lr_g = lr_d, lr_g
        self.step = 0
        # Of the last step, on the device: reading one synchronises.
        self.losses: dict[str, Tensor] = {}
        self.parts: dict[str, Tensor] = {}  # beside the losses: D(x), D(G(z)), penalties by layer
        self.drawn: tuple[Tensor, ...] = ()  # real images, latents and fakes of the last discriminator update
        self._trainable = [p for p in discriminator.parameters() if p.requires_grad]
        self._optimizers: list[torch.optim.Optimizer] = []

    # -- the step -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Tensor, _: int) -> None:  # (d_steps·N, C, H, W)
        figures = self.update(batch)
        self.losses = {name: figures[name] for name in ("loss/d", "loss/g")}
        self.parts = {name: value for name, value in figures.items() if name not in self.losses}
        self.step += 1
        # Lightning counts the steps of optimizers that it wraps, each for itself. Counted here, its counter is `step`.
        count = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        count.increment_ready()
        count.increment_completed()
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.step % every == 0:
            self.log_dict(self.figures())

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        """One step's updates of both networks and the average, all in place; the losses and their parts, detached."""
        d_optimizer, g_optimizer = self._optimizers
        batches = batch.chunk(self.d_steps)
        for real in batches:
            z = self.latents(len(real))
            fake = self.gradients.fakes(self, z, last=real is batches[-1]).to(real.dtype)  # under autocast it is bf16
            self.drawn = real, z, fake.detach()
            d_optimizer.zero_grad()
            figures = self.gradients.discriminator(self, real, fake.detach())
            d_optimizer.step()

        with switched(*((p, "requires_grad", False) for p in self._trainable)):
            g_optimizer.zero_grad()
            figures["loss/g"] = self.gradients.generator(self, real, z, fake)
            g_optimizer.step()

        # For normalizers that ask for it: images beside which the next step's are judged, and latents.
        refresh_reference(self.discriminator, real, fake, view=self.view)
        refresh_reference(self.generator, z)
        self.ema.update(self.generator)
        return figures

    def discriminator_terms(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss, penalties included, and what is logged beside it.

        The images, (N, C, H, W) each, are composed as `d_composition` says.
        """
        batches = [torch.cat([real, fake])] if self.d_composition == "joint" else [real, fake]
        by_layer: dict[str, Tensor] = {}
        penalties, judged = [], []
        for batch in batches:
            if self.moment_weight:
                with record_activations(self.discriminator) as activations:
                    judged.append(logits(self.discriminate, batch))
                moments, by_layer = moment_penalty(activations)  # those of the last batch are logged
                penalties.append(moments)
            else:
                judged.append(logits(self.discriminate, batch))
        of_real, of_fake = torch.cat(judged).tensor_split([len(real)])
        loss = self.loss.discriminator(of_real, of_fake)
        if self.moment_weight:
            loss = loss + self.moment_weight * torch.stack(penalties).mean()
        if self.penalty_weight:
            penalty = self.penalty(self.discriminate, real, fake, self._penalty_randomness)
            loss = loss + self.penalty_weight * penalty.mean()
        parts = {"logit/real": of_real.detach().mean(), "logit/fake": of_fake.detach().mean()}
        return loss, parts | {f"moment_penalty/{layer}": value for layer, value in by_layer.items()}

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss on images (N, C, H, W), penalties included, ()."""
        return self.discriminator_terms(real, fake)[0]

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's loss on fakes (N, C, H, W), seen alone or beside the real images, ()."""
        if self.g_composition == "joint":
            of_real, of_fake = logits(self.discriminate, torch.cat([real, fake])).tensor_split([len(real)])
            return self.loss.generator(of_fake, of_real)
        of_fake = logits(self.discriminate, fake)
        return self.loss.generator(of_fake, logits(self.discriminate, real) if self.loss.needs_real else None)

    def latents(self, n: int) -> Tensor:
        """The next (n, Z) standard normal latents of the run."""
        return torch.randn(n, self.latent_dim, generator=self._latent_randomness, device=self.device)

    @torch.no_grad()
    def figures(self) -> dict[str, Tensor | float]:
        """What is logged of the last step: losses, mean logits, gradient norms, learning rates."""
        figures: dict[str, Tensor | float] = {**self.losses, **self.parts}
        networks = {"d": self.discriminator, "g": self.generator}
        for name, network in networks.items():
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            figures[f"gradient_norm/{name}"] = nn.utils.get_total_norm(gradients)
        for name, optimizer in zip(networks, self._optimizers, strict=False):
            figures[f"learning_rate/{name}"] = float(optimizer.param_groups[0]["lr"])
        return figures

    # -- Lightning's hooks --------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self._trainable, lr=self.lr_d, betas=self.betas, fused=True),
            torch.optim.Adam(self.generator.parameters(), lr=self.lr_g, betas=self.betas, fused=True),
        ]

    def on_fit_start(self) -> None:
        self._optimizers = self.optimizers(use_pl_optimizer=False)  # type: ignore[assignment]
        self.start_randomness()
        warn_of_assumptions(self)

    def start_randomness(self) -> None:
        """Put the generators of latents and penalties at the beginning of the run's."""
        self._latent_randomness = stream(self.seed, "latents", self.global_rank, device=self.device)
        self._penalty_randomness = stream(self.seed, "penalty", self.global_rank, device=self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step
        checkpoint["references"] = fresh_references(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]
        restore_references(self, checkpoint.get("references", {}))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)
