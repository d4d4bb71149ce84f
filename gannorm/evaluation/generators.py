"""One interface for generators: a module of latents, of latents and labels, or a function of a count.

N batch, C channels, H W pixels
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.data import to_uint8
from gannorm.errors import UserError, out_of_memory
from gannorm.isolate import modules_in

Output = str | int | Callable[[Any], Any]
Range = tuple[float, float]
SIGNED: Range = (-1.0, 1.0)


class NotFiniteError(UserError):
    """A generator's images hold NaN or infinities, so it has no score."""


class Draws:
    """Latents and labels of one seed; neither depends on how many are taken at a time.

    The latents are those of torch-fidelity for the same seed, so that its scores of the same generator are the same
    bits.
    """

    def __init__(self, seed: int, *stream: int) -> None:
        self.latents = np.random.RandomState([seed, *stream] if stream else seed)
        self.labels = np.random.RandomState([seed, *stream, 2])


@dataclass(frozen=True)
class Sampler:
    """A third-party generator as a function of `Draws` and a count.

    Args:
        generator: an nn.Module, or any callable; one without latents takes the count N.
        latent_shape: of one latent, such as (128,) or (100, 1, 1); () for a callable that takes the count.
        output: which part of what it returns holds the images: a key, an index, an attribute, or a function.
        labels: (M,) int64 of the real images, from which a conditional generator's labels are drawn, as its second
            argument; None for an unconditional one.
        value_range: what black and white are in its images; None: not stated, and taken to be (−1, 1).

    A call returns (N, C, H, W) images as it made them: uint8, or floats.
    """

    generator: Callable[..., Any]
    latent_shape: tuple[int, ...]
    output: Output | None = None
    labels: Tensor | None = None
    value_range: Range | None = None

    def __call__(self, draws: Draws, count: int) -> Tensor:
        if not self.latent_shape:
            return self._images(self.generator(count), count)
        like = next((p for module in self.modules for p in module.parameters()), torch.empty(0))
        latents = torch.from_numpy(draws.latents.randn(count, *self.latent_shape)).float().to(like)
        if self.labels is None:
            return self._images(self.generator(latents), count)
        chosen = torch.from_numpy(draws.labels.randint(len(self.labels), size=count))
        return self._images(self.generator(latents, self.labels[chosen].to(like.device)), count)

    def with_labels(self, labels: Tensor | None) -> Sampler:
        """A conditional generator with the real images' labels; any other unchanged."""
        return self if self.labels is None else replace(self, labels=_labels(labels))

    def first(self, count: int) -> Tensor:
        """Check a batch (N, C, H, W) before the scores; the error names the option to give."""
        try:
            images = self(Draws(0), count)
        except UserError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            if out_of_memory(error):
                raise
            reason = (str(error).strip().splitlines() or ["no message"])[0][:160]
            raise UserError(
                f"the generator must take {self.arguments}: {self.name} gave {type(error).__name__} ({reason}); state "
                "its own with latent_dim, latent_shape or conditional."
            ) from error
        check_finite(images)
        return images

    @property
    def modules(self) -> list[nn.Module]:
        return list(modules_in(self.generator).values())

    @property
    def name(self) -> str:
        return _name(self.generator)

    @property
    def arguments(self) -> str:
        """The arguments of its call, in words."""
        if not self.latent_shape:
            return "a number of images"
        shape = f"(N, {', '.join(map(str, self.latent_shape))})"
        return f"latents {shape}" + ("" if self.labels is None else " and labels (N,)")

    def bytes(self, images: Tensor) -> Tensor:
        """Images of a call as uint8, by the fixed map of `value_range` to 0…255, clipped at its ends."""
        if images.dtype == torch.uint8:
            return images
        return to_uint8(on_signed_range(images, self.value_range or SIGNED))

    def _images(self, returned: Any, count: int) -> Tensor:
        images = _part(returned, self.output, self.name)
        if images.dim() != 4 or len(images) != count or not (images.is_floating_point() or images.dtype == torch.uint8):
            raise UserError(
                f"the generator must return {count} images (N, C, H, W), floats or uint8: {self.name} returned "
                f"{_kind(images)}; select or reshape them with output."
            )
        return images


def sampler(
    generator: Callable[..., Any] | Sampler,
    *,
    latent_dim: int | None = None,
    latent_shape: Sequence[int] | None = None,
    output: Output | None = None,
    labels: Tensor | None = None,
    conditional: bool = False,
    value_range: Range | None = None,
) -> Sampler:
    """Make a `Sampler` of any generator.

    Args:
        generator: an nn.Module from latents to images, or any other callable: with latent_dim or latent_shape it takes
            latents, without them the number of images.
        latent_dim: Z, of latents (N, Z); by default a module's attribute of this name.
        latent_shape: of one latent otherwise, such as (100, 1, 1); by default a module's attribute of this name.
        output, labels, value_range: see `Sampler`.
        conditional: whether it takes labels as its second argument.

    Raises:
        UserError: nothing that can be called, no latent, or labels that are wanted and missing.
    """
    if isinstance(generator, Sampler):
        return generator
    if not callable(generator):
        raise UserError(
            f"the generator must be an nn.Module, a callable, uint8 images or a folder: got {type(generator).__name__}."
        )
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UserError(f"fake_range must be (black, white) with black below white: got {value_range}.")
    shape = _latent_shape(generator, latent_dim, latent_shape)
    if not conditional and shape and _required_arguments(generator) > 1:
        raise UserError(
            f"the generator must take latents alone: {_name(generator)} requires more arguments; with "
            "conditional=True it gets labels too, and a function of the latents can give it anything else."
        )
    return Sampler(generator, shape, output, _labels(labels) if conditional else None, value_range)


