"""Arguments of the command line: parsers, errors in one line, and the user's own modules."""

from __future__ import annotations

import argparse
import importlib
import re
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import gannorm
from gannorm import recipes
from gannorm.config import RENAMED, TrainConfig, is_study, keys, read_sources
from gannorm.config.dotted import changed, flatten
from gannorm.config.hints import NAMES, flag_hint, foreign
from gannorm.config.schema import Key, kind_in_words, unknown_key
from gannorm.errors import UserError
from gannorm.files import load, writing
from gannorm.registry import Registry, UnknownNameError, choices, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

DEFAULT = "digits"  # the recipe of a command that names none
LIBRARY = str(Path(gannorm.__file__).parent)
imported: list[str] = []  # the user's own modules of this command line, which a study's runs import too


# -- training configs -------------------------------------------------------------------------------------------------


def train_config(argv: Sequence[str], command: str = "train") -> TrainConfig:
    """The config of a training command: recipes and files of --config, later ones over earlier ones, then the flags.

    Unknown keys, wrong types and values out of range are refused before torch is imported. The check of names, such as
    losses and normalizers, imports torch but not Lightning.

    Raises:
        UserError: a mistake in any of them.
    """
    arguments = list(argv)
    content = read_sources(take_all(arguments, "--config"))
    chosen = flag_values(arguments, "--task")
    task = str(chosen[-1] if chosen else content.get("task", "gan"))
    keys("gan")["task"].typed(task)
    parser = train_parser(task)
    parser.prog = f"gannorm {command}"
    flags = settings(parser, arguments, defaults=False)
    config = TrainConfig.from_dict(changed(content, flatten(flags)))
    require_names(config)
    return config


def train_parser(task: str = "gan", names: bool = False) -> ArgumentParser:
    """A parser with one flag for each key of the task's config. With `names`, its help lists the registered names."""
    parser = parser_for(
        "train",
        "Train networks whose normalizer is the study factor, and write a run directory.\n\n"
        "  gannorm train --config digits --model.discriminator.norm group --seed 1\n"
        "  gannorm train --resume runs/digits/group_1\n\n"
        "For several runs, compared with intervals: `gannorm study`.",
    )
    parser.usage = "gannorm train [--config RECIPE] [--KEY VALUE …]   or   gannorm train --resume RUN"
    parser.add_argument(
        "--config", type=str, help=f"recipe ({', '.join(recipes.names(of_runs=True))}) or YAML file; repeatable"
    )
    parser.add_argument("--resume", type=str, help="continue a run that was stopped")
    add_switch(parser, "--print_config", help="print the config as YAML instead of training")
    groups: dict[str, Any] = {}
    for key in keys(task).values():
        title = _group(key)
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        if key.name != "recipe":
            help = f"{key.help}: {', '.join(_registry(key.names))}" if names and key.names else key.help
            groups[title].add_argument(f"--{key.name}", type=key.kind, default=key.default, help=help)
    return parser


def _group(key: Key) -> str:
    section = key.name.rpartition(".")[0]
    if section:
        return {"data": "images", "model": "training"}.get(section, section.removeprefix("model."))
    return "what is measured, and when" if key.name.endswith(("_every", "_images", "_budget", "_layers")) else "the run"


def require_names(config: TrainConfig) -> None:
    """Every name in a config must be registered. Imports torch, not Lightning.

    Raises:
        UserError: an unknown name, with the nearest one.
    """
    for key in keys(config.task).values():
        if not key.names or config[key.name] in (names := _registry(key.names)):
            continue
        name = config[key.name]
        if instead := foreign(name, NAMES[key.names]):
            raise UserError(f"`{key.name}` has no {name!r}: did you mean {instead}?")
        if key.names == "datasets" and ("/" in name or Path(name).is_dir()):
            raise UserError(f"`{key.name}` has no {name!r}: did you mean --data.name folder --data.root {name}?")
        if isinstance(names, Registry):
            raise UnknownNameError(f"unknown {names.kind} {name!r}: {choices(name, names)}")
        raise UserError(f"unknown {key.name.rpartition('.')[2]} {name!r}: {choices(name, names)}")


def _registry(names: str) -> Any:
    """The registry with the name that a key declares in `names`."""
    from gannorm.data import DATASETS
    from gannorm.losses import LOSSES, PENALTIES
    from gannorm.models import AUGMENTATIONS, DISCRIMINATORS, GENERATORS, INITIALIZERS
    from gannorm.models.discriminator import MINIBATCH
    from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS

    registries: dict[str, Any] = {
        "datasets": DATASETS,
        "losses": LOSSES,
        "penalties": PENALTIES,
        "augmentations": AUGMENTATIONS,
        "discriminators": DISCRIMINATORS,
        "generators": GENERATORS,
        "initializers": INITIALIZERS,
        "minibatch": MINIBATCH,
        "normalizers": NORMALIZERS,
        "weight_normalizers": WEIGHT_NORMALIZERS,
    }
    return registries[names]


