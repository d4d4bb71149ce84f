"""Keep the score records of one protocol, or make the sampling modes of G conditions of their own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gannorm.comparison.runs import Run
from gannorm.comparison.scores import SCORES
from gannorm.comparison.titles import STATISTICS, WEIGHTS
from gannorm.config.labels import text
from gannorm.errors import UserError

# Facts of an evaluation that may differ between runs without making their scores incomparable.
PROTOCOL_DETAILS = ("seed", "versions", "device", "extractor_batch_dependence")
MODE = ("statistics", "standing_samples", "ema")  # of a protocol: how the generator was sampled


def under_one_protocol(runs: Sequence[Run]) -> tuple[list[Run], dict[str, Any] | None, list[str]]:
    """The runs with the score records of the commonest protocol; among equally common ones, of the newest.

    Scores compare only under one protocol. A study with changed options adds as many records as there are old ones. A
    reconstruction has its own protocol, such as its number of images, and is treated in the same way.

    Returns:
        The runs; the protocol, None if there are no scores; a remark when records were left out.
    """
    keys = [_protocol_key(record) for run in runs for record in run.scores]
    if not keys:
        return _lines_under_one_protocol(runs)
    key, count = Counter(reversed(keys)).most_common(1)[0]  # of equal counts, the first: the newest
    kept = [replace(run, scores=[record for record in run.scores if _protocol_key(record) == key]) for run in runs]
    protocol = dict(next(record.get("protocol", {}) for run in kept for record in run.scores))
    others = len(keys) - count
    kept, reconstruction, unlike = _under_one_reconstruction(kept)
    remarks = []
    if others:
        remarks.append(f"{others} of {len(keys)} score records are left out: scores compare only under one protocol.")
    if unlike:
        remarks.append(f"{unlike} reconstructions are left out: they too compare only under one protocol.")
    own = json.dumps(json.loads(key) | reconstruction, sort_keys=True)
    kept = [replace(run, protocol=own if run.scores else "") for run in kept]
    return kept, protocol | reconstruction, remarks


def _lines_under_one_protocol(runs: Sequence[Run]) -> tuple[list[Run], dict[str, Any] | None, list[str]]:
    """The same for lines of a runs.csv, which hold no records: the scores of other lines are left out."""
    keys = [run.protocol for run in runs if run.protocol]
    if not keys:
        return list(runs), None, []
    key, count = Counter(reversed(keys)).most_common(1)[0]
    names = tuple(f"{score.name}/" for score in SCORES)
    kept = []
    for run in runs:
        if run.protocol != key:
            run = replace(run, values={name: v for name, v in run.values.items() if not name.startswith(names)})
        kept.append(run)
    remarks = []
    if len(keys) > count:
        remarks.append(f"the scores of {len(keys) - count} lines are left out: scores compare only under one protocol.")
    try:
        protocol = json.loads(key)
    except (ValueError, RecursionError):
        protocol = {"protocol": key}
    return kept, protocol if isinstance(protocol, dict) else {"protocol": key}, remarks


def _under_one_reconstruction(runs: list[Run]) -> tuple[list[Run], dict[str, Any], int]:
    """The runs with reconstructions of the commonest protocol only; that protocol; how many were left out."""
    name = "reconstruction_protocol"
    keys = [_details(record[name]) for run in runs for record in run.scores if name in record]
    if not keys:
        return runs, {}, 0
    key, count = Counter(reversed(keys)).most_common(1)[0]
    kept = []
    for run in runs:
        records = [
            record if name not in record or _details(record[name]) == key else {**record, "reconstruction": None}
            for record in run.scores
        ]
        kept.append(replace(run, scores=records))
    return kept, {f"reconstruction.{k}": v for k, v in json.loads(key).items()}, len(keys) - count


def by_sampling_mode(runs: Sequence[Run]) -> list[Run]:
    """Each run once for each sampling mode of G in its scores, with the mode as a part of its config.

    The probes are left out: the modes of a run have one discriminator.
    """
    modes = list(dict.fromkeys(mode for run in runs for record in run.scores if (mode := _mode(record))))
    if not modes:
        raise UserError("a comparison by mode needs scores: the runs have none; `gannorm evaluate --statistics all`.")
    split = []
    for run in runs:
        for statistics, weights in modes:
            records = [
                {**record, "protocol": {k: v for k, v in record["protocol"].items() if k not in MODE}}
                for record in run.scores
                if _mode(record) == (statistics, weights)
            ]
            if records or run.state != "finished":  # a diverged run counts as diverged in every mode
                config = {**run.config, STATISTICS: statistics, WEIGHTS: weights}
                split.append(replace(run, config=config, metrics={}, scores=records))
    return split


def _mode(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """(statistics, weights) under which a record was made; None where it does not say."""
    protocol = record.get("protocol", {})
    if "statistics" not in protocol:
        return None
    return text(protocol["statistics"]), "averaged" if protocol.get("ema") else "raw"


def _protocol_key(record: Mapping[str, Any]) -> str:
    return _details(record.get("protocol"))


def _details(protocol: Mapping[str, Any] | None) -> str:
    """A protocol as a key: equal where scores are comparable."""
    kept = {k: v for k, v in (protocol or {}).items() if k not in PROTOCOL_DETAILS}
    return json.dumps(kept, sort_keys=True, default=str)
