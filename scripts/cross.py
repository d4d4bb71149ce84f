#!/usr/bin/env python
"""Every discriminator judges the fakes of every generator: the study `cross`.

    python scripts/cross.py runs/causal_digits --output results/cross

Within a run, a discriminator is probed on the fakes of its own generator, so two conditions differ in the discriminator
and in what it judges. Here all discriminators judge the same held-out images and, of each condition of generators, the
same bank of fakes, made of equal shares of all its runs. Pairs by seed would give every discriminator other fakes, and
all pairs of runs would cost the square of their number; a bank holds every generator at the cost of one. The intervals
are over the discriminators' runs, and the bank is fixed.

In train mode, as in training, in pure, mixed and conflict batches; in eval mode in pure batches.

    OUTPUT/cross.csv   one line a discriminator's run and condition of generators
    OUTPUT/table.csv   one line a pair of conditions: the mean over discriminators' runs, with its 95 % interval
    OUTPUT/table.md    the same as a table for a README
    OUTPUT/cross.png   the means as matrices, discriminators by generators

cross.csv is written after every run. Started again, the script continues: it keeps the lines of the same fakes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from gannorm.comparison.intervals import Estimate, mean_interval
from gannorm.comparison.numbers import interval
from gannorm.config.labels import labels
from gannorm.data import images_of_run
from gannorm.data.images import fingerprint, to_uint8
from gannorm.errors import UserError
from gannorm.files import atomic_write, write_text, writing
from gannorm.models import Networks, load_networks
from gannorm.probes import composition_curve
from gannorm.report.plots import Panel, Plot, png
from gannorm.rundir import RunDir, find_runs
from gannorm.seeds import stream
from gannorm.training.callbacks.samples import generate

AUCS = {  # column → what it is
    "auc_pure": "pure batches",
    "auc_mixed": "mixed batches",
    "auc_conflict": "conflict batches",
    "auc_eval": "eval mode",
}
SHOWN = ("auc_pure", "auc_conflict", "auc_eval")  # as matrices
ALL = "all"  # the bank of all conditions together
Record = Mapping[str, Any]


def cross(
    runs: Sequence[RunDir],
    images: int = 256,
    batch_size: int = 64,
    seed: int = 0,
    known: Sequence[Record] = (),
    save: Callable[[list[Record]], object] = len,
) -> list[Record]:
    """The AUCs of every run's discriminator on the bank of every condition of generators.

    Args:
        runs: finished runs of GANs on the same images.
        images: held-out images, and fakes in a bank; of each generator of a condition an equal share.
        batch_size: N of the curve.
        seed: of latents, images and batches.
        known: records of an earlier call; those of the same run and fakes are taken over.
        save: is given all records, the known ones too, after every run.

    Returns:
        One record a discriminator's run and bank.

    Raises:
        UserError: no run has finished, two runs were trained on other images, or fakes are not finite.
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
    digests = {bank: fingerprint(to_uint8(torch.cat([fakes, held_out])))[:12] for bank, fakes in banks.items()}
    there = {_identity(record): record for record in known}
    records: list[Record] = []
    for run, config, condition, pair in zip(runs, configs, conditions, networks, strict=True):
        weights = _digest(pair.discriminator)
        for bank, fakes in banks.items():
            facts = {"discriminator": condition, "run": run.name, "seed": config["seed"], "weights": weights}
            facts |= {"generator": bank, "bank": digests[bank], "images": images, "batch_size": batch_size}
            values = there.pop(_identity(facts), None) or judged(pair, held_out, fakes, batch_size, seed)
            records.append(facts | {name: float(values[name]) for name in AUCS})
        save([*records, *there.values()])
    return records


def judged(pair: Networks, real: Tensor, fakes: Tensor, batch_size: int, seed: int) -> dict[str, float]:
    """The AUCs of one discriminator on real images and a bank."""
    draws, discriminator = stream(seed, "probe"), pair.discriminator
    curve = composition_curve(discriminator.train(), real, fakes, batch_size, generator=draws)
    alone = composition_curve(discriminator.eval(), real, fakes, batch_size, (1.0,), None, generator=draws)
    values = (curve.pure, curve.mixed, curve.conflict, alone.pure)
    return {name: estimate.mean for name, estimate in zip(AUCS, values, strict=True)}


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


