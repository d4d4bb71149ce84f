"""Names → factories. Study factors are plain names in a config; the error for an unknown name lists the known ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from gannorm.errors import UserError

T = TypeVar("T")


class UnknownNameError(UserError, KeyError):
    """A name that is not registered. Also a KeyError, so that `in` and `.get` work as on any mapping."""


class Registry(Mapping[str, T]):
    """A read-only mapping of names to factories, filled by `register`.

    >>> shapes = Registry("shape")
    >>> shapes.register("round", lambda: "o")
    >>> shapes["round"]()
    'o'
    >>> shapes["rond"]
    Traceback (most recent call last):
        ...
    gannorm.registry.UnknownNameError: unknown shape 'rond': did you mean 'round'? choose from round.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.built_in: frozenset[str] = frozenset()
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Add an entry. A user's replaces an earlier one of the same name, as when a notebook runs a cell again.

        Raises:
            UserError: the name is built in.
        """
        if name in self.built_in:
            raise UserError(f"a built-in {self.kind} cannot be replaced: {name!r} is one; choose another name.")
        self._entries[name] = entry

    def seal(self) -> None:
        """Mark all present entries as built in. The package calls this after it has registered its own."""
        self.built_in = frozenset(self._entries)

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {choices(name, self)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def choices(name: object, names: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest name, if one is near, and all of them."""
    names = list(names)
    paths = any("." in each for each in names)  # of layers; a class's name is looked for without its module
    near = nearest(str(name) if paths else spellings(str(name))[-1], names)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = map(repr, names) if any("," in each for each in names) else names
    return f"{hint}choose from {', '.join(listed)}."


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The most similar name, ignoring case, punctuation and module, in a list; an empty list if no name is similar."""
    plain = {compact(each): each for each in reversed(list(names))}
    near = [
        match
        for spelling in dict.fromkeys((compact(name), spellings(name)[0]))
        for match in difflib.get_close_matches(spelling, plain, n=1, cutoff=cutoff)
    ][:1]
    return [plain[match] for match in near]


def compact(name: str) -> str:
    """A name without case and punctuation: Batch-Norm, batch_norm and BatchNorm are one."""
    return re.sub(r"[\W_]", "", name.lower())


def spellings(name: str) -> list[str]:
    """A class's name without its module, then without its dimension, then without its kind.

    >>> spellings("torch.nn.BatchNorm2d"), spellings("hinge_loss"), spellings("dyt")
    (['batchnorm2d', 'batchnorm', 'batch'], ['hingeloss', 'hinge'], ['dyt'])
    """
    last = compact(name.rpartition(".")[2])
    plain = re.sub(r"[123]d$", "", last)
    core = re.sub(r"(norm|normalization|normalizer|layer|loss|penalty)$", "", plain)
    return list(dict.fromkeys((last, plain or last, core or plain or last)))


def decorator(registry: Registry[T], name: str) -> Callable[[T], T]:
    """`@decorator(LOSSES, "hinge")` above a factory registers it and returns it unchanged."""

    def add(entry: T) -> T:
        registry.register(name, entry)
        return entry

    return add
