"""Arguments of the command line: parsers, errors in one line, and the user's own modules."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from gannorm.errors import UserError
from gannorm.registry import choices
from gannorm.rundir import writing

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


WHAT_TRAIN_DOES = (
    "Train networks whose normalizer is the study factor, and write a run directory; or, with --resume RUN in place of "
    "a config, go on with a run that was stopped."
)


Task = Literal["gan", "classifier"]
LIBRARY = str(Path(__file__).parent)  # this one
imported: list[str] = []  # the user's own modules of this command line, which a study's runs import too


def train_parser(task: str = "gan") -> ArgumentParser:
    """Every key of a training config of this task, typed: YAML files and flags are the same thing."""
    parser = parser_for("train", WHAT_TRAIN_DOES)
    parser.add_argument("--config", action="config", help="YAML file; later files and flags override earlier ones")
    parser.add_argument("--task", type=Task, default="gan", help="what is trained")
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the run")
    parser.add_argument("--study", type=str, default="runs", help="folder that groups runs to be compared")
    parser.add_argument("--name", type=str, default="", help="of the run; default: <normalizer>_<seed>")
    parser.add_argument("--output", type=str, default="runs", help="folder of all studies")
    parser.add_argument("--steps", type=int, default=1200, help="updates, of a GAN's generator")
    parser.add_argument("--log_every", type=int, default=50, help="steps between records of the losses")
    why = "steps between probes of the optimization (covariate shift, landscape, gradients, noise); 0: never"
    parser.add_argument("--why_every", type=int, default=0, help=why)
    parser.add_argument("--why_budget", type=float, default=0.1, help="largest share of the time that they may take")
    layers = "where they measure the covariate shift, such as discriminator.logit; default: two at a time, drawn anew"
    parser.add_argument("--why_layers", type=list[str], default=[], help=layers)
    parser.add_argument("--checkpoint_every", type=int, default=200, help="steps between checkpoints; 0: never")
    arithmetic = Literal["auto", "exact"]
    parser.add_argument("--precision", type=arithmetic, default="auto", help="auto: bf16 where it is fast; exact: fp32")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    modes = Literal["auto", "online", "offline", "off"]
    parser.add_argument("--wandb", type=modes, default="auto", help="auto: online with a key, else offline")
    parser.add_argument("--wandb_project", type=str, default="gannorm", help="W&B project")
    (_add_classifier if task == "classifier" else _add_gan)(parser)
    options = "of D's or the classifier's, such as {zero_classifier: true}"
    parser.add_argument("--model.initialization_options", type=dict[str, Any], default={}, help=options)
    parser.add_argument("--trainer", type=dict[str, Any], default={}, help="any option of Lightning's Trainer")
    _list_names(parser)
    return parser


def _list_names(parser: ArgumentParser) -> None:
    """Let the help of a key that takes a name list the names that there are, the user's own too."""
    from gannorm.data import DATASETS
    from gannorm.losses import LOSSES, PENALTIES
    from gannorm.models import INITIALIZERS
    from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS

    registries: dict[str, Iterable[str]] = {
        "data.name": DATASETS,
        "loss": LOSSES,
        "penalty": PENALTIES,
        "initialization": INITIALIZERS,
        "norm": NORMALIZERS,
        "weight_norm": WEIGHT_NORMALIZERS,
    }
    for action in parser._actions:
        for key, names in registries.items():
            if f".{action.dest}".endswith(f".{key}"):
                action.help = f"{(action.help or '').rstrip('.')}: {', '.join(names)}"


