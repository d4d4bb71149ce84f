"""The `gannorm` command. Every subcommand imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gannorm.arguments import (
    add_checkpoint_options,
    evaluate_parser,
    import_module,
    parse,
    parser_for,
    plain,
    take_imports,
    take_resume,
    task_of,
    train_parser,
)
from gannorm.errors import OutOfMemory, UserError
from gannorm.registry import choices
from gannorm.rundir import PLAN, RunDir

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from gannorm.studies.table import Comparison
    from gannorm.studies.tasks import Engine

Command = Callable[[Sequence[str]], int]
_imported: list[str] = []  # the user's own modules, which a study's runs import too


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit status: 0; 2 after a caller's mistake, 1 out of memory (one line each); 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = ""
    warnings.showwarning = _show_warning
    try:
        sys.path.insert(0, str(Path.cwd()))  # --import and --module name the user's own modules, as `python` would
        _imported[:] = take_imports(arguments)
        for module in _imported:
            import_module(module)
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_help())
            return 0
        name = arguments.pop(0)
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}: {choices(name, COMMANDS)}")
        return COMMANDS[name](arguments)
    except (UserError, OutOfMemory) as error:
        line = " ".join(str(error).split())
        print(f"gannorm {name}: {line}" if name else f"gannorm: {line}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"gannorm {name}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or python would complain at exit
        return 141


def train(argv: Sequence[str]) -> int:
    """train a GAN, or a classifier, and write a run directory; with --resume RUN, go on with a stopped one"""
    argv = list(argv)
    if stopped := take_resume(argv):
        argv = ["--config", str(RunDir.open(stopped).config_file), *argv]  # also for keys that are newer than the run
    parser = train_parser(task_of(argv))
    namespace = parse(parser, argv)
    config = plain(namespace)
    sources = [Path(str(p)) for p in config.pop("config") or []]
    if stopped:
        from gannorm.training import resume

        return _ended(resume(Path(stopped), config))

    judge = config["model"].get("discriminator") or config["model"]["classifier"]
    name = config["name"] or f"{judge['norm']}_{config['seed']}"
    folder = Path(config["output"]) / config["study"]
    if any(s.resolve() == (folder / name / "config.yaml").resolve() for s in sources):
        name = _next_free(folder, name)  # a run's own config repeats it beside it
    config["name"] = name
    for key in ("study", "name"):
        text = config[key]
        if text in ("", ".", "..", PLAN) or Path(text).name != text or not text.isprintable() or len(text) > 100:
            raise UserError(f"`{key}` must be a folder's plain name: got {text[:100]!r}; use --output for the place.")

    from gannorm.training import train

    return _ended(train(config, folder / name))


def _ended(run: RunDir) -> int:
    status = run.status()
    print(f"{run.path}: {status['state']} at step {status['step']} {status['reason']}".rstrip())
    return 0


def describe(argv: Sequence[str]) -> int:
    """list a config's networks: layers, shapes, parameters, normalizers"""
    if task_of(argv) != "gan":
        raise UserError("`describe` lists the two networks of a GAN: got a config of another task; give a GAN's.")
    config = plain(parse(train_parser(), argv))

    import torch

    from gannorm.data import GREY
    from gannorm.models import build_networks
    from gannorm.models.describe import describe
    from gannorm.normalizers import NORMALIZERS

    model, images = config["model"], config["data"]["batch_size"]
    if model["accumulation"] == "naive":
        images //= model["accumulate"]
    size, channels = config["data"]["image_size"], 1 if config["data"]["name"] in GREY else 3
    generator, discriminator = build_networks(model, size, channels)
    seen = {
        "D step": images * (2 if model["d_composition"] == "joint" else 1),
        "G step": images * (2 if model["g_composition"] == "joint" else 1),
    }
    for name, network, x, batches in (
        ("generator", generator, torch.zeros(2, model["generator"]["latent_dim"]), {"batch": images}),
        ("discriminator", discriminator, torch.zeros(2, channels, size, size), seen),
    ):
        if model[name]["norm"] == "sync":
            batches = {kind: together * _processes(config["trainer"]) for kind, together in batches.items()}
        rows = describe(network, x, model[name]["norm"], batches)
        print(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
        table = [("layer", "kind", "output", "parameters", "weight", "coupling", *batches)]
        for row in rows:
            shape = "x".join(map(str, row.shape)) or "1"
            cells = (row.name, row.kind, shape, f"{row.parameters:,}", row.weight_norm, row.coupling)
            table.append((*cells, *(str(row.batches.get(kind, "")) for kind in batches)))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print(("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip())
        if note := NORMALIZERS[model[name]["norm"]].note:
            print(f"  {model[name]['norm']}: {note}")
    return 0


def sample(argv: Sequence[str]) -> int:
    """write a grid of images from a run's generator"""
    parser = parser_for("sample", "Write a grid of images from a run's generator.")
    parser.add_argument("run", type=str, help="run directory or checkpoint")
    parser.add_argument("--output", type=str, default="samples.png", help="PNG file to write")
    parser.add_argument("--rows", type=int, default=8, help="images along each side of the grid")
    parser.add_argument("--seed", type=int, default=0, help="of the latents")
    add_checkpoint_options(parser)
    options = parse(parser, argv)
    if options.rows < 1:
        raise UserError(f"`rows` must be at least 1: got {options.rows}.")

    import torch

    from gannorm.models import load_networks
    from gannorm.rundir import atomic_write
    from gannorm.seeds import stream
    from gannorm.training.callbacks import encode_grid, generate

    generator = load_networks(options.run, options.step, options.ema).generator
    z = torch.randn(options.rows**2, generator.latent_dim, generator=stream(options.seed, "sample"))
    grid = encode_grid(generate(generator, z, batch_size=64, training=False))
    output = Path(options.output)
    with atomic_write(output) as file:
        file.write(grid)
    print(output)
    return 0


def probe(argv: Sequence[str]) -> int:
    """measure a discriminator's batch dependence, of a run or of your own module"""
    parser = parser_for("probe", "Does this discriminator judge images, or batches? Of a run, or of any module.")
    parser.add_argument("run", type=str, nargs="?", default="", help="run directory or checkpoint")
    parser.add_argument("--step", type=int | None, default=None, help="which checkpoint; default: the last")
    parser.add_argument("--module", type=str, default="", help="instead of a run: package.module:Class (or a factory)")
    parser.add_argument(
        "--input", type=str, default="", help="for --module: a shape such as 3x32x32, or .npy or .pt file"
    )
    parser.add_argument("--mode", type=Literal["train", "eval"], default="train", help="of the network")
    parser.add_argument("--images", type=int, default=256, help="real images and fakes, each")
    parser.add_argument("--batch_size", type=int, default=64, help="images a batch")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    parser.add_argument(
        *("--fail-on-coupling", "--fail_on_coupling"),
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="exit with 1 if anything couples",
    )
    parser.add_argument("--json", type=str, default="", help="file for the result")
    parser.add_argument("--figure", type=str, default="", help="PNG file for the figure")
    options = parse(parser, argv)
    if bool(options.run) == bool(options.module):
        raise UserError("`probe` takes a run or --module: got " + ("both." if options.run else "neither; give one."))
    if (options.run and options.input) or (options.module and options.step is not None):
        raise UserError("`--input` belongs to --module and `--step` to a run: got the other; leave it out.")
    if options.module and not options.input:
        raise UserError("`--module` needs --input: got none; give a shape such as 3x32x32, or an .npy or .pt file.")
    if options.images < 1:
        raise UserError(f"`images` must be at least 1: got {options.images}.")

    import io

    from gannorm import probes
    from gannorm.rundir import atomic_write, write_json
    from gannorm.seeds import stream

    settings: dict[str, Any] = {}
    if options.run:
        f, real, fake, settings = _run_to_probe(options)
    else:
        from gannorm.subjects import load_halves, load_module

        f = load_module(options.module).train(options.mode == "train")
        real, fake = load_halves(options.input, f, options.images, options.seed)
    f.train(options.mode == "train")
    result = probes.batch_invariance(f, real, fake, options.batch_size, stream(options.seed, "probe"))
    print(result)
    if settings and options.mode == "train" and (line := _contradiction(settings, result)):
        print(line)
    if options.json:
        write_json(Path(options.json), result.to_dict())
    if options.figure:
        png = io.BytesIO()
        result.figure().savefig(png, format="png", dpi=150)
        with atomic_write(Path(options.figure)) as file:
            file.write(png.getvalue())
    return int(options.fail_on_coupling and (result.forward_coupling or result.gradient_coupling))


def _run_to_probe(options: Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A run's discriminator, held-out images, fakes of its generator as in training, and the discriminator's config."""
    import torch

    from gannorm.data import load_images
    from gannorm.models import load_networks
    from gannorm.seeds import stream
    from gannorm.training.callbacks import generate

    networks = load_networks(options.run, options.step, ema=False)
    data = networks.config["data"]
    held_out = load_images(
        data["name"], "test", image_size=data["image_size"], root=data["root"], skip_bad=data["skip_bad"]
    )
    images = min(options.images, len(held_out))
    z = torch.randn(images, networks.generator.latent_dim, generator=stream(options.seed, "latents"))
    fake = generate(networks.generator, z, options.batch_size, training=True)
    settings = networks.config["model"]["discriminator"]
    return networks.discriminator, held_out.take(images, options.seed), fake, settings


def _contradiction(settings: Mapping[str, Any], result: Any) -> str:
    """One line if what a discriminator's normalizer declares is not what was measured, otherwise ""."""
    from gannorm.normalizers import NORMALIZERS

    entry = NORMALIZERS[settings["norm"]]
    if entry.note or settings["minibatch"] != "none":  # flags with a condition, or a layer that couples by itself
        return ""
    flags = ("forward_coupling", "gradient_coupling")
    wrong = [f"{k}={getattr(entry, k)}" for k in flags if getattr(entry, k) != getattr(result, k)]
    if not wrong:
        return ""
    return f"normalizer {entry.name!r} declares {' and '.join(wrong)}, which the probe contradicts: correct its flags."


def evaluate(argv: Sequence[str]) -> int:
    """score generators: IS, FID, KID, precision and recall"""
    options = plain(parse(evaluate_parser(), argv))

    from tqdm import tqdm

    from gannorm.evaluation import score_runs, score_table
    from gannorm.evaluation.ranks import joined
    from gannorm.rundir import find_runs
    from gannorm.studies.quantities import score_curves

    runs, wandb = find_runs(options.pop("runs")), options.pop("wandb")
    results = []
    with joined():
        for result in score_runs(runs, **options):
            results.append(result)
            tqdm.write(result.said, file=sys.stderr if result.failed else sys.stdout)
    for run in runs if results else ():  # among processes that score together, the first has the results
        records = [r.record for r in results if r.run is run and r.record]
        if options["statistics"] == "all":
            print(f"{run.path}:\n{score_table(records)}")
        elif options["all_checkpoints"] and records:
            print(f"{run.path}:\n{score_curves(records)}")
        _log_scores(run, [r.record for r in results if r.run is run and r.record and r.new], wandb)
    return int(any(result.failed for result in results))


def _log_scores(run: RunDir, records: list[Mapping[str, Any]], mode: str | None) -> None:
    """Scores into a W&B run of their own beside the training's: an offline run cannot be resumed."""
    if not records:
        return
    config = run.config()
    mode = mode or config.get("wandb", "off")
    if mode == "off":
        return

    from gannorm.training.loggers import wandb_logger

    if logger := wandb_logger(run, config, mode, config.get("wandb_project", "gannorm"), job_type="evaluation"):
        for record in records:
            protocol = record["protocol"]
            where = f"scores/{protocol['statistics']}/{'averaged' if protocol['ema'] else 'raw'}"
            values = {
                f"{where}/{k}": float(v) for k, v in record.items() if isinstance(v, (int, float)) and k != "step"
            }
            if "reconstruction" in record:
                values[f"{where}/reconstruction"] = record["reconstruction"]["error"]
            logger.log_metrics(values, record["step"])
        logger.finalize("success")


def extractor(argv: Sequence[str]) -> int:
    """train an in-domain feature extractor for evaluate --weights"""
    from gannorm.data import ImageData, load_images

    parser = parser_for("extractor", "Train a classifier of a dataset's own labels, for `gannorm evaluate --weights`.")
    parser.add_argument("action", type=Literal["train"], help="what to do")
    parser.add_class_arguments(ImageData, "data", skip={"seed", "batch_size", "labelled"})
    parser.add_argument("--seed", type=int, default=0, help="of the split, the initial weights and the batches")
    parser.add_argument("--output", type=str, default="extractor", help="folder for the weights and their card")
    options = plain(parse(parser, argv))

    from gannorm.evaluation import train_in_domain

    card = train_in_domain(load_images(split="train", **options["data"]), options["output"], seed=options["seed"])
    print(f"{options['output']}: accuracy {card['held_out_accuracy']:.4f} on {card['held_out_images']} held-out images")
    return 0


def compare(argv: Sequence[str]) -> int:
    """compare runs: a table and report/index.html"""
    parser = parser_for("compare", "Compare runs: a table in the terminal, and table.csv and index.html in a folder.")
    parser.add_argument("runs", type=str, nargs="+", help="run directories, or folders of them")
    parser.add_argument("--output", type=str, default="report", help="folder to write")
    parser.add_argument(
        "--baseline", type=str | None, default=None, help="condition to compare with; default: the first"
    )
    parser.add_argument("--by_mode", type=bool, default=False, help="compare the sampling modes of G, run by run")
    modes = Literal["auto", "online", "offline", "off"]
    parser.add_argument("--wandb", type=modes, default="off", help="where the table and the figures go too")
    options = parse(parser, argv)

    from gannorm.rundir import find_runs
    from gannorm.studies.compare import compare

    output = Path(options.output)
    comparison = compare(find_runs(options.runs), output, baseline=options.baseline, by_mode=options.by_mode)
    print(comparison.to_text())
    print(output / "index.html")
    if options.wandb != "off":
        _log_comparison(comparison, output, options.wandb)
    return 0


def _log_comparison(comparison: Comparison, output: Path, mode: str) -> None:
    """The table and the figures into a W&B run of their own, in the project of the runs."""
    from gannorm.studies.dashboard import record
    from gannorm.training.loggers import start

    config = next(c for c in comparison.conditions if c.runs).runs[0].config
    logger = start(
        mode,
        project=config.get("wandb_project", "gannorm"),
        name=f"comparison of {config.get('study', 'runs')}",
        group=config.get("study", "runs"),
        job_type="comparison",
        config={"baseline": comparison.baseline, "conditions": [c.label for c in comparison.conditions]},
        dir=str(output),
    )
    if logger:
        logger.log_record(record(comparison, output / "figures"), {"headline": comparison.headline})
        logger.finalize("success")


def dashboard(argv: Sequence[str]) -> int:
    """save a workspace for a project's runs on Weights & Biases"""
    parser = parser_for("dashboard", "Save a W&B workspace: composition gap, coupling, scores, samples, by normalizer.")
    parser.add_argument("--project", type=str, default="gannorm", help="W&B project: ENTITY/PROJECT or PROJECT")
    options = parse(parser, argv)

    from gannorm.studies.dashboard import save
    from gannorm.training.loggers import has_key

    if not has_key():
        raise UserError("saving a dashboard needs a W&B key: found none, or WANDB_MODE forbids it; run `wandb login`.")
    print(save(options.project))
    return 0


def study(argv: Sequence[str]) -> int:
    """plan a grid of runs, train what is missing, evaluate, compare"""
    parser = parser_for("study", "Plan a grid of runs, train what is missing, evaluate, compare. Repeat to go on.")
    parser.add_argument("file", type=str, help="study file, for example configs/studies/demo.yaml")
    parser.add_argument(
        "--dry-run", type=bool, nargs="?", const=True, default=False, help="show the runs and their states, do nothing"
    )
    plan_only = "write the runs' configs, for another scheduler, and do nothing else"
    parser.add_argument("--plan-only", "--plan_only", type=bool, nargs="?", const=True, default=False, help=plan_only)
    parser.add_argument("--jobs", type=int | None, default=None, help="runs at once; default: as many as there is room")
    parser.add_argument("--engine", type=Literal["local", "ray"], default="local", help="where the runs are processes")
    parser.add_argument("--address", type=str | None, default=None, help="of the Ray cluster; default: auto")
    parser.add_argument("--cpus_per_run", type=float | None, default=None, help="on the Ray cluster; default: 1")
    share = "on the Ray cluster, such as 0.25; default: a quarter where there are GPUs"
    parser.add_argument("--gpus_per_run", type=float | None, default=None, help=share)
    parser.add_argument("--output", type=str, default="runs", help="folder of all studies")
    parser.add_argument("--report", type=str, default="report", help="folder for the comparison")
    options = parse(parser, argv)
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"`jobs` must be at least 1: got {options.jobs}.")

    from gannorm.studies.engine import describe, execute, save_configs
    from gannorm.studies.grid import plan

    command = [sys.executable, "-m", "gannorm.cli", *(text for module in _imported for text in ("--import", module))]
    planned = plan(Path(options.file), Path(options.output), command)
    engine = _engine(options, command)
    print(describe(planned, engine, table=options.dry_run), flush=True)
    if options.plan_only:
        print(save_configs(planned))
    return 0 if options.dry_run or options.plan_only else execute(planned, engine, Path(options.report))


def _engine(options: Namespace, command: Sequence[str]) -> Engine:
    from gannorm.studies.processes import Local

    own = {name: options[name] for name in ("address", "cpus_per_run", "gpus_per_run") if options[name] is not None}
    if options.engine == "local":
        if own:
            raise UserError(
                f"`--{next(iter(own))}` belongs to --engine ray: the engine is local; give one or the other."
            )
        return Local(command, options.jobs)

    from gannorm.studies.cluster import RayCluster

    return RayCluster(command, jobs=options.jobs, **{"address": "auto", **own})


COMMANDS: dict[str, Command] = {
    "train": train,
    "describe": describe,
    "probe": probe,
    "evaluate": evaluate,
    "extractor": extractor,
    "sample": sample,
    "study": study,
    "compare": compare,
    "dashboard": dashboard,
}


# -- helpers -----------------------------------------------------------------------------------------------------------


def _help() -> str:
    lines = [f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gannorm [--import MODULE] COMMAND …",
            "",
            "Does my discriminator judge images, or batches?",
            "",
            *lines,
            "",
            "  --import MODULE   import your own module first, for example one that registers a normalizer",
            "",
            "`gannorm COMMAND --help` lists what a command takes.",
        ]
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Our warnings speak to the person at the terminal, who has no use for a source line."""
    print(f"warning: {message}", file=sys.stderr)


def _processes(trainer: Mapping[str, Any]) -> int:
    """How many processes a config's Trainer options ask for, where they say a number."""
    devices = trainer.get("devices", 1)
    here = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    return here * int(trainer.get("num_nodes", 1))


def _next_free(folder: Path, name: str) -> str:
    number = 2
    while (folder / f"{name}_{number}").exists():
        number += 1
    return f"{name}_{number}"


if __name__ == "__main__":
    sys.exit(main())