# -- parsing ----------------------------------------------------------------------------------------------------------


def parser_for(name: str, description: str) -> ArgumentParser:
    """A parser for one command. The description may have lines of its own."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    # argparse would accept an abbreviation, such as --step for --steps, without checking the key.
    return ArgumentParser(
        prog=f"gannorm {name}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=Formatter,
    )


def parse(parser: ArgumentParser, argv: Sequence[str], defaults: bool = True) -> Namespace:
    """Parse, with errors in one line that names the nearest key.

    Args:
        parser: of the command.
        argv: its arguments.
        defaults: whether the result also holds the defaults of the flags that were not given.

    Raises:
        UserError: an unknown key or an invalid value.
    """
    from jsonargparse import ArgumentError

    _require_known(parser, argv)
    try:
        return parser.parse_args(list(argv), defaults=defaults)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise UserError(_explain(" ".join(str(error).split()), parser)) from None


def _require_known(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Each flag must be known, or lie below a free dictionary, and must have a value."""
    flags = {option: action for action in parser._actions for option in action.option_strings}
    free = tuple(f"{flag}." for flag, action in flags.items() if get_origin(kind_of(action)) is dict)
    for argument, following in pairwise([*argv, None]):
        flag, equals, _ = str(argument).partition("=")
        if not flag.startswith("-") or _is_number(flag):
            continue
        if flag not in flags and not flag.startswith(free):
            raise _unknown_flag(flag, parser, flags)
        wants_value = not equals and (flag not in flags or flags[flag].nargs is None)
        if wants_value and (following is None or (following.startswith("-") and not _is_number(following))):
            raise UserError(f"`{flag}` must be followed by a value: got none; {_value_of(flag, flags.get(flag))}.")


def _value_of(flag: str, action: Any) -> str:
    """How a value is given to a flag that came without one."""
    kind = kind_of(action) if action else None
    if kind is bool:
        return f"give {flag} true or {flag} false"
    if get_origin(kind) is Literal:
        return f"choose from {', '.join(map(str, get_args(kind)))}"
    return f"write a value that begins with - as {flag}=-…"


def _is_number(text: str) -> bool:
    return (text[:1] == "-" and text[1:2].isdigit()) or (text[:2] == "-." and text[2:3].isdigit())


def _unknown_flag(flag: str, parser: ArgumentParser, flags: Mapping[str, Any]) -> UserError:
    command, name = parser.prog.rpartition(" ")[2], flag.removeprefix("--")
    if name in RENAMED and f"--{RENAMED[name]}" in flags:
        return UserError(f"`--{name}` was renamed: give --{RENAMED[name]}.")
    if hint := flag_hint(command, name):
        return UserError(hint)
    known = [option.removeprefix("--") for option in flags if option.startswith("--") and option != "--help"]
    return unknown_key(name, known, f"`{parser.prog} --help` lists the keys.")