def _add_gan(parser: ArgumentParser) -> None:
    from gannorm.data import ImageData
    from gannorm.models import Discriminator, Generator
    from gannorm.training import GAN

    parser.add_argument("--probe_every", type=int, default=100, help="steps between batch-dependence probes; 0: never")
    parser.add_argument("--probe_images", type=int, default=256, help="held-out images and fakes in a probe, each")
    parser.add_argument("--sample_every", type=int, default=200, help="steps between sample grids; 0: never")
    parser.add_class_arguments(ImageData, "data", skip={"seed", "labelled"})
    parser.add_class_arguments(GAN, "model", skip={"generator", "discriminator", "seed"})
    parser.add_argument("--model.initialization", type=str, default="dcgan", help="of both networks, by name")
    parser.add_argument("--model.equalize_bias", type=bool, default=False, help="let D call half of all images real")
    parser.add_argument("--model.residual_blocks", type=int, default=0, help="0: VGG pair; else blocks at a map size")
    skipped = {"image_size", "channels", "depth", "outputs"}
    parser.add_class_arguments(Discriminator, "model.discriminator", skip=skipped)
    parser.add_class_arguments(Generator, "model.generator", skip={"image_size", "channels"})


def _add_classifier(parser: ArgumentParser) -> None:
    from gannorm.data import ImageData
    from gannorm.models import Discriminator
    from gannorm.training import Classifier

    parser.add_argument("--test_every", type=int, default=100, help="steps between tests on held-out images; 0: never")
    parser.add_class_arguments(ImageData, "data", skip={"seed", "labelled"})
    parser.add_class_arguments(Classifier, "model", skip={"network"})
    parser.add_argument("--model.initialization", type=str, default="kaiming", help="by name")
    parser.add_argument("--model.residual_blocks", type=int, default=0, help="0: VGG; else residual blocks a map size")
    parser.add_class_arguments(Discriminator, "model.classifier", skip={"image_size", "channels", "outputs"})


def task_of(argv: Sequence[str]) -> str:
    """The task that a training command names, by --task or in a config file: the last word counts, as in the parser.

    What cannot be read here is left to the parser, which says so.

    Raises:
        UserError: an unknown task.
    """
    from gannorm.studies.configs import load

    task = "gan"
    for flag, value in _flags(argv):
        if flag == "--task":
            task = value
        elif flag == "--config":
            with contextlib.suppress(UserError):
                task = str(load(Path(value), "a config").get("task", task))
    if task not in get_args(Task):
        raise UserError(f"unknown task {task!r}: {choices(task, get_args(Task))}")
    return task


def parser_for(name: str, description: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    # An abbreviated key would be a key that nobody checks: --conf, --step for --steps.
    return ArgumentParser(prog=f"gannorm {name}", description=description, exit_on_error=False, allow_abbrev=False)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse, with errors in one line that names the nearest key."""
    import argparse

    from jsonargparse import ArgumentError

    from gannorm.studies.configs import load

    for file in config_files(argv):
        load(file, "a config")  # refuses what a stranger's file might do to the parser
    try:
        namespace = parser.parse_args(list(argv))
    except (ArgumentError, argparse.ArgumentError) as error:
        raise UserError(_explain(str(error), parser)) from None
    _require_groups(namespace.as_dict(), parser.get_defaults().as_dict())
    return namespace


def _require_groups(config: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> None:
    """A key with keys below it must have them: the parser takes `model: null` for an answer."""
    for key, default in defaults.items():
        if isinstance(default, dict) and default:
            if not isinstance(config[key], dict):
                raise UserError(f"`{prefix}{key}` must be a mapping of keys: got {config[key]!r}; leave it out.")
            _require_groups(config[key], default, f"{prefix}{key}.")


def _explain(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message in the house's form: what must hold, what arrived, what to do."""
    message = " ".join(message.split())
    if match := re.search(r"Parser key \"([\w.]+)\": Expected (?:a|an) (.+?)\. Got value:(.*)", message):
        return f"`{match[1]}` must be {_type(match[2])}: got {match[3].strip() or 'nothing'}."
    if match := re.search(r"Parser key \"([\w.]+)\": .*Subtypes: \[(.+?)\] Errors: .* Given value:(.*)", message):
        return f"`{match[1]}` must be {_type(match[2].replace(', ', ' or '))}: got {match[3].strip() or 'nothing'}."
    if match := re.search(r"argument (--[\w.-]+): expected one argument", message):
        return f"`{match[1]}` must be followed by a value: got none; one that begins with - is given as {match[1]}=-…"
    if match := re.search(r"the following arguments are required: (.+)", message):
        return f"`{parser.prog}` must be told what to work on: {match[1]} is missing; see `{parser.prog} --help`."
    if match := re.search(r"Parser key \"([\w.]+)\": Unable to load config '(.*?)' -", message):
        return f"`{match[1]}` must be a mapping of keys: got {match[2]}; `{parser.prog} --help` lists them."
    patterns = (
        r"unrecognized arguments: (-[\w.-]*)()",
        r"Group '([\w.]+)' does not accept option '([\w.]+)'",
        r"[Kk]ey [\"']([\w.]+)[\"'] is not expected()",
    )
    if match := re.search(r"unrecognized arguments: ([^-\s]\S*)", message):
        hint = (
            f"did you mean --config {match[1]}?" if match[1].endswith((".yaml", ".yml")) else "every value has a --key."
        )
        return f"`{parser.prog}` takes no such argument: {match[1]!r}; {hint}"
    keys = [key for key, _ in parser.get_defaults().items()]
    for match in filter(None, (re.search(pattern, message) for pattern in patterns)):
        key = ".".join(filter(None, match.groups())).removeprefix("--")
        same = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]  # --norm, for example
        near = same or difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"`{parser.prog} --help` lists the keys."
        return f"unknown key {key!r}: {hint}"
    return message


