"""score generators or images: IS, FID, KID, precision and recall"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gannorm.commands.inputs.arguments import add_checkpoint_options, output_file, parser_for, settings
from gannorm.errors import UserError
from gannorm.rundir import RunDir

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

WHAT_IT_DOES = (
    "Score generators (IS, FID, KID, precision, recall). Give runs, whose scores go into their scores.json, or a "
    "--module with --weights, or a folder of images as --fake; the last two are scored against --real."
)
OF_RUNS = ("step", "all_checkpoints", "ema", "extractor_seed", "reconstruction", "again", "wandb")
OF_MODULES = ("args", "weights", "weights_key", "latent_dim", "latent_shape", "module_output", "conditional")
# Options that apply to one kind of subject; the others apply to every score.
OF_OTHERS = ("module", "fake", "real", "fake_range", "root", "json", *OF_MODULES)


def run(argv: Sequence[str]) -> int:
    flags = parser()
    options = settings(flags, argv)
    runs = options.pop("runs")
    if sum(map(bool, (runs, options["module"], options["fake"]))) != 1:
        arrived = "several" if runs or options["module"] or options["fake"] else "none"
        raise UserError(f"`evaluate` takes runs, --module or --fake: got {arrived} of them; give one.")
    defaults = flags.get_defaults().as_dict()
    given = [name for name in (OF_OTHERS if runs else OF_RUNS) if options[name] != defaults[name]]
    if not runs and not options["module"]:
        given += [name for name in OF_MODULES if options[name] != defaults[name]]
    if given:
        of = "--module or --fake" if runs else "runs" if given[0] in OF_RUNS else "--module"
        hint = "; the extractor's weights are --extractor_weights" if runs and given[0] == "weights" else ""
        raise UserError(f"`--{given[0]}` belongs to {of}: leave it out{hint}.")
    kept = {k: v for k, v in options.items() if k not in (OF_OTHERS if runs else OF_RUNS)}
    if not runs:
        return _score_others(kept)
    from gannorm.data.tree import SUFFIXES
    from gannorm.rundir import find_runs

    for folder in map(Path, runs):
        if any(file.suffix.lower() in SUFFIXES for file in folder.glob("*")):
            raise UserError(
                f"`evaluate` takes runs: {folder} is a folder of images; give --fake {folder} --real FOLDER."
            )
    kept["weights"] = kept.pop("extractor_weights")
    return score(find_runs(runs), kept.pop("wandb"), **kept)


def parser() -> ArgumentParser:
    """The options: what to score, how, and where the scores go."""
    parser, text = parser_for("evaluate", WHAT_IT_DOES), str | None
    parser.add_argument("runs", type=str, nargs="*", default=[], help="run directories, or folders of them")
    parser.add_argument("--all_checkpoints", type=bool, default=False, help="every checkpoint instead of the last")
    add_checkpoint_options(parser)
    parser.add_argument("--fake", type=str, default="", help="instead of runs: a folder of generated images")
    parser.add_argument("--module", type=str, default="", help="instead of runs: a generator, nets.py:Class or factory")
    parser.add_argument("--args", type=str, default="", help="arguments of --module in YAML, such as '{width: 64}'")
    parser.add_argument(
        "--weights", type=str, default="", help="weights of --module: a file of torch.save; default: random"
    )
    parser.add_argument("--weights_key", type=str, default="", help="key of the weights in that file, such as netG")
    parser.add_argument(
        "--latent_dim", type=int | None, default=None, help="numbers in a latent of --module: 100 for (N, 100)"
    )
    parser.add_argument(
        "--latent_shape", type=str, default="", help="shape of a latent of --module: 100x1x1 for (N, 100, 1, 1)"
    )
    parser.add_argument(
        "--module_output", type=str, default="", help="key, index or attribute of the images in --module's output"
    )
    parser.add_argument("--conditional", type=bool, default=False, help="--module takes labels as its second argument")
    parser.add_argument(
        "--fake_range",
        type=list[float] | None,
        default=None,
        help="black and white of --module's images, such as [0, 1]; default: [-1, 1]",
    )
    parser.add_argument("--real", type=str, default="", help="real images: a folder, or the name of a data set")
    parser.add_argument("--root", type=str, default="data", help="folder of the data set's files")
    parser.add_argument("--json", type=str, default="", help="file for the result of --module or --fake")
    statistics = Literal["running", "batch", "standing", "all"]
    parser.add_argument(
        "--statistics",
        type=statistics,
        default="running",
        help="statistics of G's normalizers; all: each of them, with averaged and with raw weights",
    )
    parser.add_argument(
        "--extractor", type=text, default=None, help="default: Inception for colour, in_domain for grey"
    )
    parser.add_argument(
        "--extractor_weights", type=text, default=None, help="file of the extractor's weights, instead of a download"
    )
    parser.add_argument(
        "--sha256", type=text, default=None, help="checksum of that file, all 64 digits; it is then trusted to load"
    )
    parser.add_argument(
        "--extractor_seed", type=int, default=0, help="random seed of an in_domain extractor's training"
    )
    parser.add_argument("--device", type=text, default=None, help="such as cuda or cpu; default: the best available")
    splits = Literal["train", "test"] | None
    parser.add_argument(
        "--split", type=splits, default=None, help="split of the real images; default: test if it has 5,000, else train"
    )
    parser.add_argument(
        "--samples",
        type=int | None,
        default=None,
        help="number of fakes; default: as many as real images, at most 50,000",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images a batch in the generator and the extractor")
    parser.add_argument("--splits", type=int, default=10, help="parts for the inception score")
    parser.add_argument("--kid_subsets", type=int, default=100, help="random subsets for KID")
    kernels = Literal["poly", "rbf"]
    parser.add_argument("--kid_kernel", type=kernels, default="poly", help="rbf: the kernel of CMMD, for CLIP features")
    parser.add_argument("--seed", type=int, default=2020, help="random seed of latents, splits and subsets")
    parser.add_argument("--reconstruction", type=int, default=0, help="held-out images to reconstruct; 0: none")
    parser.add_argument("--again", type=bool, default=False, help="repeat scores that exist under this protocol")
    modes = Literal["auto", "online", "offline", "off"] | None
    parser.add_argument(
        "--wandb", type=modes, default=None, help="log the scores to W&B too; default: as in the run's training"
    )
    return parser


def score(runs: Sequence[RunDir], wandb: str | None = None, **options: Any) -> int:
    """Score checkpoints of runs, see `score_runs`, and log new scores to W&B; 1 if any could not be scored."""
    from tqdm import tqdm

    from gannorm.comparison.scores import score_curves
    from gannorm.evaluation import score_runs, score_table
    from gannorm.wandb_run import log_scores

    results = []
    for result in score_runs(runs, **options):
        results.append(result)
        tqdm.write(result.line, file=sys.stderr if result.failed else sys.stdout)
    for run in runs:
        records = [r.record for r in results if r.run is run and r.record]
        if options.get("statistics") == "all":
            print(f"{run.path}:\n{score_table(records)}")
        elif options.get("all_checkpoints") and records:
            print(f"{run.path}:\n{score_curves(records)}")
        if new := [r.record for r in results if r.run is run and r.record and r.new]:
            log_scores(run, new, wandb or run.config().get("wandb", "off"))
    return int(any(result.failed for result in results))


def _score_others(options: dict[str, Any]) -> int:
    """A module or a folder against real images; printed, and written to --json."""
    from gannorm.arithmetic import best_device, require_device
    from gannorm.commands.inputs.subjects import load_module
    from gannorm.evaluation import evaluate
    from gannorm.files import write_json

    if not options["real"]:
        raise UserError("`--real` must name the real images: got none; give a folder, or a data set such as digits.")
    if options["statistics"] == "all":
        raise UserError("`--statistics all` belongs to runs: choose running, batch or standing.")
    device = options["device"] or str(best_device())
    require_device(device)
    json = options.pop("json")
    file = output_file(json) if json else None
    spec, args, weights, key = (options.pop(name) for name in ("module", "args", "weights", "weights_key"))
    shape, output, remark = options.pop("latent_shape"), options.pop("module_output"), ""
    generator: Any = Path(options.pop("fake"))
    if spec:
        generator, remark = load_module(spec, args, weights, key)
        generator.to(device)
    scores = evaluate(
        generator,
        options.pop("real"),
        latent_shape=_shape(shape) if shape else None,
        output=int(output) if output.isdecimal() else output or None,
        fake_range=_range(options.pop("fake_range")),
        weights=options.pop("extractor_weights"),
        **options | {"device": device},
    )
    print(scores)
    if remark:
        print(f"({remark})")
    if file:
        write_json(file, scores.to_dict())
    return 0


def _shape(text: str) -> tuple[int, ...]:
    from gannorm.commands.inputs.subjects import shape_of

    if not (shape := shape_of(text)):
        raise UserError(f"`--latent_shape` must be a shape such as 100x1x1: got {text!r}.")
    return shape


def _range(ends: list[float] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    if len(ends) != 2:
        raise UserError(f"`--fake_range` must be black and white, such as [0, 1]: got {ends}.")
    return ends[0], ends[1]