def summary(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Estimate]]:
    """(condition of discriminators, bank) → AUC → the mean over the discriminators' runs, with its interval."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["discriminator"], record["generator"]), []).append(record)
    return {
        pair: {name: mean_interval([member[name] for member in members], (0.0, 1.0)) for name in AUCS}
        for pair, members in groups.items()
    }


def write(records: Sequence[Record], output: Path) -> None:
    """The tables and the figure of all records."""
    means = summary(records)
    lines = []
    for (discriminator, bank), values in means.items():
        line: dict[str, Any] = {"discriminator": discriminator, "generator": bank, "runs": values["auc_pure"].n}
        for name, estimate in values.items():
            line |= dict(zip((name, f"{name}_low", f"{name}_high"), estimate.bounds, strict=True))
        lines.append(line)
    write_text(output / "table.csv", _csv(lines))
    write_text(output / "table.md", markdown(means))
    with atomic_write(output / "cross.png") as stream:
        stream.write(png(figure(means)))


def markdown(means: Mapping[tuple[str, str], Mapping[str, Estimate]]) -> str:
    """A table for a README: AUC with its interval, one line a pair of conditions."""
    header = ["D trained with", "judges the fakes of G trained beside", "runs", *(f"AUC, {t}" for t in AUCS.values())]
    rows = [header, ["---"] * len(header)]
    for (discriminator, bank), values in means.items():
        cells = [interval(values[name]) for name in AUCS]
        rows.append([discriminator, bank, str(values["auc_pure"].n), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def figure(means: Mapping[tuple[str, str], Mapping[str, Estimate]]) -> Plot:
    """A matrix for each of SHOWN: a row a condition of discriminators, a column a bank."""
    rows = list(dict.fromkeys(discriminator for discriminator, _ in means))
    columns = list(dict.fromkeys(bank for _, bank in means))

    def draw(name: str, ax: Axes) -> None:
        values = [[means[row, column][name].mean for column in columns] for row in rows]
        ax.imshow(values, vmin=0, vmax=1, cmap="RdBu")  # 0.5, chance, is white
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                ink = "white" if abs(value - 0.5) > 0.35 else "black"
                ax.annotate(f"{value:.2f}", (j, i), ha="center", va="center", fontsize=7, color=ink)
        ax.set(xticks=range(len(columns)), yticks=range(len(rows)), title=f"AUC, {AUCS[name]}")
        ax.set(xlabel="fakes of generators trained beside", ylabel="discriminators trained with")
        ax.set_xticklabels(columns, rotation=45, ha="right")
        ax.set_yticklabels(rows)
        ax.tick_params(length=0)

    panels = [Panel(partial(draw, name), f"AUC in {AUCS[name]}, a matrix.") for name in SHOWN]
    size = (1.8 + 0.55 * len(columns), 1.4 + 0.45 * len(rows))
    return Plot("cross", "Every discriminator on the fakes of every generator", "", panels, size, (), ())


# -- helpers ----------------------------------------------------------------------------------------------------------


def _identity(record: Record) -> tuple[str, ...]:
    """What the values of a record depend on; every column of facts, as text."""
    return tuple(str(value) for name, value in record.items() if name not in AUCS)


def _digest(network: nn.Module) -> str:
    """Of all weights and buffers."""
    state = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        state.update(
            f"{name} {tensor.dtype}".encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return state.hexdigest()[:12]


def _bank(pairs: Sequence[Networks], condition: str, images: int, batch_size: int, seed: int) -> Tensor:
    each = -(-images // len(pairs))
    fakes = []
    for index, pair in enumerate(pairs):
        draws = stream(seed, f"latents of {condition}, {index}")
        z = torch.randn(max(each, batch_size), pair.generator.latent_dim, generator=draws)  # whole batches, as trained
        fakes.append(generate(pair.generator, z, batch_size, training=True)[:each])
        if not fakes[-1].isfinite().all():
            raise UserError(f"fakes must be finite: generator {index} of {condition} gives others; leave its run out.")
    return _shuffled(torch.cat(fakes), images, seed)


def _shuffled(fakes: Tensor, images: int, seed: int) -> Tensor:
    return fakes[torch.randperm(len(fakes), generator=stream(seed, "order of a bank"))[:images]]


def _csv(lines: Sequence[Record]) -> str:
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
    file = options.output / "cross.csv"
    try:
        runs = find_runs(options.runs)
        with writing(options.output):
            known = list(csv.DictReader(io.StringIO(file.read_text("utf-8")))) if file.exists() else []
            options.output.mkdir(parents=True, exist_ok=True)

            def save(records: Sequence[Record]) -> None:
                write_text(file, _csv(records))
                print(f"{len(records)} lines in {file}", file=sys.stderr)

            records = cross(runs, options.images, options.batch_size, options.seed, known, save)
            write_text(file, _csv(records))  # without the lines of other fakes
            write(records, options.output)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown(summary(records)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
