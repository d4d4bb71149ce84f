"""complete commands and keys in a shell: `eval "$(gannorm --print_completion bash)"`"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import ModuleType
from typing import Literal, get_args, get_origin

from gannorm.commands.inputs.arguments import kind_of
from gannorm.errors import UserError
from gannorm.registry import choices

SHELLS = ("bash", "zsh")


def completion(shell: str, commands: Mapping[str, ModuleType]) -> str:
    """The script by which a shell completes every command's flags.

    Args:
        shell: one of SHELLS.
        commands: name → module of each subcommand.

    Raises:
        UserError: another shell, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise UserError(f"`--print_completion` must be followed by a shell: got {shell!r}; {choices(shell, SHELLS)}")
    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError("completion needs shtab: it is not installed; run `pip install shtab`.") from None
    whole = argparse.ArgumentParser(prog="gannorm")
    parts = whole.add_subparsers()
    for name, module in commands.items():
        part = parts.add_parser(name, help=str(module.__doc__).split("\n")[0])
        for action in module.parser()._actions:
            flags = [flag for flag in action.option_strings if flag not in ("-h", "--help", "--print_shtab")]
            kind = kind_of(action)
            if flags:
                part.add_argument(*flags, choices=get_args(kind) if get_origin(kind) is Literal else None)
    return shtab.complete(whole, shell)
