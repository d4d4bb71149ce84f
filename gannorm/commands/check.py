"""find mistakes in training configs, without training"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gannorm.commands.inputs.arguments import parse, parser_for, train_config
from gannorm.errors import UserError, out_of_memory, printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def parser() -> ArgumentParser:
    description = "Find mistakes in training configs. Reads no images and trains nothing."
    parser = parser_for("check", description)
    parser.add_argument("configs", type=str, nargs="+", help="recipes or YAML files")
    return parser


def run(argv: Sequence[str]) -> int:
    files = parse(parser(), argv).configs

    from gannorm.training import check

    mistakes = too_large = 0
    for file in files:
        try:
            check(train_config(["--config", file]))
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
