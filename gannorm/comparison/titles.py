"""The names of conditions in prose, and the config keys that distinguish them.

Labels, which planning needs too, are made in `config.labels`; the roles of keys are declared in `gannorm.config`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gannorm.config import MODELS, NORMS, factors, keys
from gannorm.config.labels import short, text

Flat = Mapping[str, Any]

# Normalizers, as the literature calls them: what the normalizers declare (`Normalizer.title`), written out because a
# comparison does without torch; tests/laws/test_titles.py holds the two together. Others are called by their name.
TITLES = {
    "batch": "BatchNorm",
    "detached": "detached BatchNorm",
    "dyt": "DyT",
    "derf": "Derf",
    "evonorm_s0": "EvoNorm-S0",
    "frn": "filter response normalization",
    "ghost": "ghost BatchNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
    "layer": "LayerNorm",
    "local": "local BatchNorm",
    "lp": "Lp normalization",
    "noisy": "noisy BatchNorm",
    "none": "no normalizer",
    "reference": "reference BatchNorm",
    "renorm": "batch renormalization",
    "running": "running BatchNorm",
    "sync": "synchronized BatchNorm",
    "virtual": "virtual BatchNorm",
}
STATISTICS, WEIGHTS = "evaluation.statistics", "evaluation.weights"  # factors within a run: how G was sampled
PROSE = {  # how a factor's value reads in a title
    "model.generator.norm": "G {}",
    "model.generator.weight_norm": "G weights {}",
    "model.d_composition": "D {}",
    "model.g_composition": "G {}",
    STATISTICS: "{} statistics",
    WEIGHTS: "{} weights",
}


def varied(configs: Sequence[Flat]) -> list[str]:
    """The factors that differ between configs, the normalizer first, then in the order of the configs."""
    identifying = [factors(config) for config in configs]
    keys = dict.fromkeys([*NORMS, *(key for config in identifying for key in config)])
    return [key for key in keys if len({text(config.get(key)) for config in identifying}) > 1]


def point(config: Flat, keys: Iterable[str]) -> tuple[str, ...]:
    """A config's values of the factors, as text."""
    return tuple(text(config.get(key)) for key in keys)


def config_hash(config: Flat) -> str:
    """12 hexadecimal digits of a config's factors, and so without the seed: equal within a condition.

    Factors that have their default do not count. So a run keeps its hash when a later version declares a new factor.

    >>> config_hash({"steps": 4, "seed": 0}) == config_hash({"seed": 1, "steps": 4, "model.loss": "non_saturating"})
    True
    """
    task = str(config.get("task", "gan"))
    defaults = {name: key.default for name, key in keys(task if task in MODELS else "gan").items()}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    held = {key: list(value) if isinstance(value, tuple) else value for key, value in factors(config).items()}
    kept = {key: text(value) for key, value in held.items() if key not in plain or text(plain[key]) != text(value)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def titled(values: Flat) -> str:
    """Factors' values for prose, the normalizer of D or of the classifier first; without those that are not set.

    >>> titled({NORMS[0]: "batch", "model.d_composition": "joint", "data.batch_size": 8})
    'BatchNorm (D joint, batch size 8)'
    """
    if len(values) == 1 and not set(values) & {*NORMS, *PROSE} and all(isinstance(v, str) for v in values.values()):
        return text(*values.values())
    there = {key: value for key, value in values.items() if value is not None} or values
    words = [worded(key, value, list(values)) for key, value in there.items()]
    if len(words) > 1 and not there.keys().isdisjoint(NORMS):
        return f"{words[0]} ({', '.join(words[1:])})"
    return " with ".join(words)


def worded(key: str, value: Any, keys: Sequence[str]) -> str:
    """One factor's value for prose, where `keys` are the factors that it must not be confused with."""
    plain = text(value)
    if key in NORMS:
        return TITLES.get(plain, plain)
    if key in PROSE:
        return PROSE[key].format(TITLES.get(plain, plain) if key.endswith(".norm") else plain)
    return f"{short(key, keys).replace('_', ' ')} {plain}"
