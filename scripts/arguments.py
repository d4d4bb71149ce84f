"""Refuse what is wrong in a script's arguments before anything is installed: one line, exit status 2.

    python3 scripts/arguments.py study --jobs 2                # flags of `gannorm study`
    python3 scripts/arguments.py train --steps 2000 --seed 1   # keys of `gannorm train`, as train_folder.sh takes them

Imports the standard library and gannorm's declared keys, which need nothing else. Names, such as those of normalizers,
are checked by the command itself: their registries need torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gannorm.config import keys
from gannorm.config.hints import flag_hint
from gannorm.config.schema import DISPLAY, FROM_ONE, Key, Range, unknown_key
from gannorm.errors import UserError
from gannorm.recipes import locate

SWITCHES = ("dry_run", "plan_only")
STUDY: dict[str, tuple[Any, Range | None]] = {  # the flags of `gannorm study`
    **dict.fromkeys(SWITCHES, (bool, None)),
    "jobs": (int, FROM_ONE),
    "engine": (Literal["local", "ray"], None),
    "address": (str, None),
    "cpus_per_run": (float, Range(0)),
    "gpus_per_run": (float, Range(0)),
    "skip": (str, None),
    "output": (str, None),
    "report": (str, None),
}
SET_HERE = ("data.root", "model.discriminator.norm", "name", "output", "progress", "recipe", "study", "task")
YAML_BOOLEANS = ("true", "false", "yes", "no", "on", "off")


def check(command: str, arguments: Sequence[str]) -> None:
    """Check the arguments of a script that hands them on to a command.

    Raises:
        UserError: an unknown flag, a flag without a value, a value of another kind or out of range, a missing file.
    """
    known = _keys(command)
    rest = list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--"):
            raise UserError(f"the script takes no such argument: {flag!r}; give each value after its --key.")
        name = flag[2:].replace("-", "_")
        key = known.get(name) or _free(name, known)
        if key is None:
            raise _unknown(name, command, known)
        if not equals and rest and not _is_flag(rest[0]):
            value = rest.pop(0)
        elif not equals and name in SWITCHES:
            continue
        if not value:
            raise UserError(f"`--{name}` must be followed by a value: got none.")
        _require(key, value)


def _keys(command: str) -> Mapping[str, Key]:
    if command == "study":
        return {name: Key(name, kind, None, DISPLAY, "", within, "") for name, (kind, within) in STUDY.items()}
    config = Key("config", str, None, DISPLAY, "recipe or YAML file", None, "")
    return {"config": config, **{name: key for name, key in keys("gan").items() if name not in SET_HERE}}


def _free(name: str, known: Mapping[str, Key]) -> Key | None:
    """The key of any value below a free dictionary, such as trainer.devices."""
    below = any(get_origin(key.kind) is dict and name.startswith(f"{key.name}.") for key in known.values())
    return Key(name, str, None, DISPLAY, "", None, "") if below else None


def _unknown(name: str, command: str, known: Mapping[str, Key]) -> UserError:
    if command == "train" and name in SET_HERE:
        return UserError(
            f"the script sets `--{name}` itself: leave it out, or use `gannorm train` and `gannorm study`."
        )
    if hint := flag_hint(command, name):
        return UserError(hint)
    remedy = f"choose from {', '.join(f'--{key}' for key in STUDY)}." if command == "study" else ""
    return unknown_key(name, known, remedy)


def _is_flag(text: str) -> bool:
    return text.startswith("-") and not text[1:2].isdigit() and not text.startswith("-.")


def _require(key: Key, value: str) -> None:
    if key.name == "config" and not locate(value).is_file():
        raise UserError(f"a config must be readable: {value}: No such file.")
    if key.name == "skip" and not Path(value).is_file():
        raise UserError(f"`--skip` must be a file: {value} is not there.")
    if key.kind is bool:
        if value.lower() not in YAML_BOOLEANS:
            raise UserError(f"`{key.name}` must be true or false: got {value}.")
    elif get_origin(key.kind) in (None, Literal):
        key.typed(value)
    elif key.within is not None:  # a list of numbers
        try:
            content = json.loads(value)
        except ValueError:
            content = value
        key.typed(content)


if __name__ == "__main__":
    try:
        check(sys.argv[1], sys.argv[2:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
