"""A GAN's step from microbatches: what `accumulate_gradients` is given in each composition of the batches.

N batch, n microbatch, C channels, H W pixels, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gannorm.losses import AdversarialLoss
from gannorm.training.accumulation.accumulate import accumulate_gradients, outputs_in_microbatches


@dataclass(frozen=True)
class Microbatches:
    """A batch in `parts` microbatches, in the `mode` of `accumulate_gradients`.

    Each method that adds a gradient to `.grad` returns the mean loss over the batch, detached, ().
    """

    parts: int
    mode: str

    def fakes(self, generator: nn.Module, z: Tensor, leave_traces: bool) -> Tensor:
        """G(z), (N, C, H, W), without gradient; without traces G is left as it was."""
        return outputs_in_microbatches(generator, z, len(z) // self.parts, self.mode, leave_traces)

    def discriminator_gradient(
        self, discriminator: nn.Module, loss: AdversarialLoss, real: Tensor, fake: Tensor, joint: bool
    ) -> Tensor:
        """Of the discriminator's loss. A joint microbatch has n real and n fake images, as the joint batch has N."""

        def judge(*batches: Tensor) -> Tensor:  # (n, C, H, W) each -> (n, number of batches)
            return logits(discriminator, torch.cat(batches)).view(len(batches), -1).t()

        if joint:
            return self._accumulate(judge, lambda y: loss.real(y[:, 0]) + loss.fake(y[:, 1]), (real, fake))
        of_real = self._accumulate(judge, lambda y: loss.real(y[:, 0]), (real,))
        return of_real + self._accumulate(judge, lambda y: loss.fake(y[:, 0]), (fake,))

    def penalty_gradient(self, penalty: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """Of the mean of a penalty (real, fake) -> (n,) on a discriminator of single images, which share nothing."""
        return accumulate_gradients(penalty, lambda values: values, (real, fake), len(real) // self.parts, "naive")

    def generator_gradient(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        z: Tensor,
        real: Tensor,
        joint: bool,
    ) -> Tensor:
        """Of the generator's loss, its fakes judged alone or, `joint`, beside the real images."""
        dtype = real.dtype

        def fool(z: Tensor, *real: Tensor) -> Tensor:
            fake = generator(z).to(dtype)  # under autocast it is bf16
            return logits(discriminator, torch.cat([*real, fake]))[-len(z) :]

        return self._accumulate(fool, loss.fooled, (z, real) if joint else (z,))

    def _accumulate(self, f: Callable[..., Tensor], loss: Callable[[Tensor], Tensor], x: tuple[Tensor, ...]) -> Tensor:
        return accumulate_gradients(f, loss, x, len(x[0]) // self.parts, self.mode)


def logits(discriminator: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N,) in at least float32: bf16 would round away a small loss."""
    found = discriminator(images)
    return found.to(torch.promote_types(found.dtype, torch.float32))