def _explain(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message in the house's form: what must hold, what arrived, what to do."""
    if match := re.search(r"Parser key \"([\w.]+)\":.*?(?:Got|Given) value:(.*)", message):
        key, value = match[1], match[2].strip()
        (kind,) = (kind_of(action) for action in parser._actions if action.dest == key)
        try:
            Key(key, kind, None, "", "", None, "").typed(value)
        except UserError as error:
            return str(error)
        return f"`{key}` must be {kind_in_words(kind)}: got {value or 'nothing'}."
    if match := re.search(r"the following arguments are required: (.+)", message):
        return f"`{parser.prog}` needs an argument: {match[1]} is missing; see `{parser.prog} --help`."
    if match := re.search(r"unrecognized arguments: (\S*)", message):
        file = match[1].endswith((".yaml", ".yml"))
        configs = "--config" in parser._option_string_actions
        hint = "give each value after its --key."
        if configs and (near := nearest(match[1], recipes.names())):
            hint = f"did you mean --config {near[0]}?"
        if configs and (file or match[1] in recipes.names()):
            hint = f"did you mean --config {match[1]}?"
            with suppress(UserError):
                if is_study(load(recipes.locate(match[1]), "a config")):
                    hint = f"it is a study: run `gannorm study {match[1]}`."
        return f"`{parser.prog}` takes no such argument: {match[1]!r}; {hint}"
    return message


def kind_of(action: Any) -> Any:
    """The type of a parser's argument."""
    return getattr(action, "_typehint", None) or action.type


def settings(parser: ArgumentParser, argv: Sequence[str], defaults: bool = True) -> dict[str, Any]:
    """The result of `parse`, as plain data."""
    return _plain(parse(parser, argv, defaults).as_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def flag_values(argv: Sequence[str], flag: str) -> list[str]:
    """The values of every `flag VALUE` and `flag=VALUE`."""
    return take_all(list(argv), flag)


def add_keys(parser: ArgumentParser, section: str, *names: str) -> None:
    """Some keys of a section of a GAN's config, such as data.name, as flags of another command."""
    for name in names:
        key = keys("gan")[f"{section}.{name}"]
        parser.add_argument(f"--{key.name}", type=key.kind, default=key.default, help=key.help)


def add_checkpoint_options(parser: ArgumentParser) -> None:
    parser.add_argument("--step", type=int | None, default=None, help="step of the checkpoint; default: the last")
    parser.add_argument("--ema", type=bool, default=True, help="use the averaged weights of G; false: the trained ones")


def add_switch(parser: ArgumentParser, *flags: str, help: str) -> None:
    """Add a flag that may stand alone, which means true, or take true or false."""
    parser.add_argument(*flags, type=bool, nargs="?", const=True, default=False, help=help)


def underscored(argv: Sequence[str]) -> list[str]:
    """The arguments with `_` for every `-` inside the name of a flag: --dry-run is --dry_run. Values stay.

    >>> underscored(["study", "my-study", "--dry-run", "--report=my-report", "--lr", "-1"])
    ['study', 'my-study', '--dry_run', '--report=my-report', '--lr', '-1']
    """
    arguments = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if argument.startswith("--"):
            flag = "--" + flag[2:].replace("-", "_")
        arguments.append(flag + equals + value)
    return arguments


def take_imports(arguments: list[str]) -> list[str]:
    """Remove every `--import MODULE` from the arguments: it is never a config key, so no file can name code to run."""
    modules = take_all(arguments, "--import")
    if "" in modules:
        raise UserError("`--import` must be followed by a module: got nothing; give for example --import my_norms.")
    return modules


def take_switch(arguments: list[str], flag: str) -> bool:
    """Remove a switch from the arguments and return whether it was given."""
    given = flag in arguments
    arguments[:] = [argument for argument in arguments if argument != flag]
    return given


def take_all(arguments: list[str], flag: str) -> list[str]:
    """Remove every `flag VALUE` and `flag=VALUE` and return the values, "" for one without."""
    values = []
    while (value := _take(arguments, flag)) is not None:
        values.append(value)
    return values


def take_resume(arguments: list[str]) -> str:
    """Remove `--resume RUN` from the arguments and return the run; "" without it. Like --import, it is no config key.

    Raises:
        UserError: no run follows, or other flags are given that would change the run.
    """
    run = _take(arguments, "--resume")
    if run is None:
        return ""
    if not run or run.startswith("-"):
        raise UserError(
            "`--resume` must be followed by a run directory: got nothing; give for example runs/digits/batch_0."
        )
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    if others := sorted({*flags} - {"--progress", "--wandb"}):
        raise UserError(
            f"--resume continues with the run's own config, and takes no flags but --progress and --wandb: got "
            f"{', '.join(others)}; leave them out, or train a new run."
        )
    return run


def _take(arguments: list[str], flag: str) -> str | None:
    """Remove the first `flag VALUE` or `flag=VALUE` and return the value, "" if it has none; None without the flag."""
    at = next((i for i, argument in enumerate(arguments) if argument.partition("=")[0] == flag), None)
    if at is None:
        return None
    _, equals, value = arguments.pop(at).partition("=")
    return arguments.pop(at) if not equals and at < len(arguments) else value


def import_module(name: str) -> Any:
    """The user's own module. Raises UserError if there is none, or if it raises an error of its own."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"a module to import must be named as in python: got {name!r}; give for example my_norms.")
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
            raise UserError(
                f"a module to import must be found: {name!r} is not; run from its folder or install it."
            ) from None
        raise UserError(f"a module to import must run without an error: {name}: {raised(error)}") from error


def raised(error: Exception) -> str:
    """The error that the user's own code raised, and the last line of that code, outside libraries."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}: "
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(("<", LIBRARY))]
        place = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return f"{place}{type(error).__name__}: {str(error).strip()[:300]}"


def output_file(path: str) -> Path:
    """The path of a result file. Makes its folder at once, so that a bad path fails before the measurement."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"a result must be a file: {path} is a folder; give for example {file / 'result'}.")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file
