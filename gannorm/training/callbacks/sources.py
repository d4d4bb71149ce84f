"""Where a measurement during training gets its real images and its fakes, in the form in which D takes them.

The form is that of the fakes: a tensor (N, …), or a tuple or dictionary of these for a conditional discriminator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from gannorm.arithmetic import new_tensors_in
from gannorm.errors import UserError
from gannorm.probes.batch import map_tensors, take, tensors


class RealImages:
    """Real images for measurements: given, drawn by a function, held out by our data module, or seen in training.

    Args:
        real: a tensor, tuple or dict of tensors; an iterable of batches; (module, n) -> n images; or None.
        seed: of the choice among held-out images.
    """

    def __init__(self, real: Any, seed: int) -> None:
        self.real, self.seed = real, seed
        self._kept: Any = None  # images that do not change
        self._seen: deque[Any] = deque(maxlen=0)  # the training batches before a measurement

    def find(self, trainer: Any, batch: Any, fake: Any, wanted: int) -> int:
        """How many of the `wanted` images there will be. `batch` is a training batch, `fake` shows the form.

        Raises:
            UserError: `real` is no source of such images, or an iterable that ends too early.
        """
        self._kept, self._seen = None, deque(maxlen=0)
        if self.real is None:
            return self._default(trainer, batch, wanted)
        if tensors(self.real) and not isinstance(self.real, list):
            self._kept = in_form_of(fake, self.real, "`real`")
            return length(self._kept)
        if callable(self.real):
            return wanted
        if not isinstance(self.real, Iterable):
            raise UserError(
                "`real` must be a tensor or a tuple of tensors, an iterable of batches, or a function (module, n) -> "
                f"images: got {type(self.real).__name__}."
            )
        parts: list[Any] = []
        for part in self.real:
            parts.append(in_form_of(fake, part, "`real`"))
            if sum(map(length, parts)) >= wanted:
                break
        if (got := sum(map(length, parts))) < wanted:
            raise UserError(
                f"`real` must yield the images of a measurement: got {got} of {wanted}; pass more of them, or a "
                "smaller `images`."
            )
        self._kept = joined(parts)
        return got

    def _default(self, trainer: Any, batch: Any, wanted: int) -> int:
        held_out: Any = getattr(getattr(trainer, "datamodule", None), "test", None)
        if hasattr(held_out, "take") and hasattr(held_out, "pixels"):  # our data module's
            n = min(wanted, len(held_out))
            self._kept = held_out.take(n, self.seed)
            return n
        self._seen = deque(maxlen=-(-wanted // max(1, length(batch))))
        return wanted

    def see(self, batch: Any, before_measurement: int) -> None:
        """Keep a training batch if it is one of the last before a measurement, which is so many batches away."""
        if before_measurement < (self._seen.maxlen or 0):
            self._seen.append(map_tensors(lambda t: t.detach().clone(), batch))

    def take(self, module: Any, fake: Any, n: int) -> Any:
        """n images on the module's device; fewer where the batches seen hold fewer.

        Raises:
            UserError: they have not the form of the fakes, or a function returns too few.
        """
        if self._kept is not None:
            real = self._kept
        elif self._seen.maxlen:
            real = joined([in_form_of(fake, batch, "the training batch") for batch in self._seen])
        else:
            with _precision_of(module):
                real = in_form_of(fake, self.real(module, n), "`real`")
            if length(real) < n:
                raise UserError(f"`real` must return as many images as it is asked for: got {length(real)} of {n}.")
        real = placed(take(real, torch.arange(min(n, length(real)))), module)
        wanted, given = (map_tensors(lambda t: tuple(t.shape[1:]), x) for x in (real, fake))
        if wanted != given:
            raise UserError(
                f"real images and fakes must have one shape: got {wanted} and {given} an image; mend `fakes` or `real`."
            )
        return real

    def trained_on(self, trainer: Any, module: Any, n: int) -> Any:
        """n training images where the others are held out, None otherwise: D may know what it was trained on."""
        if self.real is not None or self._seen.maxlen:
            return None
        images = trainer.datamodule.train
        return placed(images.take(min(n, len(images)), self.seed), module)


@torch.no_grad()
def draw_fakes(fakes: Callable[[Any, int], Any] | None, module: Any, n: int) -> Any:
    """n fakes of a function (module, n) -> fakes; by default of our GAN's generator, in training mode.

    Raises:
        UserError: it returns another number of them.
    """
    if fakes is None:
        module.generator.train()
        fake = module.generator(torch.randn(n, module.latent_dim, device=module.device))
    else:
        with _precision_of(module):
            fake = fakes(module, n)
    leaves = tensors(fake)
    if not leaves or any(t.dim() == 0 or len(t) != n for t in leaves):
        got = ", ".join(str(tuple(t.shape)) for t in leaves) or type(fake).__name__
        raise UserError(f"`fakes` must return as many fakes as it is asked for: got {got} for n={n}.")
    return placed(fake, module)


def in_form_of(fake: Any, x: Any, name: str) -> Any:
    """Real images in the form of the fakes: of a batch with more parts than these, the first."""
    if isinstance(fake, Tensor):
        if leaves := tensors(x):
            return leaves[0]
    elif isinstance(fake, tuple | list) and isinstance(x, tuple | list) and len(x) >= len(fake):
        return type(fake)(x[: len(fake)])
    elif isinstance(fake, dict) and isinstance(x, dict) and fake.keys() <= x.keys():
        return {key: x[key] for key in fake}
    raise UserError(
        f"real images must come in the form of the fakes: {name} is a {type(x).__name__} and `fakes` gives a "
        f"{type(fake).__name__}."
    )


def length(x: Any) -> int:
    """The number of samples in a batch."""
    return next((len(t) for t in tensors(x) if t.dim()), 0)


def joined(parts: Sequence[Any]) -> Any:
    return map_tensors(lambda *t: torch.cat(t), parts[0], *parts[1:])


def _precision_of(module: Any) -> AbstractContextManager[None]:
    """New tensors have the precision of the module's weights, as in a training step of a module in bf16."""
    return new_tensors_in(_weight(module).dtype)


def _weight(module: Any) -> Tensor:
    return next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))


def placed(x: Any, module: Any) -> Any:
    """On the module's device, and floats in the precision of its weights."""
    weight = _weight(module)
    return map_tensors(lambda t: t.detach().to(weight.device, weight.dtype if t.is_floating_point() else t.dtype), x)
