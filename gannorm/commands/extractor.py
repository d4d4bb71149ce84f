"""train an in-domain feature extractor for evaluate --extractor in_domain"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from gannorm.commands.inputs.arguments import add_keys, parser_for, settings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def parser() -> ArgumentParser:
    what = "Train a classifier of a dataset's own labels, once, for `gannorm evaluate --extractor in_domain`."
    parser = parser_for("extractor", what)
    parser.add_argument("action", type=Literal["train"], help="what to do")
    data = ("name", "root", "image_size", "download", "skip_bad", "enlarge", "background", "follow_links")
    add_keys(parser, "data", *data)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the split, the weights and the batches")
    output = "folder for the weights and their card, for --extractor_weights; default: the cache"
    parser.add_argument("--output", type=str, default="", help=output)
    return parser


def run(argv: Sequence[str]) -> int:
    options = settings(parser(), argv)

    from gannorm.data import load_images
    from gannorm.evaluation import train_in_domain

    folder = options["output"] or None
    card = train_in_domain(load_images(split="train", **options["data"]), folder, seed=options["seed"])
    accuracy = f"accuracy {card['held_out_accuracy']:.4f} on {card['held_out_images']} held-out images"
    print(f"{folder or 'in the cache'}: {accuracy}")
    return 0