def _type(text: str) -> str:
    """A type as jsonargparse prints it, as a person would say it."""
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("NoneType", "null")
    return re.sub(r"typing\.Literal\[(.*?)\]", lambda m: "one of " + m[1].replace("'", ""), text)


def settings(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """What `parse` finds, as plain YAML data: a training config, for example. Not which files it came from."""
    found = _plain(parse(parser, argv).as_dict())
    return {key: value for key, value in found.items() if key != "config"}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def config_files(argv: Sequence[str]) -> list[Path]:
    """The files that --config names."""
    return [Path(value) for flag, value in _flags(argv) if flag == "--config"]


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each argument and the next, of "--key value" and of "--key=value"."""
    return pairwise(part for argument in argv for part in argument.split("=", 1))


def add_checkpoint_options(parser: ArgumentParser) -> None:
    parser.add_argument("--step", type=int | None, default=None, help="which checkpoint; default: the last")
    parser.add_argument("--ema", type=bool, default=True, help="the averaged generator, or else the trained one")


def add_switch(parser: ArgumentParser, *flags: str, help: str) -> None:
    """A flag that needs no value, and takes true or false."""
    parser.add_argument(*flags, type=bool, nargs="?", const=True, default=False, help=help)


def take_imports(arguments: list[str]) -> list[str]:
    """Remove every `--import MODULE` from the arguments: it is never a config key, so no file can name code to run."""
    modules = []
    while (module := _take(arguments, "--import")) is not None:
        if not module:
            raise UserError("`--import` must be followed by a module: got nothing; give for example --import my_norms.")
        modules.append(module)
    return modules


def take_resume(arguments: list[str]) -> str:
    """Remove `--resume RUN` from the arguments and return the run; "" without it. Like --import, it is no config key.

    Raises:
        UserError: no run follows, or there are flags beside it that would change the run.
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
            f"--resume goes on with the run's own config, and only --progress and --wandb may stand beside it: got "
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
    """What the user's own code raised, and where: in the last line of it that is not a library's."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}: "
    else:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(("<", LIBRARY))]
        place = f"{theirs[-1].filename}, line {theirs[-1].lineno}: " if theirs else ""
    return f"{place}{type(error).__name__}: {str(error).strip()[:300]}"


def output_file(path: str) -> Path:
    """Where a result goes. Its folder is made first, so that one which cannot be made costs no measuring."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"a result goes into a file: {path} is a folder; give for example {file / 'result'}.")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file
