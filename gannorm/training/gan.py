"""The training step: alternating updates of a discriminator and a generator, with batch composition as a named factor.

N batch, C channels, H W pixels, Z latent. `step` counts generator updates.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gannorm import probes
from gannorm.errors import UserError
from gannorm.losses import LOSSES, PENALTIES
from gannorm.normalizers.moments import moment_penalty, record_activations
from gannorm.seeds import stream
from gannorm.training.ema import EMA


class GAN(LightningModule):
    """A generator and a discriminator in training.

    One training step takes `d_steps` real batches, updates the discriminator on each, then the generator once. The last
    discriminator step and the generator step share one generator forward: the generator does not change in between, so
    the fakes would be drawn from the same distribution either way. The discriminator's weights get no gradient in the
    generator step.

    How a batch normalizer in the discriminator sees the images is decided by the two compositions, which are different
    models with it and the same model without it. All four combinations exist in published code.

    Args:
        generator: (N, Z) -> (N, C, H, W) in [−1, 1], with an attribute `latent_dim`.
        discriminator: (N, C, H, W) -> (N,) logits, positive for "real".
        loss: a name in LOSSES.
        penalty: a name in PENALTIES: "none", "r1" or "gradient".
        penalty_weight: factor of the penalty in the discriminator's loss.
        moment_weight: factor of the penalty that pulls each of the discriminator's layers toward zero mean and unit
            variance, an alternative to normalizing; its parts are logged by layer.
        d_composition: in the discriminator's step, real and fake images in "separate" batches or one "joint" batch.
        g_composition: in the generator's step, the discriminator sees the "fake" batch alone, or "joint" with the real.
        d_steps: discriminator updates for each generator update.
        lr_d: Adam's learning rate for the discriminator.
        lr_g: Adam's learning rate for the generator.
        betas: Adam's β₁ and β₂.
        ema_decay: of the averaged generator that is sampled and scored; 0 follows the generator itself.
        max_loss: a loss that is larger in absolute value, or NaN, ends the run as diverged.
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
        d_composition: Literal["separate", "joint"] = "separate",
        g_composition: Literal["fake", "joint"] = "fake",
        d_steps: int = 1,
        lr_d: float = 2e-4,
        lr_g: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        ema_decay: float = 0.999,
        max_loss: float = 1e4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss, self.penalty = LOSSES[loss], PENALTIES[penalty]
        self.penalty_weight = penalty_weight if penalty != "none" else 0.0
        self.moment_weight = moment_weight
        _require(d_steps >= 1, f"`d_steps` must be at least 1: got {d_steps}.")
        _require(lr_d > 0 and lr_g > 0, f"learning rates must be positive: got lr_d={lr_d}, lr_g={lr_g}.")
        _require(all(0 <= b < 1 for b in betas), f"`betas` must be in [0, 1): got {betas}.")
        _require(0 <= ema_decay < 1, f"`ema_decay` must be in [0, 1): got {ema_decay}; 0 switches averaging off.")
        _require(penalty_weight >= 0 and moment_weight >= 0, "penalty weights must not be negative.")
        _require(max_loss > 0, f"`max_loss` must be positive: got {max_loss}.")
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim: int = generator.latent_dim  # type: ignore[assignment]
        self.ema = EMA(generator, ema_decay)
        self.d_composition, self.g_composition = d_composition, g_composition
        self.d_steps, self.betas, self.max_loss, self.seed = d_steps, betas, max_loss, seed
        self.lr_d, self.lr_g = lr_d, lr_g
        self.step = 0
        # Of the last step, on the device: reading one synchronises.
        self.losses: dict[str, Tensor] = {}
        self.parts: dict[str, Tensor] = {}  # of the losses, where they are logged apart
        self._trainable = [p for p in discriminator.parameters() if p.requires_grad]

    # -- the step -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Tensor, _: int) -> None:  # (d_steps·N, C, H, W)
        d_optimizer, g_optimizer = self._d_optimizer, self.optimizers()[1]  # type: ignore[index]
        batches = batch.chunk(self.d_steps)
        for real in batches:
            with torch.set_grad_enabled(real is batches[-1]):
                fake = self.generator(self.latents(len(real))).to(real.dtype)  # under autocast it is bf16
            d_loss = self.discriminator_loss(real, fake.detach())
            d_optimizer.zero_grad()
            self.manual_backward(d_loss)
            d_optimizer.step()

        _set_requires_grad(self._trainable, False)
        g_loss = self.generator_loss(real, fake)
        g_optimizer.zero_grad()
        self.manual_backward(g_loss)
        g_optimizer.step()
        _set_requires_grad(self._trainable, True)

        self.ema.update(self.generator)
        self.step += 1
        self.losses = {"loss_d": d_loss.detach(), "loss_g": g_loss.detach()}

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss, penalties included, on images (N, C, H, W) composed as `d_composition` says."""
        batches = [torch.cat([real, fake])] if self.d_composition == "joint" else [real, fake]
        judged = [self._judge(batch) for batch in batches]
        logits = torch.cat([logits for logits, _ in judged])
        loss = self.loss.discriminator(*logits.tensor_split([len(real)]))
        if self.moment_weight:
            loss = loss + self.moment_weight * torch.stack([penalty for _, penalty in judged]).mean()
        if self.penalty_weight:
            penalty = self.penalty(self.discriminator, real, fake, self._penalty_randomness)
            loss = loss + self.penalty_weight * penalty
        return loss

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,) and the moment penalty of the activations on the way to them."""
        if not self.moment_weight:
            return self._logits(images), images.new_zeros(())
        with record_activations(self.discriminator) as activations:
            logits = self._logits(images)
        penalty, by_layer = moment_penalty(activations)
        self.parts |= {f"moment_penalty/{layer}": value for layer, value in by_layer.items()}  # of the last batch
        return logits, penalty

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's loss on fakes (N, C, H, W), seen alone or beside the real images."""
        if self.g_composition == "joint":
            return self.loss.generator(self._logits(torch.cat([real, fake]))[len(real) :])
        return self.loss.generator(self._logits(fake))

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.discriminator(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))  # bf16 would round away a small loss

    def latents(self, n: int) -> Tensor:
        """The next (n, Z) standard normal latents of the run."""
        return torch.randn(n, self.latent_dim, generator=self._latent_randomness, device=self.device)

    # -- Lightning's hooks --------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self._trainable, lr=self.lr_d, betas=self.betas, fused=True),
            torch.optim.Adam(self.generator.parameters(), lr=self.lr_g, betas=self.betas, fused=True),
        ]

    def on_fit_start(self) -> None:
        # Lightning counts a step of every optimizer that it wraps: only the generator's is, so its counter equals ours.
        self._d_optimizer = self.optimizers(use_pl_optimizer=False)[0]  # type: ignore[index]
        self._latent_randomness = stream(self.seed, "latents", self.global_rank, device=self.device)
        self._penalty_randomness = stream(self.seed, "penalty", self.global_rank, device=self.device)
        if self.penalty_weight:
            self._warn_of_coupling()

    def _warn_of_coupling(self) -> None:
        size, channels = self.discriminator.image_size, self.discriminator.channels
        x = torch.randn(8, channels, size, size, generator=stream(self.seed, "coupling")).to(self.device)  # type: ignore
        ratio = probes.estimate_coupling(self.discriminator, x, generator=stream(self.seed, "draws")).ratio
        if ratio > 1e-6:  # fp32 rounding leaves about 1e-13
            warnings.warn(
                "a gradient penalty assumes that the discriminator judges each image alone (Gulrajani et al. 2017, "
                f"p. 4): this one has a coupling ratio of {ratio:.2g}, so the penalty is another quantity; use "
                "--model.discriminator.norm group, layer or none.",
                stacklevel=2,
            )

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step
        checkpoint["random"] = {
            "latents": self._latent_randomness.get_state(),
            "penalty": self._penalty_randomness.get_state(),
            "cpu": torch.get_rng_state(),  # dropout, noisy normalizers
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step, self._restored = checkpoint["step"], checkpoint["random"]

    def on_train_start(self) -> None:
        restored = self.__dict__.pop("_restored", None)
        if restored:
            self._latent_randomness.set_state(restored["latents"].cpu())
            self._penalty_randomness.set_state(restored["penalty"].cpu())
            torch.set_rng_state(restored["cpu"].cpu())
            if restored["cuda"]:
                torch.cuda.set_rng_state_all([s.cpu() for s in restored["cuda"]])


def _set_requires_grad(parameters: list[nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)
