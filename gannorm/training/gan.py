"""The training step: alternating updates of a discriminator and a generator, with batch composition as a named factor.

N batch, C channels, H W pixels, Z latent. `step` counts generator updates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn

from gannorm import probes
from gannorm.data import ImageData
from gannorm.errors import UserError, require_positive
from gannorm.isolate import isolated, switched
from gannorm.losses import BUILT_IN, LOSSES, PENALTIES
from gannorm.normalizers.moments import moment_penalty, record_activations
from gannorm.normalizers.sync import alone
from gannorm.seeds import stream
from gannorm.training.accumulation.microbatches import Microbatches, logits
from gannorm.training.callbacks.ema import EMA
from gannorm.training.capture import WARM_UP, Captured, graphs_of

# At most, in a call of `training_step`: Lightning's part of a step is then a tenth of what it was. The images of a call
# and of the next one wait in memory; steps with so many that this would count need no such help.
STEPS_PER_CALL, CALL_BYTES = 10, 2**25
UNCOUPLED = 1e-6  # a coupling ratio below this is rounding, which leaves about 1e-13 in float32


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
        max_loss: a loss that is larger in absolute value, or NaN, ends the run as diverged.
        seed: of the latents.
        cuda_graph: on a GPU, launch a step as one graph where that is possible, see `gannorm.training.capture`.

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
        accumulate: int = 1,
        accumulation: Literal["exact", "frozen", "naive"] = "exact",
        lr_d: float = 2e-4,
        lr_g: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        ema_decay: float = 0.999,
        max_loss: float = 1e4,
        seed: int = 0,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__()
        self.loss, self.penalty, self._chosen = LOSSES[loss], PENALTIES[penalty], (loss, penalty)
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
        _require(max_loss > 0, f"`max_loss` must be positive: got {max_loss}.")
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim: int = generator.latent_dim  # type: ignore[assignment]
        self.ema = EMA(generator, ema_decay)
        self.d_composition, self.g_composition = d_composition, g_composition
        self.d_steps, self.betas, self.max_loss, self.seed = d_steps, betas, max_loss, seed
        self.accumulate, self.accumulation = accumulate, accumulation
        self.microbatches = Microbatches(accumulate, accumulation)
        self.lr_d, self.lr_g = lr_d, lr_g
        self.cuda_graph = cuda_graph
        self.launching = ""  # how a GPU's kernels are launched, for the printed line
        self.steps_per_call = 1  # how many steps a call of `training_step` makes; it is given the images of all
        self.watched = False  # whether somebody looks into this step, who would see nothing of a graph's replay
        self.shown: tuple[Tensor, ...] = ()  # real images, latents and fakes of its last discriminator update
        self.step = 0
        # Of the last step, on the device: reading one synchronises.
        self.losses: dict[str, Tensor] = {}
        self.parts: dict[str, Tensor] = {}  # of the losses, where they are logged apart
        self._parts: dict[str, Tensor] = {}
        self._trainable = [p for p in discriminator.parameters() if p.requires_grad]

    # -- the step -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Tensor, _: int) -> None:  # (steps_per_call·d_steps·N, C, H, W)
        for images in batch.unflatten(0, (self.steps_per_call, -1)):
            self._make_step(images)

    def _make_step(self, images: Tensor) -> None:  # (d_steps·N, C, H, W)
        compute = self._update if self.watched else self._compute
        found = compute(images)
        self.losses = {name: found[name] for name in ("loss_d", "loss_g")}
        self.parts = {name: value for name, value in found.items() if name not in self.losses}
        self.step += 1
        # Lightning counts the steps of optimizers that it wraps, each for itself and at their call, which a graph has
        # not. Counted here once a step, its counter equals ours.
        count = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        count.increment_ready()
        count.increment_completed()

    def _update(self, batch: Tensor) -> dict[str, Tensor]:
        """One step's updates of both networks and the average, all in place; the losses and their parts."""
        d_optimizer, g_optimizer = self._optimizers
        batches = batch.chunk(self.d_steps)
        for real in batches:
            z = self.latents(len(real))
            fake = self._fakes(z, last=real is batches[-1]).to(real.dtype)  # under autocast they are bf16
            if self.watched:
                self.shown = real, z, fake.detach()
            d_optimizer.zero_grad()
            d_loss = self._discriminator_gradient(real, fake.detach())
            parts = dict(self._parts)  # before whoever watches the update computes losses of his own
            d_optimizer.step()

        with switched(*((p, "requires_grad", False) for p in self._trainable)):
            g_optimizer.zero_grad()
            g_loss = self._generator_gradient(real, z, fake)
            g_optimizer.step()

        self.ema.update(self.generator)
        return {"loss_d": d_loss.detach(), "loss_g": g_loss.detach(), **parts}

    def _fakes(self, z: Tensor, last: bool) -> Tensor:
        """Images of latents (N, Z). The `last` ones of a step are the generator's too: with their graph, or, where they
        are accumulated, without a trace, since the generator makes them once more in its own step."""
        if self.accumulate > 1:
            return self.microbatches.fakes(self.generator, z, leave_traces=not last)
        with torch.set_grad_enabled(last):
            return self.generator(z)

    def _discriminator_gradient(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss; its gradient goes into .grad."""
        if self.accumulate == 1:
            loss = self.discriminator_loss(real, fake)
            self.manual_backward(loss)
            return loss
        joint, weight, randomness = self.d_composition == "joint", self.penalty_weight, self._penalty_randomness
        discriminator, penalty = self.discriminator, self.penalty
        loss = self.microbatches.discriminator_gradient(discriminator, self.loss, real, fake, joint)
        if weight:
            loss = loss + self.microbatches.penalty_gradient(
                lambda real, fake: weight * penalty(discriminator, real, fake, randomness), real, fake
            )
        return loss

    def _generator_gradient(self, real: Tensor, z: Tensor, fake: Tensor) -> Tensor:
        """The generator's loss; its gradient goes into .grad."""
        if self.accumulate == 1:
            loss = self.generator_loss(real, fake)
            self.manual_backward(loss)
            return loss
        joint = self.g_composition == "joint"
        return self.microbatches.generator_gradient(self.generator, self.discriminator, self.loss, z, real, joint)

    def check_accumulation(self, real: Tensor) -> None:
        """Try out, without a trace, what a step does with the microbatches of `real`, (N, C, H, W).

        Raises:
            UserError: they cannot be accumulated so.
        """
        _require(
            len(real) % self.accumulate == 0,
            f"`accumulate` must divide the batch: got accumulate={self.accumulate}, batch={len(real)}.",
        )
        if self.penalty_weight and self.accumulation != "naive" and self._coupling_ratio() > UNCOUPLED:
            raise UserError(
                "a gradient penalty is accumulated where the discriminator judges each image alone, as this one does "
                f"not: got accumulation={self.accumulation}; use --model.discriminator.norm group, layer or none."
            )
        z = torch.randn(len(real), self.latent_dim, generator=stream(self.seed, "accumulation"))
        self._penalty_randomness = stream(self.seed, "penalty")
        with isolated(self.generator, self.discriminator):
            fake = self._fakes(z, last=True)
            self._discriminator_gradient(real, fake)
            self._generator_gradient(real, z, fake)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss, penalties included, on images (N, C, H, W) composed as `d_composition` says."""
        batches = [torch.cat([real, fake])] if self.d_composition == "joint" else [real, fake]
        judged = [self._judge(batch) for batch in batches]
        found = torch.cat([logits for logits, _ in judged])
        loss = self.loss.discriminator(*found.tensor_split([len(real)]))
        if self.moment_weight:
            loss = loss + self.moment_weight * torch.stack([penalty for _, penalty in judged]).mean()
        if self.penalty_weight:
            penalties = self.penalty(self.discriminator, real, fake, self._penalty_randomness)
            loss = loss + self.penalty_weight * penalties.mean()
        return loss

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,) and the moment penalty of the activations on the way to them."""
        if not self.moment_weight:
            return logits(self.discriminator, images), images.new_zeros(())
        with record_activations(self.discriminator) as activations:
            found = logits(self.discriminator, images)
        penalty, by_layer = moment_penalty(activations)
        self._parts |= {f"moment_penalty/{layer}": value for layer, value in by_layer.items()}  # of the last batch
        return found, penalty

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's loss on fakes (N, C, H, W), seen alone or beside the real images."""
        if self.g_composition == "joint":
            return self.loss.generator(logits(self.discriminator, torch.cat([real, fake]))[len(real) :])
        return self.loss.generator(logits(self.discriminator, fake))

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
        self._optimizers: list[torch.optim.Optimizer] = self.optimizers(use_pl_optimizer=False)  # type: ignore
        self._latent_randomness = stream(self.seed, "latents", self.global_rank, device=self.device)
        self._penalty_randomness = stream(self.seed, "penalty", self.global_rank, device=self.device)
        self._compute = self._captured()
        self.steps_per_call = 1
        if isinstance(self._compute, Captured):
            self.steps_per_call = self._unseen_steps()  # images are drawn after this
            self.launching += f", {self.steps_per_call} steps a call"
        if self.penalty_weight:
            ratio = self._coupling_ratio()
            if ratio > UNCOUPLED:
                warnings.warn(
                    "a gradient penalty assumes that the discriminator judges each image alone (Gulrajani et al. 2017, "
                    f"p. 4): this one has a coupling ratio of {ratio:.2g}, so the penalty is another quantity; use "
                    "--model.discriminator.norm group, layer or none.",
                    stacklevel=2,
                )

    def on_fit_end(self) -> None:
        self._compute = self._update  # a graph keeps the memory of its step

    def _captured(self) -> Callable[[Tensor], dict[str, Tensor]]:
        """A step as a graph, where the device has them and the step is one program."""
        graphs = graphs_of(self.device)
        if graphs is None:
            return self._update
        networks = (self.generator, self.discriminator, self.ema)
        kinds = {type(module) for network in networks for module in network.modules()}
        foreign = [kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] not in ("gannorm", "torch")]
        foreign += [name for name in self._chosen if name not in BUILT_IN]
        reasons = {
            "cuda_graph off": not self.cuda_graph,
            "microbatches are accumulated": self.accumulate > 1,
            "several processes average their gradients in between": self.trainer.world_size > 1,
            f"whether {', '.join(sorted(foreign))} does the same at every step is not known": bool(foreign),
        }
        reason = next((reason for reason, holds in reasons.items() if holds), "")
        self.launching = f"single kernels ({reason})" if reason else f"one CUDA graph a step after the first {WARM_UP}"
        if reason:
            return self._update
        randomness = [self._latent_randomness, self._penalty_randomness]
        return Captured(self._update, self._state, self._optimizers, randomness, graphs)

    def _state(self) -> dict[str, list[Tensor]]:
        """What a step updates: the weights of each network, and its buffers of each name, which have one scale."""
        groups: dict[str, list[Tensor]] = {}
        networks = {"the generator": self.generator, "the discriminator": self.discriminator, "the average": self.ema}
        for owner, network in networks.items():
            groups[f"weights of {owner}"] = list(network.parameters())
            for name, buffer in network.named_buffers():
                groups.setdefault(f"{name.rpartition('.')[2]} of {owner}", []).append(buffer)
        return groups

    def _unseen_steps(self) -> int:
        """How many steps may be made at a time, so that whoever acts after a step, or watches one, finds it as ever."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageData):  # whose loader joins batches
            return 1
        most = min(STEPS_PER_CALL, CALL_BYTES // (4 * data.batch_size * data.train.pixels[0].numel()))
        seen = [self.step, self.trainer.max_steps]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            known = isinstance(callback, Timer) or type(callback).__module__.startswith("gannorm.")
            seen.append(getattr(callback, "sees_every", 0) if known else 1)
        return next((steps for steps in range(most, 1, -1) if math.gcd(*seen) % steps == 0), 1)

    def _coupling_ratio(self) -> float:
        size, channels = self.discriminator.image_size, self.discriminator.channels
        x = torch.randn(8, channels, size, size, generator=stream(self.seed, "coupling")).to(self.device)  # type: ignore
        with alone():
            return probes.estimate_coupling(self.discriminator, x, generator=stream(self.seed, "draws")).ratio

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)
