"""The two independent slots of every network: a layer normalizes activations, a parametrization normalizes weights.

They are study factors, so each is chosen by a plain name, declares what it does to the batch, and can be crossed with
any entry of the other slot. `NORMALIZERS["group"](64, groups=8)` builds a layer; `WEIGHT_NORMALIZERS["spectral"](conv)`
gives the same convolution with a normalized weight. A user's own normalizer enters through the decorator `normalizer`.

Every pair is defined. Where a layer divides by the scale of what it gets, as BatchNorm does behind a spectral norm,
the weight normalizer's factor cancels in the forward pass: such a pair is redundant in that place, not undefined, and
it still acts on the layers that no normalizer follows. Pairs that are undefined, all of them of a weight normalizer
with an initialization, are refused by `gannorm.models.initialization`.

N batch, C channels, H W pixels.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from gannorm.errors import UserError
from gannorm.registry import Registry, choices

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Normalizer:
    """An activation normalizer: how it is built, and what it declares about the batch in training mode.

    Forward coupling: a logit depends on the other images of its batch. Gradient coupling: its input gradient reaches
    them. The two are different properties: batch renormalization inside its clip range has only the second.

    Attributes:
        name: its name in a config.
        build: (channels, **options) → a layer acting on (N, C, H, W).
        forward_coupling, gradient_coupling: declared, and checked against the measured ones for every entry.
        title: what the literature calls it, for tables and figures; its name if it has no other.
        eval_coupling: in eval mode, too, the images of a batch depend on each other.
        activation: it brings its own nonlinearity; the network then puts none behind it.
        channels_last: whether a training step on a CPU gains from channels innermost in memory: always, in "float32"
            only, or, as where it reduces over the pixels of one image or draws noise in the order of the memory, not.
        min_pixels: H·W of the smallest map on which it is defined for a single image.
        note: one line for tables, where a flag needs a condition.
    """

    name: str
    build: Callable[..., nn.Module]
    forward_coupling: bool
    gradient_coupling: bool
    title: str = ""
    eval_coupling: bool = False
    activation: bool = False
    channels_last: bool | Literal["float32"] = False
    min_pixels: int = 1
    note: str = ""

    @property
    def reference(self) -> str:
        """Which reference batch its layers need, "fixed" or "fresh" (see `set_reference`); "" for none."""
        return getattr(self.build, "reference_kind", "")

    @property
    def across_processes(self) -> bool:
        """Whether it couples the batches of all processes, not of one."""
        return getattr(self.build, "across_processes", False)

    def __call__(self, channels: int, **options: Any) -> nn.Module:
        """A layer for `channels` channels.

        Raises:
            UserError: an option that this normalizer does not have, or not of the type that its signature asks for.
        """
        check_options(f"normalizer {self.name!r}", self.build, list(self.options), options)
        return self.build(channels, **options)

    @property
    def options(self) -> dict[str, Any]:
        """Option name → default value."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]  # the first is `channels`
        return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    def check(self, size: int) -> None:
        """Raises UserError unless the normalizer is defined on size × size maps; networks call it at construction."""
        if size * size < self.min_pixels:
            raise UserError(
                f"normalizer {self.name!r} needs maps of at least {self.min_pixels} pixels: got {size}x{size}; "
                "normalize at a larger map or choose 'layer' or 'none'."
            )


@dataclass(frozen=True)
class WeightNormalizer:
    """A weight normalizer: it gives a Conv2d, ConvTranspose2d or Linear a normalized weight, in place.

    Attributes:
        name: its name in a config.
        apply: (module, last) → the module, parametrized.
        activation: (channels) → the nonlinearity that belongs to it, for the places where the activation normalizer
            brings none of its own; None where the network keeps its own.
    """

    name: str
    apply: Callable[[nn.Module, bool], nn.Module]
    activation: Callable[[int], nn.Module] | None = None

    def __call__(self, module: nn.Module, last: bool = False) -> nn.Module:
        """Normalize the weight of `module`; strict_weight keeps a gain where `last`, the output layer."""
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            raise UserError(
                f"a weight normalizer acts on Conv2d, ConvTranspose2d or Linear: got {type(module).__name__}; "
                "normalize the layers inside it."
            )
        return self.apply(module, last)


def check_options(owner: str, build: Callable[..., Any], known: list[str], options: Mapping[str, Any]) -> None:
    """Refuse options that a factory does not have or whose annotated type they are not, and the usual ones' bad ranges.

    Args:
        owner: what has the options, as it is named in the error.
        build: the factory; an option without an annotation, or with another than plain types, may be anything.
        known: its options.
        options: name → value, as a config holds them. No bool is a number, and no option is nan.

    Raises:
        UserError: otherwise; also unless `eps` > 0 and `momentum` is in [0, 1].
    """
    hints = typing.get_type_hints(build.__init__ if inspect.isclass(build) else build)
    for name, value in options.items():
        if name not in known:
            remedy = choices(name, known) if known else "it takes none."
            raise UserError(f"{owner} has no option {name!r}: {remedy}")
        types = typing.get_args(hints.get(name)) or (hints.get(name),)
        if all(kind in PLAIN for kind in types) and not any(type(value) in PLAIN[kind] for kind in types):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in types)
            raise UserError(f"{owner} needs {wanted} for `{name}`: got {value!r}.")
        if name in RANGES and isinstance(value, (int, float)) and not RANGES[name][0](value):
            raise UserError(f"{owner} needs {RANGES[name][1]}: got {value!r}.")
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{owner} needs a number for `{name}`: got nan.")


# What a config's value may be where an option is annotated so; an int serves as a float, a bool never as a number.
PLAIN: dict[Any, tuple[type, ...]] = {
    **{kind: (kind,) for kind in (bool, int, str, type(None))},
    float: (float, int),
}
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "eps": (lambda eps: 0 < eps < math.inf, "`eps` > 0"),
    "momentum": (lambda momentum: 0 <= momentum <= 1, "`momentum` in [0, 1]"),
}
NORMALIZERS: Registry[Normalizer] = Registry("normalizer")
WEIGHT_NORMALIZERS: Registry[WeightNormalizer] = Registry("weight normalizer")


def normalizer(
    name: str,
    *,
    forward_coupling: bool,
    gradient_coupling: bool,
    title: str = "",
    eval_coupling: bool = False,
    activation: bool = False,
    channels_last: bool | Literal["float32"] = False,
    min_pixels: int = 1,
    note: str = "",
) -> Callable[[Factory], Factory]:
    """Register a class or function (channels, **options) → layer as an activation normalizer.

    Args:
        name: the name in configs. A built-in one cannot be replaced; one of your own is, by its next definition.
        forward_coupling, gradient_coupling: what it does to the batch in training mode; the probes check it.
        title, eval_coupling, activation, channels_last, min_pixels, note: as in `Normalizer`.

    A layer class may declare more: `reference_kind`, "fixed" or "fresh", for a reference batch (see
    `gannorm.normalizers.reference`), `across_processes`, and for exact accumulation the steps of `BatchStatistics`.

    >>> @normalizer("pixel_centred", forward_coupling=False, gradient_coupling=False)
    ... class Centred(nn.Module):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...     def forward(self, x):
    ...         return x - x.mean(dim=(2, 3), keepdim=True)
    >>> NORMALIZERS["pixel_centred"](64)
    Centred()
    """

    def add(factory: Factory) -> Factory:
        entry = Normalizer(
            name,
            factory,
            forward_coupling,
            gradient_coupling,
            title or name,
            eval_coupling,
            activation,
            channels_last,
            min_pixels,
            note,
        )
        NORMALIZERS.register(name, entry)
        return factory

    return add
