"""Arguments of the command line: parsers, errors in one line, and the user's own modules."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from gannorm.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def train_parser() -> ArgumentParser:
    """Every key of a training config, typed: YAML files and flags are the same thing."""
    from gannorm.data import ImageData
    from gannorm.models import Discriminator, Generator
    from gannorm.training import GAN

    parser = parser_for("train", "Train a GAN whose normalizer is the study factor, and write a run directory.")
    parser.add_argument("--config", action="config", help="YAML file; later files and flags override earlier ones")
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the run")
    parser.add_argument("--study", type=str, default="runs", help="folder that groups runs to be compared")
    parser.add_argument("--name", type=str, default="", help="of the run; default: <normalizer>_<seed>")
    parser.add_argument("--output", type=str, default="runs", help="folder of all studies")
    parser.add_argument("--steps", type=int, default=1200, help="generator updates")
    parser.add_argument("--log_every", type=int, default=50, help="steps between records of the losses")
    parser.add_argument("--probe_every", type=int, default=100, help="steps between batch-dependence probes; 0: never")
    parser.add_argument("--probe_images", type=int, default=256, help="held-out images and fakes in a probe, each")
    parser.add_argument("--sample_every", type=int, default=200, help="steps between sample grids; 0: never")
    parser.add_argument("--checkpoint_every", type=int, default=200, help="steps between checkpoints; 0: never")
    arithmetic = Literal["auto", "exact"]
    parser.add_argument("--precision", type=arithmetic, default="auto", help="auto: bf16 where it is fast; exact: fp32")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    modes = Literal["auto", "online", "offline", "off"]
    parser.add_argument("--wandb", type=modes, default="auto", help="auto: online with a key, else offline")
    parser.add_argument("--wandb_project", type=str, default="gannorm", help="W&B project")
    parser.add_class_arguments(ImageData, "data", skip={"seed"})
    parser.add_class_arguments(GAN, "model", skip={"generator", "discriminator", "seed"})
    parser.add_argument("--model.initialization", type=str, default="dcgan", help="of both networks, by name")
    parser.add_argument(
        "--model.initialization_options",
        type=dict[str, Any],
        default={},
        help="of D's, such as {zero_classifier: true}",
    )
    parser.add_argument("--model.equalize_bias", type=bool, default=False, help="let D call half of all images real")
    parser.add_argument("--model.residual_blocks", type=int, default=0, help="0: VGG pair; else blocks at a map size")
    parser.add_class_arguments(Discriminator, "model.discriminator", skip={"image_size", "channels"})
    parser.add_class_arguments(Generator, "model.generator", skip={"image_size", "channels"})
    parser.add_argument("--trainer", type=dict[str, Any], default={}, help="any option of Lightning's Trainer")
    return parser


def evaluate_parser() -> ArgumentParser:
    """What a score depends on, and where it goes."""
    parser = parser_for("evaluate", "Score runs' generators (IS, FID, KID, precision, recall) into their scores.json.")
    parser.add_argument("runs", type=str, nargs="+", help="run directories, or folders of them")
    parser.add_argument("--all_checkpoints", type=bool, default=False, help="every checkpoint instead of the last")
    add_checkpoint_options(parser)
    statistics = Literal["running", "batch", "standing", "all"]
    parser.add_argument(
        "--statistics", type=statistics, default="running", help="of G's normalizers; all: each, averaged and raw"
    )
    name = str | None
    parser.add_argument(
        "--extractor", type=name, default=None, help="default: Inception for colour, in_domain for grey"
    )
    parser.add_argument("--weights", type=name, default=None, help="the extractor's weight file, instead of a download")
    parser.add_argument("--sha256", type=name, default=None, help="of that file; all 64 digits: it is trusted to load")
    parser.add_argument("--extractor_seed", type=int, default=0, help="of an in_domain extractor's training")
    parser.add_argument("--device", type=name, default=None, help="such as cuda or cpu; default: the best there is")
    parser.add_argument("--split", type=Literal["train", "test"], default="train", help="real images to score against")
    parser.add_argument("--samples", type=int | None, default=None, help="fakes; default: as many as real, to 50,000")
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch of generator and extractor")
    parser.add_argument("--splits", type=int, default=10, help="parts for the inception score")
    parser.add_argument("--kid_subsets", type=int, default=100, help="random subsets for KID")
    solvers = Literal["torch-fidelity", "symmetric"]
    parser.add_argument("--fid_solver", type=solvers, default="torch-fidelity", help="symmetric: same FID, far faster")
    parser.add_argument("--seed", type=int, default=2020, help="of latents, splits and subsets")
    parser.add_argument("--reconstruction", type=int, default=0, help="held-out images to reconstruct; 0: none")
    parser.add_argument("--again", type=bool, default=False, help="score also what is scored under this protocol")
    modes = Literal["auto", "online", "offline", "off"] | None
    parser.add_argument("--wandb", type=modes, default=None, help="where scores go too; default: as the run's training")
    return parser


def parser_for(name: str, description: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"gannorm {name}", description=description, exit_on_error=False)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse, with errors in one line that names the nearest key."""
    import argparse

    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(list(argv))
    except (ArgumentError, argparse.ArgumentError) as error:
        message = _explain(str(error), parser)
    except (OSError, ValueError) as error:  # a config file that is not text, for example
        message = f"Problems parsing config: {error}"
    files = [value for flag, value in pairwise(argv) if flag == "--config"]
    raise UserError(message.replace("Problems parsing config", f"`config` must be YAML: {', '.join(files)}"))


def _explain(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message in the house's form: what must hold, what arrived, what to do."""
    message = " ".join(message.split())
    if match := re.search(r"(?:Parser key|argument) \"?([\w.-]+)\"?: File does not exist: '?(.+?)'?$", message):
        return f"`{match[1]}` must be a file that exists: got {match[2]}."
    if match := re.search(r"Parser key \"([\w.]+)\": Expected (?:a|an) (.+?)\. Got value: (.*)", message):
        wanted = re.sub(r"<class '(\w+)'>", r"\1", match[2])
        wanted = re.sub(r"typing\.Literal\[(.*?)\]", lambda m: "one of " + m[1].replace("'", ""), wanted)
        return f"`{match[1]}` must be {wanted}: got {match[3]}."
    patterns = (
        r"unrecognized arguments: (--[\w.-]+)()",
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
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"`{parser.prog} --help` lists the keys."
        return f"unknown key {key!r}: {hint}"
    return message


def plain(namespace: Namespace) -> dict[str, Any]:
    """The parsed config as plain YAML data."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(v) for v in value]
        return value

    return convert(namespace.as_dict())


def add_checkpoint_options(parser: ArgumentParser) -> None:
    parser.add_argument("--step", type=int | None, default=None, help="which checkpoint; default: the last")
    parser.add_argument("--ema", type=bool, default=True, help="the averaged generator, or else the trained one")


def take_imports(arguments: list[str]) -> list[str]:
    """Remove every `--import MODULE` from the arguments: it is never a config key, so no file can name code to run."""
    modules = []
    while "--import" in arguments:
        at = arguments.index("--import")
        if at + 1 == len(arguments):
            raise UserError("`--import` must be followed by a module: got nothing; give for example --import my_norms.")
        modules.append(arguments[at + 1])
        del arguments[at : at + 2]
    return modules


def import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise  # the module exists and one of its own imports is missing
        raise UserError(
            f"a module to import must be found: {name!r} is not; run from its folder or install it."
        ) from None
