"""list the networks of a config or a run: layers, shapes, parameters, normalizers"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gannorm import recipes
from gannorm.commands.inputs.arguments import DEFAULT, add_switch, flag_values, train_config, train_parser
from gannorm.config import GANModel, TrainConfig, read_sources
from gannorm.errors import UserError
from gannorm.rundir import RunDir

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from gannorm.probes import VarianceByDimension

VARIANCE = "--variance"
TAKEN_BY = {  # dimension → what normalizes across it
    "sample": "batch normalizes across it, and couples the images",
    "channel": "layer and group normalize across it, and couple no images",
    "position": "instance normalizes across it, and couples no images",
}


def parser() -> ArgumentParser:
    parser = train_parser()
    parser.prog, parser.usage = (
        "gannorm describe",
        "gannorm describe [RUN] [--variance] [--config RECIPE] [--KEY VALUE …]",
    )
    parser.description = (
        "List the networks of a GAN's config, or of a run; or, of a trained discriminator, where its layers' inputs "
        "vary.\n\n  gannorm describe --config digits\n  gannorm describe runs/digits/batch_0 --variance"
    )
    add_switch(parser, VARIANCE, help="of a run: the variance of every layer's input by dimension, on held-out images")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = list(argv)
    if {"-h", "--help"} & {*arguments}:
        parser().print_help()
        return 0
    if VARIANCE in arguments:
        arguments.remove(VARIANCE)
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise UserError(f"`{VARIANCE}` takes one run and nothing else: got {' '.join(arguments) or 'no run'}.")
        for line in _variance(arguments[0]):
            print(line)
        return 0
    if arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        if name in recipes.names() and not Path(name).exists():
            read_sources([name])  # raises for a study
            raise UserError(f"`describe` takes a run, or a config by its key: got {name!r}; give --config {name}.")
        directory = RunDir.open(Path(name))
        arguments = ["--config", str(directory.config_file), *arguments]
    elif not flag_values(arguments, "--config") + flag_values(arguments, "--task"):
        arguments = ["--config", DEFAULT, *arguments]
    for line in _described(train_config(arguments, "describe")):
        print(line)
    return 0


def _described(config: TrainConfig) -> list[str]:
    import torch

    from gannorm.comparison.numbers import aligned
    from gannorm.data import GREY
    from gannorm.models import build_networks
    from gannorm.models.describe import describe, remarks
    from gannorm.normalizers import NORMALIZERS

    model, images = config.model, config.data.batch_size
    if not isinstance(model, GANModel):
        raise UserError("`describe` lists the two networks of a GAN: got a config of another task; give a GAN's.")
    if model.accumulation == "naive":
        images //= model.accumulate
    size, channels = config.data.image_size, 1 if config.data.name in GREY else 3
    generator, discriminator = build_networks(model, size, channels)
    seen = {
        "D step": images * (2 if model.d_composition == "joint" else 1),
        "G step": images * (2 if model.g_composition == "joint" else 1),
    }
    lines = []
    for name, network, norm, x, batches in (
        ("generator", generator, model.generator.norm, torch.zeros(2, generator.latent_dim), {"batch": images}),
        ("discriminator", discriminator, model.discriminator.norm, torch.zeros(2, channels, size, size), seen),
    ):
        if NORMALIZERS[norm].across_processes:
            from gannorm.distributed import processes

            batches = {kind: together * processes(config.trainer) for kind, together in batches.items()}
        lines.append(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
        table = [("layer", "kind", "output", "parameters", "weight", "coupling", *batches)]
        for row in describe(network, x, norm, batches):
            shape = "x".join(map(str, row.shape)) or "1"
            cells = (row.name, row.kind, shape, f"{row.parameters:,}", row.weight_norm, row.coupling)
            table.append((*cells, *(str(row.batches.get(kind, "")) for kind in batches)))
        lines += [f"  {line}" for line in aligned(table)]
    return lines + remarks(config.to_dict()["model"], images)


def _variance(run: str) -> list[str]:
    """Where the inputs of a discriminator's or a classifier's layers vary, on held-out images, in train mode."""
    from gannorm import probes
    from gannorm.data import images_of_run
    from gannorm.models import load_classifier, load_networks, task_of

    if task_of(run) == "classifier":
        network, config = load_classifier(run)
        of = "classifier's layers"
    else:
        networks = load_networks(run, ema=False)
        network, config = networks.discriminator, networks.config
        of = f"discriminator's layers, step {networks.step}"
    held_out = images_of_run(dataclasses.asdict(config.data), "test")
    images = min(config.data.batch_size, len(held_out))
    result = probes.variance_by_dimension(network.train(), held_out.take(images, config.seed))
    head = f"variance of the inputs of the {of}, {images} held-out images:"
    return [head, *(f"  {line}" for line in str(result).splitlines()), *across(result)]


def across(result: VarianceByDimension) -> list[str]:
    """Which dimension is the widest, and what normalizes across it; and the widest that couples no images."""
    widths = result.along
    widest = max(widths, key=lambda name: widths[name])
    lines = [
        f"widest: along the {widest}s, {widths[widest]:.2f} of the variance on average over the layers: "
        f"{TAKEN_BY[widest]}."
    ]
    if widest == "sample":
        inside = max(("channel", "position"), key=lambda name: widths[name])
        lines.append(f"widest inside an image: along the {inside}s, {widths[inside]:.2f}: {TAKEN_BY[inside]}.")
    return lines
