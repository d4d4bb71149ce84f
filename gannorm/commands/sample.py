"""write a grid of images from a run's generator"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gannorm.commands.inputs.arguments import add_checkpoint_options, output_file, parse, parser_for
from gannorm.errors import require_positive

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def parser() -> ArgumentParser:
    parser = parser_for("sample", "Write a grid of images from a run's generator.")
    parser.add_argument("run", type=str, help="run directory or checkpoint")
    parser.add_argument("--output", type=str, default="samples.png", help="PNG file to write")
    parser.add_argument("--rows", type=int, default=8, help="images along each side of the grid")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the latents")
    add_checkpoint_options(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    options = parse(parser(), argv)
    require_positive(rows=options.rows)

    import torch

    from gannorm.files import atomic_write
    from gannorm.models import load_networks
    from gannorm.seeds import stream
    from gannorm.training.callbacks.samples import encode_grid, generate

    generator = load_networks(options.run, options.step, options.ema).generator
    output = output_file(options.output)
    z = torch.randn(options.rows**2, generator.latent_dim, generator=stream(options.seed, "sample"))
    grid = encode_grid(generate(generator, z, batch_size=64, training=False))
    with atomic_write(output) as file:
        file.write(grid)
    print(output)
    return 0
