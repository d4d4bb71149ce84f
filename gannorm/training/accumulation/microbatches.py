"""How a GAN's step makes its two gradients: from the whole batch, or from microbatches of it.

N batch, n microbatch, C channels, H W pixels, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gannorm.errors import UserError
from gannorm.isolate import isolated
from gannorm.losses import AdversarialLoss
from gannorm.seeds import stream
from gannorm.training.accumulation.accumulate import accumulate_gradients, outputs_in_microbatches
from gannorm.training.assumptions import UNCOUPLED, coupling_ratio

if TYPE_CHECKING:
    from gannorm.training.gan import GAN

Judge = Callable[[Tensor], Tensor]  # a discriminator, or one behind an augmentation


class Gradients(Protocol):
    """A way to make the two gradients of a step. Each method leaves its gradient in `.grad`."""

    def fakes(self, gan: GAN, z: Tensor, last: bool) -> Tensor:
        """G(z), (N, C, H, W), for latents (N, Z); the `last` ones of a step are the generator step's too."""

    def discriminator(self, gan: GAN, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The discriminator's loss under "loss/d", (), and its parts; of images (N, C, H, W)."""

    def generator(self, gan: GAN, real: Tensor, z: Tensor, fake: Tensor) -> Tensor:
        """The generator's loss, ()."""


class WholeBatch:
    """The plain form: one backward pass a network."""

    def fakes(self, gan: GAN, z: Tensor, last: bool) -> Tensor:
        with torch.set_grad_enabled(last):
            return gan.generator(z)

    def discriminator(self, gan: GAN, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        loss, parts = gan.discriminator_terms(real, fake)
        gan.manual_backward(loss)
        return {"loss/d": loss.detach(), **parts}

    def generator(self, gan: GAN, real: Tensor, z: Tensor, fake: Tensor) -> Tensor:
        loss = gan.generator_loss(real, fake)
        gan.manual_backward(loss)
        return loss.detach()


@dataclass(frozen=True)
class Microbatches:
    """A batch in `parts` microbatches, in the `mode` of `accumulate_gradients`; the losses are means over the batch.

    What is accumulated closes over the networks, never over the GAN: whatever a function holds is kept and put back.
    """

    parts: int
    mode: str

    def fakes(self, gan: GAN, z: Tensor, last: bool) -> Tensor:
        # The last ones leave no trace in G: it makes them once more in its own step.
        return outputs_in_microbatches(gan.generator, z, len(z) // self.parts, self.mode, leave_traces=not last)

    def discriminator(self, gan: GAN, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """A joint microbatch has n real and n fake images, as the joint batch has N."""
        loss = self._adversarial(gan, real, fake)
        if weight := gan.penalty_weight:  # D judges single images, which share nothing: `check` has made sure
            discriminate, penalty, randomness = gan.discriminate, gan.penalty, gan._penalty_randomness

            def penalties(real: Tensor, fake: Tensor) -> Tensor:
                return weight * penalty(discriminate, real, fake, randomness)

            n = len(real) // self.parts
            loss = loss + accumulate_gradients(penalties, lambda values: values, (real, fake), n, "naive")
        return {"loss/d": loss}

    def _adversarial(self, gan: GAN, real: Tensor, fake: Tensor) -> Tensor:
        discriminator, loss, joint = gan.discriminate, gan.loss, gan.d_composition == "joint"

        def judge(*batches: Tensor) -> Tensor:  # (n, C, H, W) each -> (n, number of batches)
            return logits(discriminator, torch.cat(batches)).view(len(batches), -1).t()

        def judge_separately(*batches: Tensor) -> Tensor:  # the same, each batch in a pass of its own
            return torch.stack([logits(discriminator, batch) for batch in batches], 1)

        if joint or not isinstance(loss, AdversarialLoss):  # else the two kinds of images are sums of their own
            f = judge if joint else judge_separately
            return self._accumulate(f, lambda y: loss(y[:, 0], y[:, 1]), (real, fake))
        of_real = self._accumulate(judge, lambda y: loss.real(y[:, 0]), (real,))
        return of_real + self._accumulate(judge, lambda y: loss.fake(y[:, 0]), (fake,))

    def generator(self, gan: GAN, real: Tensor, z: Tensor, fake: Tensor) -> Tensor:
        generator, discriminator, dtype = gan.generator, gan.discriminate, real.dtype
        joint, loss = gan.g_composition == "joint", gan.loss

        def fool(z: Tensor, *real: Tensor) -> Tensor:  # (n, Z) and images -> (n,)
            fake = generator(z).to(dtype)  # under autocast it is bf16
            return logits(discriminator, torch.cat([*real, fake]))[-len(z) :]

        def compare(z: Tensor, real: Tensor) -> Tensor:  # -> (n, 2), of fake and real images
            fake = generator(z).to(dtype)
            if joint:
                return logits(discriminator, torch.cat([fake, real])).view(2, -1).t()
            return torch.stack([logits(discriminator, fake), logits(discriminator, real)], 1)

        if loss.needs_real:
            return self._accumulate(compare, lambda y: loss.fool(y[:, 0], y[:, 1]), (z, real))
        return self._accumulate(fool, loss.fool, (z, real) if joint else (z,))

    def _accumulate(self, f: Callable[..., Tensor], loss: Callable[[Tensor], Tensor], x: tuple[Tensor, ...]) -> Tensor:
        return accumulate_gradients(f, loss, x, len(x[0]) // self.parts, self.mode)

    def check(self, gan: GAN, real: Tensor) -> None:
        """Try out, without a trace, what a step does with the microbatches of `real`, (N, C, H, W).

        Raises:
            UserError: they cannot be accumulated so.
        """
        if len(real) % self.parts:
            raise UserError(
                f"`accumulate` must divide the batch: got accumulate={self.parts}, batch={len(real)}; choose a divisor."
            )
        if gan.penalty_weight and self.mode != "naive" and coupling_ratio(gan) > UNCOUPLED:
            raise UserError(
                "a gradient penalty is accumulated where the discriminator judges each image alone, as this one does "
                f"not: got accumulation={self.mode}; use --model.discriminator.norm group, layer or none."
            )
        z = torch.randn(len(real), gan.latent_dim, generator=stream(gan.seed, "accumulation"))
        gan.start_randomness()
        with isolated(gan.generator, gan.discriminator):
            fake = self.fakes(gan, z, last=True)
            self.discriminator(gan, real, fake)
            self.generator(gan, real, z, fake)


def logits(discriminator: Judge, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N,) in at least float32: bf16 would round away a small loss."""
    output = discriminator(images)
    return output.to(torch.promote_types(output.dtype, torch.float32))
