"""Commands that make a run and show what will be or is in it: train, check, describe, sample."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from gannorm.arguments import (
    Task,
    add_checkpoint_options,
    config_files,
    output_file,
    parse,
    parser_for,
    settings,
    take_resume,
    task_of,
    train_parser,
)
from gannorm.errors import UserError, out_of_memory, printable, require_positive
from gannorm.rundir import PLAN, RunDir
from gannorm.terminal import aligned


def train(argv: Sequence[str]) -> int:
    """train a GAN, or a classifier, and write a run directory; with --resume RUN, go on with a stopped one"""
    argv = list(argv)
    if stopped := take_resume(argv):
        argv = ["--config", str(RunDir.open(stopped).config_file), *argv]  # also for keys that are newer than the run
    parser = train_parser(task_of(argv))
    config = settings(parser, argv)
    if stopped:
        from gannorm.training import resume

        return _ended(resume(Path(stopped), config))

    judge = config["model"].get("discriminator") or config["model"]["classifier"]
    name = config["name"] or f"{judge['norm']}_{config['seed']}"
    folder = Path(config["output"]) / config["study"]
    if any(s.resolve() == (folder / name / "config.yaml").resolve() for s in config_files(argv)):
        name = _next_free(folder, name)  # a run's own config repeats it beside it
    config["name"] = name
    for key in ("study", "name"):
        text = config[key]
        if text in ("", ".", "..", PLAN) or Path(text).name != text or not text.isprintable() or len(text) > 100:
            raise UserError(f"`{key}` must be a folder's plain name: got {text[:100]!r}; use --output for the place.")

    from gannorm.training import train

    return _ended(train(config, folder / name))


def _ended(run: RunDir) -> int:
    status = run.status()
    print(f"{run.path}: {status['state']} at step {status['step']} {status['reason']}".rstrip())
    return 0


def check(argv: Sequence[str]) -> int:
    """tell what in training configs cannot work, without training"""
    parser = parser_for(
        "check", "Tell what in training configs cannot work, without their images and without training."
    )
    parser.add_argument("configs", type=str, nargs="+", help="YAML files")
    files = parse(parser, argv).configs

    from gannorm.training import check

    parsers = {task: train_parser(task) for task in get_args(Task)}
    mistakes = too_large = 0
    for file in files:
        flags = ["--config", file]
        try:
            check(settings(parsers[task_of(flags)], flags))
        except UserError as error:
            mistakes += 1
            print(f"{file}: {printable(str(error))}", file=sys.stderr)
        except (RuntimeError, MemoryError, TypeError) as error:
            if not (reason := out_of_memory(error)):
                raise
            too_large += 1
            print(f"{file}: does not fit into this machine's memory ({reason})")
    print(f"{len(files) - mistakes - too_large} of {len(files)} can be trained")
    return 2 if mistakes else int(too_large > 0)


def _next_free(folder: Path, name: str) -> str:
    number = 2
    while (folder / f"{name}_{number}").exists():
        number += 1
    return f"{name}_{number}"


def describe(argv: Sequence[str]) -> int:
    """list a config's networks: layers, shapes, parameters, normalizers"""
    if task_of(argv) != "gan":
        raise UserError("`describe` lists the two networks of a GAN: got a config of another task; give a GAN's.")
    parser = train_parser()
    parser.prog = "gannorm describe"
    config = settings(parser, argv)

    import torch

    from gannorm.data import GREY
    from gannorm.models import build_networks
    from gannorm.models.describe import describe, remarks
    from gannorm.normalizers import NORMALIZERS

    model, images = config["model"], config["data"]["batch_size"]
    if model["accumulation"] == "naive":
        images //= max(1, model["accumulate"])
    size, channels = config["data"]["image_size"], 1 if config["data"]["name"] in GREY else 3
    generator, discriminator = build_networks(model, size, channels)
    seen = {
        "D step": images * (2 if model["d_composition"] == "joint" else 1),
        "G step": images * (2 if model["g_composition"] == "joint" else 1),
    }
    for name, network, x, batches in (
        ("generator", generator, torch.zeros(2, model["generator"]["latent_dim"]), {"batch": images}),
        ("discriminator", discriminator, torch.zeros(2, channels, size, size), seen),
    ):
        if NORMALIZERS[model[name]["norm"]].across_processes:
            batches = {kind: together * _processes(config["trainer"]) for kind, together in batches.items()}
        rows = describe(network, x, model[name]["norm"], batches)
        print(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
        table = [("layer", "kind", "output", "parameters", "weight", "coupling", *batches)]
        for row in rows:
            shape = "x".join(map(str, row.shape)) or "1"
            cells = (row.name, row.kind, shape, f"{row.parameters:,}", row.weight_norm, row.coupling)
            table.append((*cells, *(str(row.batches.get(kind, "")) for kind in batches)))
        for line in aligned(table):
            print(f"  {line}")
    for line in remarks(model, images):
        print(line)
    return 0


def _processes(trainer: Mapping[str, Any]) -> int:
    """How many processes a config's Trainer options ask for, where they say a number."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, str) and "," in devices:  # "0,1": these two, to Lightning
        devices = [device for device in devices.split(",") if device.strip()]
    here = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    nodes = str(trainer.get("num_nodes"))
    return here * (int(nodes) if nodes.isdigit() else 1)


def sample(argv: Sequence[str]) -> int:
    """write a grid of images from a run's generator"""
    parser = parser_for("sample", "Write a grid of images from a run's generator.")
    parser.add_argument("run", type=str, help="run directory or checkpoint")
    parser.add_argument("--output", type=str, default="samples.png", help="PNG file to write")
    parser.add_argument("--rows", type=int, default=8, help="images along each side of the grid")
    parser.add_argument("--seed", type=int, default=0, help="of the latents")
    add_checkpoint_options(parser)
    options = parse(parser, argv)
    require_positive(rows=options.rows)

    import torch

    from gannorm.files import atomic_write
    from gannorm.models import load_networks
    from gannorm.seeds import stream
    from gannorm.training.callbacks.measurements import encode_grid, generate

    generator = load_networks(options.run, options.step, options.ema).generator
    output = output_file(options.output)
    z = torch.randn(options.rows**2, generator.latent_dim, generator=stream(options.seed, "sample"))
    grid = encode_grid(generate(generator, z, batch_size=64, training=False))
    with atomic_write(output) as file:
        file.write(grid)
    print(output)
    return 0
