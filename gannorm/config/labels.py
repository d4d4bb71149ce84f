"""Names from differences: labels of the conditions among configs, and the default name of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gannorm.config import NORMS, TrainConfig, factors, upgraded
from gannorm.config.dotted import flatten
from gannorm.errors import UserError, printable

LONGEST = 60  # characters of a default run name


def naming(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fewest factors whose values distinguish all conditions among the configs.

    A normalizer that differs is one of them. Its options are preferred to other factors, then earlier factors. If
    nothing differs, the result is the normalizer.
    """
    flat = [factors(config) for config in configs]
    differing = [key for key in dict.fromkeys(k for f in flat for k in f) if len({text(f.get(key)) for f in flat}) > 1]
    differing.sort(key=lambda key: not key.startswith(NORMS))  # stable; with their options, as `norm_options.gradient`
    points = {tuple(text(f.get(key)) for key in differing) for f in flat}
    kept = list(range(len(differing)))
    for index in reversed(range(len(differing))):
        fewer = [i for i in kept if i != index]
        if differing[index] not in NORMS and len({tuple(point[i] for i in fewer) for point in points}) == len(points):
            kept = fewer
    if kept:
        return [differing[i] for i in kept]
    return [next((key for key in NORMS if any(key in f for f in flat)), NORMS[0])]


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The condition of each config, by what differs among them: "batch", or "norm=batch, batch_size=32".

    >>> labels([{"model": {"discriminator": {"norm": norm}}, "seed": seed} for norm in "ab" for seed in (0, 1)])
    ['a', 'a', 'b', 'b']
    """
    names = naming(configs)
    conditions = []
    for config in configs:
        flat = flatten(upgraded(config))
        if len(names) == 1 and isinstance(flat.get(names[0]), str):
            conditions.append(text(flat[names[0]]))
        else:
            there = [key for key in names if flat.get(key) is not None] or names
            conditions.append(", ".join(f"{short(key, names)}={text(flat.get(key))}" for key in there))
    return conditions


def run_name(config: TrainConfig) -> str:
    """What differs from the recipe, or without one from the defaults, the normalizer first; then the seed.

    >>> run_name(TrainConfig().changed(**{"model.lr_d": 1e-4, "model.loss": "hinge", "seed": 2}))
    'batch_hinge_lr_d-0.0001_2'
    """
    try:
        recipe = TrainConfig.load(config.recipe) if config.recipe else TrainConfig(task=config.task)
    except UserError:  # the recipe's file has moved or changed
        recipe = TrainConfig(task=config.task)
    there, here = factors(recipe.to_dict()), factors(config.to_dict())
    parts = []
    for key, value in here.items():
        if key in NORMS:
            parts.append(str(value))
        elif there.get(key) != value:
            tail = short(key, [*here])
            parts.append(value if isinstance(value, str) and "." not in tail else f"{tail}-{text(value)}")
    safe = [re.sub(r"[^\w.+-]+", "-", part, flags=re.ASCII).strip("-.") for part in parts]
    name = safe[0][:LONGEST]
    for part in safe[1:]:
        if len(f"{name}_{part}_{config.seed}") <= LONGEST:
            name = f"{name}_{part}"
    return f"{name}_{config.seed}"


def short(key: str, others: Sequence[str]) -> str:
    """The shortest tail of a dotted key that no other key shares; the key itself where it is another's tail."""
    parts = key.split(".")
    tails = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
    taken = [other for other in others if other != key]
    return printable(next((t for t in tails if not any(f".{k}".endswith(f".{t}") for k in taken)), key))


def text(value: Any) -> str:
    """A config value as it reads in a table or a name."""
    if value is None:
        return "–"
    return printable(value if isinstance(value, str) else json.dumps(value, default=str))
