"""Networks from the `model` part of a configuration: the built-in architectures and a user's own, by name.

`DISCRIMINATORS` and `GENERATORS` hold "vgg" and "residual"; a user adds to them with the decorators `discriminator` and
`generator`, in a module that a command loads with `--import`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from gannorm.config import ClassifierModel, GANModel
from gannorm.errors import UserError
from gannorm.models.discriminator import Discriminator
from gannorm.models.generator import Generator
from gannorm.models.residual import ResidualDiscriminator, ResidualGenerator
from gannorm.registry import Registry, decorator

# `_build` also sets the attributes that training needs on a user's class.
Generators = Generator | ResidualGenerator
Discriminators = Discriminator | ResidualDiscriminator

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

DISCRIMINATORS: Registry[Callable[..., nn.Module]] = Registry("discriminator")
GENERATORS: Registry[Callable[..., nn.Module]] = Registry("generator")
for _registry, _vgg, _residual in (
    (DISCRIMINATORS, Discriminator, ResidualDiscriminator),
    (GENERATORS, Generator, ResidualGenerator),
):
    _registry.register("vgg", _vgg)
    _registry.register("residual", _residual)
    _registry.seal()


def discriminator(name: str) -> Callable[[Factory], Factory]:
    """Register a class or function that makes a discriminator: keywords → module, (N, C, H, W) → (N,) logits.

    It is called with those keywords of `Discriminator` that its signature names, at least `image_size` and `channels`.
    `--model.discriminator.architecture NAME` chooses it. What a config sets beside that, and the signature does not
    name, is an error, so that no setting is without effect. To leave the normalizer to the config, take `norm` and
    `norm_options` and build each layer by `NORMALIZERS[norm](channels, **(norm_options or {}))`; without, the config's
    `norm` must be "none".

    Args:
        name: the name in configs. A built-in one cannot be replaced; one of your own is, by its next definition.

    >>> @discriminator("linear_docs")
    ... class Linear(nn.Sequential):
    ...     def __init__(self, image_size, channels):
    ...         super().__init__(nn.Flatten(), nn.Linear(channels * image_size**2, 1), nn.Flatten(0))
    >>> "linear_docs" in DISCRIMINATORS
    True
    """
    return decorator(DISCRIMINATORS, name)  # type: ignore[return-value]


def generator(name: str) -> Callable[[Factory], Factory]:
    """Register a class or function that makes a generator: keywords → module, (N, Z) → (N, C, H, W) in [−1, 1].

    As `discriminator`, with the keywords of `Generator`, at least `image_size`, `channels` and `latent_dim`.
    """
    return decorator(GENERATORS, name)  # type: ignore[return-value]


def build_networks(model: GANModel, image_size: int, channels: int) -> tuple[Generators, Discriminators]:
    """(generator, discriminator) as the `model` part of a config describes them, with PyTorch's initialization.

    Each has an `architecture`, "vgg" where a config of an earlier version names none; with `residual_blocks` above 0
    "vgg" means the residual one.

    Raises:
        UserError: an unknown architecture, a setting that it does not have, or what the network itself refuses.
    """
    size = {"image_size": image_size, "channels": channels}
    generator, discriminator = dataclasses.asdict(model.generator), dataclasses.asdict(model.discriminator)
    return (
        _build(GENERATORS, Generator, generator, model.residual_blocks, **size),
        _build(DISCRIMINATORS, Discriminator, discriminator, model.residual_blocks, **size),
    )


def build_classifier(model: ClassifierModel, image_size: int, channels: int, classes: int) -> Discriminators:
    """The classifier that the `model` part of a classifier's config describes: a discriminator with a logit a class.

    With `residual_blocks` above 0 it is the residual one, whose depth the blocks give.
    """
    size = {"image_size": image_size, "channels": channels, "outputs": classes}
    return _build(DISCRIMINATORS, Discriminator, dataclasses.asdict(model.classifier), model.residual_blocks, **size)


def _build(
    registry: Registry[Callable[..., nn.Module]],
    usual: Callable[..., nn.Module],
    settings: Mapping[str, Any],
    blocks: int,
    **size: int,
) -> Any:
    """A network of a registry from its settings, whose defaults are those of the usual one.

    A setting that the architecture does not take must be left at its default, and a normalizer at none: it would have
    no effect.
    """
    given, settings = {**size, **settings}, dict(settings)
    architecture = settings.pop("architecture", "vgg")
    if blocks and architecture == "vgg":
        architecture = "residual"
    if blocks and architecture != "residual":
        raise UserError(
            f"`residual_blocks` belongs to the residual networks: got {blocks} and {architecture!r}; use 0."
        )
    make = registry[architecture]
    taken = inspect.signature(make).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    absent = [name for name in size if name not in taken and not takes_all]
    if absent:
        raise UserError(f"the {registry.kind} {architecture!r} must take `{absent[0]}`: name it in the signature.")
    defaults = {p.name: p.default for p in inspect.signature(usual).parameters.values()}
    defaults |= {"norm": "none", "weight_norm": "none"}
    for name in settings.keys() - taken.keys() if not takes_all else ():
        value = settings.pop(name)
        if value not in (defaults.get(name), {}):
            raise UserError(
                f"the {registry.kind} {architecture!r} does not take `{name}`: got {value!r}; "
                f"set it to {defaults.get(name)!r}, or name it in the signature."
            )
    if blocks:
        settings["blocks"] = blocks
    network = make(**settings, **size)
    if not isinstance(network, nn.Module):
        raise UserError(f"a {registry.kind} must be a torch.nn.Module: {architecture!r} made {type(network).__name__}.")
    # Attributes that training and sampling read; a user's class need not define them.
    for name in ("image_size", "channels", *(("latent_dim",) if registry is GENERATORS else ())):
        if not hasattr(network, name):
            setattr(network, name, given.get(name))
    return network
