"""save a workspace for a project's runs on Weights & Biases"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gannorm.commands.inputs.arguments import add_switch, parse, parser_for
from gannorm.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def parser() -> ArgumentParser:
    parser = parser_for("dashboard", "Save a W&B workspace: composition gap, coupling, scores, samples, by normalizer.")
    parser.add_argument("--project", type=str, default="gannorm", help="W&B project: ENTITY/PROJECT or PROJECT")
    add_switch(parser, "--print", help="print the contents instead of saving them; needs no key")
    return parser


def run(argv: Sequence[str]) -> int:
    options = parse(parser(), argv)

    from gannorm.report.dashboard import describe, save
    from gannorm.wandb_run import has_key

    if options.print:
        print(describe())
        return 0

    if not has_key():
        raise UserError(
            "saving a dashboard needs a W&B key: there is none, or WANDB_MODE forbids it; run `wandb login`."
        )
    print(save(options.project))
    return 0
