"""What runs are called: factors are found in their configs, and each run's values of them make its label and title.

Pure functions of flat configs (dotted key → value): planning asks them for the labels of runs that do not exist yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gannorm.errors import printable

Flat = Mapping[str, Any]

# Keys that name, place or show a run, and change neither its weights nor how it is measured.
NOT_FACTORS = {
    *("seed", "name", "study", "output", "progress", "wandb", "wandb_project"),
    *("log_every", "sample_every", "probe_every", "test_every", "checkpoint_every", "data.root", "data.download"),
    *("optimization_every", "optimization_budget", "optimization_layers", "model.cuda_graph"),
    *("why_every", "why_budget", "why_layers"),  # the former names of these
    *(f"trainer.{name}" for name in ("max_time", "log_every_n_steps", "enable_model_summary", "profiler")),
}

NORM = "model.discriminator.norm"  # the first factor, and what names the runs where nothing was varied
NORMS = (NORM, "model.classifier.norm")  # where it is in a classifier's config
TITLES = {  # its values, as the literature calls them
    "batch": "BatchNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
    "layer": "LayerNorm",
    "none": "no normalizer",
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


def factors(configs: Sequence[Flat]) -> list[str]:
    """The keys that differ between configs, the normalizer first, then in the order of the configs."""
    keys = dict.fromkeys([*NORMS, *(key for config in configs for key in config if key not in NOT_FACTORS)])
    return [key for key in keys if len({text(config.get(key)) for config in configs}) > 1]


def naming(configs: Sequence[Flat]) -> list[str]:
    """The fewest factors whose values still tell all conditions apart; earlier keys are kept first.

    Where nothing differs, the key of the normalizer.

    >>> naming([{"a": 1, "b": 1, "seed": 0}, {"a": 2, "b": 2, "seed": 1}])
    ['a']
    """
    varied = factors(configs)
    points = {point(config, varied) for config in configs}
    kept = list(range(len(varied)))
    for index in reversed(range(len(varied))):
        fewer = [i for i in kept if i != index]
        if len({tuple(p[i] for i in fewer) for p in points}) == len(points):
            kept = fewer
    return [varied[i] for i in kept] or [next((key for key in NORMS if key in configs[0]), NORM)]


def labels(configs: Sequence[Flat]) -> list[str]:
    """One label a config, equal where only the seed, and what shows a run, differ.

    >>> labels([{NORM: "batch", "seed": 0}, {NORM: "group", "seed": 0}, {NORM: "batch", "seed": 1}])
    ['batch', 'group', 'batch']
    """
    named = naming(configs)
    return [label(config, named) for config in configs]


def label(config: Flat, named: Sequence[str]) -> str:
    """The values of the naming factors, short: "batch", or "norm=batch, batch_size=32"."""
    if len(named) == 1 and isinstance(config.get(named[0]), str):
        return text(config[named[0]])
    return ", ".join(f"{short_key(key, named)}={text(config.get(key))}" for key in named)


def point(config: Flat, varied: Iterable[str]) -> tuple[str, ...]:
    """A config's values of the factors, as text."""
    return tuple(text(config.get(key)) for key in varied)


def config_hash(config: Flat) -> str:
    """12 hexadecimal digits of a config without NOT_FACTORS, and so without the seed: equal within a condition.

    >>> config_hash({"steps": 4, "seed": 0, "name": "a"}) == config_hash({"seed": 1, "steps": 4})
    True
    """
    kept = {key: text(value) for key, value in config.items() if key not in NOT_FACTORS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def titled(values: Flat) -> str:
    """Factors' values for prose, the normalizer of D or of the classifier first.

    >>> titled({NORM: "batch", "model.d_composition": "joint", "data.batch_size": 8})
    'BatchNorm (D joint, batch size 8)'
    """
    if len(values) == 1 and not set(values) & {*NORMS, *PROSE} and all(isinstance(v, str) for v in values.values()):
        return text(*values.values())
    words = [worded(key, value, list(values)) for key, value in values.items()]
    if len(words) > 1 and not values.keys().isdisjoint(NORMS):
        return f"{words[0]} ({', '.join(words[1:])})"
    return " with ".join(words)


def worded(key: str, value: Any, keys: Sequence[str]) -> str:
    """One factor's value for prose, where `keys` are the factors that it must not be confused with."""
    plain = text(value)
    if key in NORMS:
        return TITLES.get(plain, plain)
    if key in PROSE:
        return PROSE[key].format(TITLES.get(plain, plain) if key.endswith(".norm") else plain)
    return f"{short_key(key, keys).replace('_', ' ')} {plain}"


def text(value: Any) -> str:
    """A config value as it reads in a table."""
    if value is None:
        return "–"
    return printable(value if isinstance(value, str) else json.dumps(value, default=str))


def short_key(key: str, keys: Sequence[str]) -> str:
    """The shortest tail of a dotted key that no other key shares; the key itself where it is another's tail."""
    parts = key.split(".")
    tails = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
    return printable(next((t for t in tails if not any(k != key and f".{k}".endswith(f".{t}") for k in keys)), key))
