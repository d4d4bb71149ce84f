"""train an in-domain feature extractor for evaluate --extractor_weights"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from gannorm.commands.inputs.arguments import add_keys, parser_for, settings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def parser() -> ArgumentParser:
    what = "Train a classifier of a dataset's own labels, for `gannorm evaluate --extractor_weights`."
    parser = parser_for("extractor", what)
    parser.add_argument("action", type=Literal["train"], help="what to do")
    data = ("name", "root", "image_size", "download", "skip_bad", "enlarge", "background", "follow_links")
    add_keys(parser, "data", *data)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the split, the weights and the batches")
    parser.add_argument("--output", type=str, default="extractor", help="folder for the weights and their card")
    return parser


def run(argv: Sequence[str]) -> int:
    options = settings(parser(), argv)

    from gannorm.data import load_images
    from gannorm.evaluation import train_in_domain

    card = train_in_domain(load_images(split="train", **options["data"]), options["output"], seed=options["seed"])
    print(f"{options['output']}: accuracy {card['held_out_accuracy']:.4f} on {card['held_out_images']} held-out images")
    return 0
