"""Nested data by dotted keys: `{"model": {"loss": "hinge"}}` is `model.loss: hinge`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

Flat = dict[str, Any]  # dotted key → value


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested mappings as dotted keys; an empty mapping is a value.

    >>> flatten({"model": {"lr_d": 0.1, "discriminator.norm": "group"}, "trainer": {}})
    {'model.lr_d': 0.1, 'model.discriminator.norm': 'group', 'trainer': {}}
    """
    flat: Flat = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def changed(config: Mapping[str, Any], settings: Flat) -> dict[str, Any]:
    """A copy of a nested config with some dotted keys set.

    >>> changed({"steps": 9, "data": {"name": "digits"}}, {"data.batch_size": 4})
    {'steps': 9, 'data': {'name': 'digits', 'batch_size': 4}}
    """
    result = copy.deepcopy(dict(config))
    for key, value in settings.items():
        *path, last = key.split(".")
        inner = result
        for part in path:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = copy.deepcopy(value)
    return result


def difference(planned: Mapping[str, Any], there: Mapping[str, Any], ignore: Iterable[str]) -> str:
    """The first planned key that has another value `there`, as "key is …, not …"; "" if there is none.

    >>> difference({"steps": 400, "name": "a"}, {"steps": 200, "seed": 0}, ignore=["name"])
    'steps is 200, not 400'
    """
    held = flatten(there)
    for key, value in flatten(planned).items():
        # As text too: the training command takes "0.1" where it wants a number, and writes 0.1.
        if key not in ignore and held.get(key) != value and str(held.get(key)) != str(value):
            return f"{key} is {held.get(key)!r}, not {value!r}"
    return ""