def on_signed_range(images: Tensor, value_range: Range) -> Tensor:
    """Floats on `value_range` moved to [−1, 1]."""
    low, high = value_range
    return images if low == -1 and high == 1 else (images - low) * (2 / (high - low)) - 1


def check_finite(images: Tensor) -> None:
    """Raises NotFiniteError for a NaN or an infinity."""
    if images.is_floating_point() and not images.isfinite().all():
        low, high = images.aminmax()
        raise NotFiniteError(
            f"a generator's images must be finite: got values from {low.item():.4g} to {high.item():.4g}; score an "
            "earlier checkpoint."
        )


class RangeWatch:
    """Warns once of images that break an assumption: another range, or no image content."""

    def __init__(self, value_range: Range | None = None) -> None:
        self.value_range, self.batches, self.is_outside = value_range, 0, False

    def see(self, images: Tensor) -> None:
        """Look at the next batch.

        Raises:
            NotFiniteError: it holds a NaN or an infinity.

        Warns:
            UserWarning: values outside the range, in any batch; a first batch that lies in [0, 1] where no range was
                stated, or without a picture.
        """
        check_finite(images)
        self.batches += 1
        low, high = (value.item() for value in images.aminmax())
        black, white = self.value_range or SIGNED if images.is_floating_point() else (0, 255)
        ends = f"[{black:g}, {white:g}]".replace("-", "−")
        values = f"{low:.4g} to {high:.4g}".replace("-", "−")
        slack = (white - black) / 510  # half a byte: tolerated as rounding
        if not self.is_outside and not black - slack <= low <= high <= white + slack:
            self.is_outside = True
            warnings.warn(
                f"images must lie in {ends}: got values from {values}; they were cut off at its ends. End the "
                "generator with tanh, or state its range with fake_range.",
                stacklevel=2,
            )
        if self.batches > 1:
            return
        if self.value_range is None and images.is_floating_point() and low >= 0 and high <= 1:
            warnings.warn(
                f"all values of the first {len(images)} images lie in [0, 1] ({values}): they were taken to be in "
                "[−1, 1], where 0 is grey; if 0 is black, give fake_range=(0, 1).",
                stacklevel=2,
            )
        warn_of_no_picture(images)


def warn_of_no_picture(images: Tensor, kind: str = "generated") -> None:
    """Warns of a batch (N, C, H, W) whose images are flat or all the same, or bytes that hold 0 and 1 alone."""
    flat = images.flatten(2)
    if bool((flat == flat[:, :, :1]).all()):
        what = "every image is of one flat colour"
    elif len(images) > 1 and bool((images == images[:1]).all()):
        what = "all images are the same"
    elif images.dtype == torch.uint8 and images.max() <= 1:
        what = "bytes are 0 and 1 alone, of 0 to 255: nearly black"
    else:
        return
    warnings.warn(f"among the first {len(images)} {kind} images, {what}; they are taken as they are.", stacklevel=3)


def _labels(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise UserError("a conditional generator needs the real images' labels: they have none; give real_labels.")
    return labels


def _latent_shape(
    generator: Callable[..., Any], latent_dim: int | None, latent_shape: Sequence[int] | None
) -> tuple[int, ...]:
    if latent_dim is not None and latent_shape is not None:
        raise UserError(f"give latent_dim or latent_shape: got both, {latent_dim} and {tuple(latent_shape)}.")
    if latent_dim is None and latent_shape is None and isinstance(generator, nn.Module):
        latent_dim, latent_shape = getattr(generator, "latent_dim", None), getattr(generator, "latent_shape", None)
        if latent_dim is None and latent_shape is None:
            raise UserError(
                f"the latent must be known: {_name(generator)} has no attribute latent_dim; give latent_dim=100 for "
                "latents (N, 100), or latent_shape=(100, 1, 1)."
            )
    shape = (latent_dim,) if latent_dim is not None else tuple(latent_shape or ())
    if not all(isinstance(n, Integral) and n > 0 for n in shape):
        raise UserError(f"latent_dim and latent_shape must be whole numbers above 0: got {shape}.")
    return tuple(map(int, shape))


def _required_arguments(generator: Callable[..., Any]) -> int:
    """The number of its positional arguments without a default; 1 if unknown."""
    try:
        function = generator.forward if isinstance(generator, nn.Module) else generator
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.default is p.empty and p.kind in by_position for p in parameters)


def _part(returned: Any, output: Output | None, name: str) -> Tensor:
    """The images in a generator's output."""
    if output is not None:
        try:
            returned = _selected(returned, output)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise UserError(f"output must select the images: {output!r} is not in {_kind(returned)}.") from None
    if isinstance(returned, np.ndarray):
        returned = torch.from_numpy(returned)
    if not isinstance(returned, Tensor):
        raise UserError(
            f"the generator must return a tensor of images: {name} returned {_kind(returned)}; name the images with "
            "output, for example output=0 or output='images'."
        )
    return returned.detach()


def _selected(returned: Any, output: Output) -> Any:
    if isinstance(output, str | int):
        if isinstance(output, str) and hasattr(returned, output):
            return getattr(returned, output)
        return returned[output]
    return output(returned)


def _kind(value: Any) -> str:
    """A value in words: its shape, or the keys of a dict."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _name(generator: Callable[..., Any]) -> str:
    return getattr(generator, "__name__", type(generator).__name__)
