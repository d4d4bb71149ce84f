#!/usr/bin/env python
"""Every discriminator judges the fakes of every generator: the study `cross`.

    python scripts/cross.py runs/causal_digits --output results/cross

Within a run, a discriminator is probed on the fakes of its own generator, so two conditions differ in the discriminator
and in what is judged. Here all discriminators judge the same held-out images and, of each condition of generators, the
same bank of fakes, made of equal shares of all its runs. In train mode, as in training.

    OUTPUT/cross.csv   one line a discriminator's run and condition of generators: AUC in pure, mixed, conflict batches
    OUTPUT/table.csv   one line a pair of conditions: the mean over discriminators' runs, with its 95 % interval
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gannorm.comparison.intervals import mean_interval
from gannorm.config.labels import labels
from gannorm.data import images_of_run
from gannorm.errors import UserError
from gannorm.files import write_text, writing
from gannorm.models import Networks, load_networks
from gannorm.probes import composition_curve
from gannorm.rundir import RunDir, find_runs
from gannorm.seeds import stream
from gannorm.training.callbacks.samples import generate

ENDS = ("pure", "mixed", "conflict")
ALL = "all"  # the bank of all conditions together


def cross(runs: Sequence[RunDir], images: int = 256, batch_size: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """The curve's ends of every run's discriminator on the bank of every condition of generators.

    Args:
        runs: finished runs of GANs on the same images.
        images: held-out images, and fakes in a bank; of each generator of a condition an equal share.
        batch_size: N of the curve.
        seed: of latents, images and batches.

    Returns:
        One record a discriminator's run and bank.

    Raises:
        UserError: no run has finished, or two runs were trained on other images.
    """
    runs = [run for run in runs if run.state() == "finished"]
    if not runs:
        raise UserError("`cross` needs finished runs: got none; let `gannorm train` finish one first.")
    configs = [run.config() for run in runs]
    unlike = [run.name for run, config in zip(runs, configs, strict=True) if config["data"] != configs[0]["data"]]
    if unlike:
        raise UserError(f"`cross` needs runs on the same images: {unlike[0]} has other data than {runs[0].name}.")
    conditions = labels(configs)
    networks = [load_networks(run.path, ema=False) for run in runs]  # the weights that the discriminators trained with
    real = images_of_run(dataclasses.asdict(networks[0].config.data), "test")
    images = min(images, len(real))
    banks = fake_banks(networks, conditions, images, batch_size, seed)
    held_out = real.take(images, seed)
    records = []
    for run, config, condition, pair in zip(runs, configs, conditions, networks, strict=True):
        judge = pair.discriminator.train()
        for bank, fakes in banks.items():
            draws = stream(seed, "probe")
            curve = composition_curve(judge, held_out, fakes, batch_size, generator=draws, fakes=f"a bank of {bank}")
            ends = {f"auc_{end}": getattr(curve, end).mean for end in ENDS}
            facts = {"discriminator": condition, "run": run.name, "seed": config["seed"], "generator": bank}
            records.append({**facts, **ends, "images": curve.images, "batch_size": batch_size})
    return records


def fake_banks(
    networks: Sequence[Networks], conditions: Sequence[str], images: int, batch_size: int, seed: int
) -> dict[str, Tensor]:
    """Condition → its fakes, (images, C, H, W), equal shares of all its generators, shuffled; and a bank of all.

    Each generator draws from a stream of latents of its own, so that a bank does not depend on the other conditions.
    """
    members: dict[str, list[Networks]] = {}
    for pair, condition in zip(networks, conditions, strict=True):
        members.setdefault(condition, []).append(pair)
    banks = {condition: _bank(pairs, condition, images, batch_size, seed) for condition, pairs in members.items()}
    if len(banks) > 1:
        each = -(-images // len(banks))
        banks[ALL] = _shuffled(torch.cat([bank[:each] for bank in banks.values()]), images, seed)
    return banks


def summary(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a condition of discriminators and bank: the mean over the discriminators' runs, and its interval."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["discriminator"], record["generator"]), []).append(record)
    lines = []
    for (discriminator, bank), members in groups.items():
        line: dict[str, Any] = {"discriminator": discriminator, "generator": bank, "runs": len(members)}
        for end in ENDS:
            estimate = mean_interval([member[f"auc_{end}"] for member in members], (0.0, 1.0))
            names = (f"auc_{end}", f"auc_{end}_low", f"auc_{end}_high")
            line |= dict(zip(names, estimate.bounds, strict=True))
        lines.append(line)
    return lines


def _bank(pairs: Sequence[Networks], condition: str, images: int, batch_size: int, seed: int) -> Tensor:
    each = -(-images // len(pairs))
    fakes = []
    for index, pair in enumerate(pairs):
        draws = stream(seed, f"latents of {condition}, {index}")
        z = torch.randn(max(each, batch_size), pair.generator.latent_dim, generator=draws)  # whole batches, as trained
        fakes.append(generate(pair.generator, z, batch_size, training=True)[:each])
    return _shuffled(torch.cat(fakes), images, seed)


def _shuffled(fakes: Tensor, images: int, seed: int) -> Tensor:
    return fakes[torch.randperm(len(fakes), generator=stream(seed, "order of a bank"))[:images]]


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run directories, or folders of them")
    parser.add_argument("--output", type=Path, default=Path("results/cross"), help="folder to write")
    parser.add_argument("--images", type=int, default=256, help="held-out images, and fakes in a bank")
    parser.add_argument("--batch_size", type=int, default=64, help="images a batch")
    parser.add_argument("--seed", type=int, default=0, help="of latents, images and batches")
    options = parser.parse_args(argv)
    try:
        records = cross(find_runs(options.runs), options.images, options.batch_size, options.seed)
        with writing(options.output):
            options.output.mkdir(parents=True, exist_ok=True)
            write_text(options.output / "cross.csv", _csv(records))
            write_text(options.output / "table.csv", _csv(summary(records)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for line in summary(records):
        ends = ", ".join(f"{end} {line[f'auc_{end}']:.2f}" for end in ENDS)
        print(f"D {line['discriminator']}, fakes of {line['generator']}: AUC {ends} ({line['runs']} runs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
