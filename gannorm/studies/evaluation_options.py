"""A study's options of `gannorm evaluate`, and the check of scores against them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gannorm.errors import UserError
from gannorm.registry import choices

# Options of `gannorm evaluate` that a study may give → the key of a score's protocol that records the option, or "".
EVALUATE_OPTIONS = {
    "all_checkpoints": "",
    "ema": "ema",
    "statistics": "statistics",
    "extractor": "extractor",
    "extractor_weights": "",
    "split": "split",
    "samples": "fake_images",
    "splits": "inception_splits",
    "kid_subsets": "kid_subsets",
    "kid_kernel": "kid_kernel",
    "seed": "seed",
    "batch_size": "batch_size",
    "sha256": "",
    "extractor_seed": "",
    "device": "",
    "reconstruction": "",  # it has a protocol of its own
    "wandb": "",
}
MODES = tuple(itertools.product(("running", "batch", "standing"), (True, False)))  # of `statistics: all`: (…, ema)


def evaluate_options(given: Any, file: Path) -> Mapping[str, Any] | None:
    """The options that a study file gives under `evaluate`; None for no scores.

    Raises:
        UserError: the value is not a mapping of known options, or two options contradict each other.
    """
    if given is False:
        return None
    if given is None or given is True:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"`evaluate` must be options of `gannorm evaluate`, or false: got {given!r} in {file}.")
    for option in given:
        if option not in EVALUATE_OPTIONS:
            raise UserError(f"unknown option of `evaluate` in {file}: {option!r}: {choices(option, EVALUATE_OPTIONS)}")
    if given.get("statistics") == "all" and given.get("ema") is not None:
        raise UserError(f"statistics: all scores averaged and trained weights: got ema too in {file}; leave it out.")
    return {option: value for option, value in given.items() if value not in (None, "")}  # these are the defaults


def compares_modes(evaluate: Mapping[str, Any] | None) -> bool:
    """Whether every sampling mode of G is scored, and each run is compared with itself under each mode."""
    return (evaluate or {}).get("statistics") == "all"


def answered(records: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> bool:
    """Whether the score records of one step satisfy the options of `gannorm evaluate`."""
    wanted = {key: str(value) for option, value in options.items() if (key := EVALUATE_OPTIONS[option])}
    modes = [(wanted.pop("statistics", None), wanted.pop("ema", None))]
    if compares_modes(options):
        modes = [(statistics, str(ema)) for statistics, ema in MODES]
    fitting = [r for r in records if all(str(r["protocol"].get(k)) == v for k, v in wanted.items())]
    scored = [(str(r["protocol"].get("statistics")), str(r["protocol"].get("ema"))) for r in fitting]
    if not all(any(statistics in (None, s) and ema in (None, e) for s, e in scored) for statistics, ema in modes):
        return False
    images = options.get("reconstruction", 0)
    counts = [r.get("reconstruction", {}).get("protocol", {}).get("images") for r in fitting]
    return not images or images in counts or any(r.get("diverged") for r in fitting)
