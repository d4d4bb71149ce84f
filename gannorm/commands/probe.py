"""measure the batch dependence of a discriminator or a classifier, of a run or of your own module"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gannorm.commands.inputs.arguments import add_switch, output_file, parse, parser_for
from gannorm.errors import UserError, require_positive

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

WEIGHTS = (".pt", ".pth", ".bin", ".pkl", ".tar", ".safetensors")  # the suffixes of files of weights


def parser() -> ArgumentParser:
    parser = parser_for("probe", "Measure whether a discriminator, of a run or any module, judges images or batches.")
    parser.add_argument("run", type=str, nargs="?", default="", help="run directory or checkpoint")
    parser.add_argument("--step", type=int | None, default=None, help="step of the checkpoint; default: the last")
    parser.add_argument("--module", type=str, default="", help="instead of a run: nets.py:Class, or a factory")
    parser.add_argument("--args", type=str, default="", help="arguments of --module in YAML, such as '{width: 64}'")
    parser.add_argument(
        "--weights", type=str, default="", help="weights of --module: a file of torch.save; default: random"
    )
    parser.add_argument("--weights_key", type=str, default="", help="key of the weights in that file, such as netD")
    parser.add_argument(
        "--input",
        type=str,
        default="",
        help="for --module: a shape such as 3x32x32, or an .npy or .pt file, its first half real, the rest fake",
    )
    parser.add_argument("--real", type=str, default="", help="for --module: a folder of real images, beside --fake")
    parser.add_argument("--fake", type=str, default="", help="for --module: a folder of generated images")
    parser.add_argument(
        "--labels",
        type=str,
        default="",
        help="for a classifier in --module: an .npy or .pt file with a label for each sample of the file of --input",
    )
    parser.add_argument(
        "--output",
        type=str,
        default="",
        help="the logits among several outputs: an index, a key, or a path such as logits.0",
    )
    parser.add_argument("--mode", type=Literal["train", "eval"], default="train", help="mode of the network")
    parser.add_argument("--images", type=int, default=256, help="number of real images, and of fakes")
    parser.add_argument("--batch_size", type=int, default=64, help="images a batch")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the probe")
    coupled = "exit with status 1 if anything couples, or if repeated calls differ"
    add_switch(parser, "--fail_on_coupling", help=coupled)
    parser.add_argument("--json", type=str, default="", help="file for the result")
    parser.add_argument("--figure", type=str, default="", help="PNG file for the figure")
    return parser


def run(argv: Sequence[str]) -> int:
    options = parse(parser(), argv)
    _require_run(options.run or (not options.module and options.weights) or "")
    if bool(options.run) == bool(options.module):
        raise UserError("`probe` takes a run or --module: got " + ("both." if options.run else "neither; give one."))
    folders = bool(options.real or options.fake)
    if (options.run and (options.input or folders)) or (options.module and options.step is not None):
        raise UserError(
            "`--input` belongs to --module, as `--real` and `--fake` do, and `--step` to a run: got the other; leave "
            "it out."
        )
    if folders and not (options.real and options.fake):
        raise UserError("`--real` and `--fake` belong together: got one of them; give both folders.")
    if options.module and not (options.input or folders):
        raise UserError(
            "`--module` needs --input, or --real and --fake: got none; give a shape such as 3x32x32, or an .npy or .pt "
            "file, or two folders of images."
        )
    if options.labels and not Path(options.input).suffix:
        raise UserError("`--labels` belongs to a file of --input: got none; give one, or leave --labels out.")
    require_positive(images=options.images, batch_size=options.batch_size)

    from gannorm import probes
    from gannorm.files import atomic_write, write_json
    from gannorm.probes.progress import progress
    from gannorm.seeds import stream

    if options.labels or (options.run and _is_classifier(options.run)):
        return _probe_classifier(options)
    settings: dict[str, Any] = {}
    remark = ""
    if options.run:
        f, real, fake, settings = _run_to_probe(options)
    else:
        from gannorm.commands.inputs.subjects import load_folders, load_halves, load_module

        f, remark = load_module(options.module, options.args, options.weights, options.weights_key)
        f.train(options.mode == "train")
        how = options.input, f, options.images, options.batch_size, options.seed
        real, fake = load_folders(options.real, options.fake, *how) if folders else load_halves(*how)
    f.train(options.mode == "train")
    to_json, to_figure = (output_file(path) if path else None for path in (options.json, options.figure))
    draws, chosen = stream(options.seed, "probe"), output_of(options.output)
    with progress("measuring"):
        result = probes.batch_invariance(f, real, fake, options.batch_size, generator=draws, output=chosen)
    print(result)
    if remark:
        print(f"  ({remark})")
    if options.module and not folders and not Path(options.input).suffix:
        print("  (both classes are the same noise: the couplings hold, but accuracies and the leak ratio need images)")
    if settings and options.mode == "train" and (line := _contradiction(settings, result)):
        print(line)
    if to_json:
        write_json(to_json, result.to_dict())
    if to_figure:
        with atomic_write(to_figure) as file:
            result.figure().savefig(file, format="png", dpi=150)
    independent = result.swap.verdict in ("independent", "rounding") and not (result.gradient_coupling or result.hidden)
    return int(options.fail_on_coupling and not independent)


def _require_run(run: str) -> None:
    """Raises UserError for what is given in the place of a run, and has a flag of its own."""
    example = "" if ":" in run else ":Class"
    if Path(run.partition(":")[0]).suffix == ".py" or (":" in run and not Path(run).exists()):
        raise UserError(f"`probe` takes a run: got a module, {run}; give --module {run}{example} --input 3x32x32.")
    if Path(run).suffix in WEIGHTS:
        raise UserError(
            f"`probe` takes a run: got a file of weights, {run}; give their network too: --module nets.py:Class "
            f"--weights {run} --input 3x32x32."
        )


def _is_classifier(run: str) -> bool:
    from gannorm.models import task_of

    return task_of(run) == "classifier"


def _probe_classifier(options: Namespace) -> int:
    """The composition curve of a classifier, and whether anything in it couples the batch. There is no verdict."""
    import torch

    from gannorm import probes
    from gannorm.files import atomic_write, write_json
    from gannorm.probes.batch import take
    from gannorm.probes.dependence.figure import class_figure
    from gannorm.seeds import stream

    f, images, labels, remark = _classifier_to_probe(options)
    f.train(options.mode == "train")
    to_json, to_figure = (output_file(path) if path else None for path in (options.json, options.figure))
    chosen = output_of(options.output)
    rarest = int(labels.unique(return_counts=True)[1].min())
    batch_size = options.batch_size if rarest >= options.batch_size else max(2, rarest // 4)
    draws = stream(options.seed, "probe")
    curve = probes.class_composition(f, images, labels, batch_size, output=chosen, generator=draws)
    print(curve)
    if batch_size != options.batch_size:
        print(
            f"  (batches of {batch_size} in the place of {options.batch_size}: a class has {rarest} images, and a "
            "quarter of them fills a batch)"
        )
    if remark:
        print(f"  ({remark})")
    coupled = False
    try:
        probes.assert_batch_invariant(f, take(images, torch.arange(batch_size)), output=chosen)
        print("no layer couples the batch")
    except probes.BatchCouplingError as error:
        coupled = True
        print(str(error).splitlines()[0])
    if to_json:
        write_json(to_json, curve.to_dict())
    if to_figure:
        with atomic_write(to_figure) as file:
            class_figure(curve).savefig(file, format="png", dpi=150)
    return int(options.fail_on_coupling and coupled)


def _classifier_to_probe(options: Namespace) -> tuple[Any, Any, Any, str]:
    """A classifier, images with their labels, at most `--images` of each class in random order, and a remark."""
    import torch

    from gannorm.commands.inputs.subjects import load_labelled, load_module
    from gannorm.data import images_of_run, to_float
    from gannorm.models import load_classifier
    from gannorm.probes.batch import take
    from gannorm.seeds import stream

    remark = ""
    images: Any
    if options.run:
        f, config = load_classifier(options.run, options.step)
        held_out = images_of_run(dataclasses.asdict(config.data), "test")
        assert held_out.labels is not None  # it was trained on this data set
        images, labels = to_float(held_out.pixels), held_out.labels
    else:
        f, remark = load_module(options.module, options.args, options.weights, options.weights_key)  # type: ignore[assignment]
        images, labels = load_labelled(options.input, options.labels, f)
    order = torch.randperm(len(labels), generator=stream(options.seed, "take"))
    of_each = [order[labels[order] == c][: options.images] for c in labels.unique()]
    kept = order[torch.isin(order, torch.cat(of_each))]
    return f, take(images, kept), labels[kept], remark


def output_of(path: str) -> Any:
    """`output=` of the probes, from a path with dots; None for "".

    >>> output_of("logit"), output_of("-1"), output_of("scales.0.logit"), output_of("")
    ('logit', -1, ('scales', 0, 'logit'), None)
    """
    if not path:
        return None
    steps = tuple(int(step) if step.lstrip("-").isdecimal() else step for step in path.split("."))
    return steps if len(steps) > 1 else steps[0]


def _run_to_probe(options: Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A run's discriminator, held-out images, fakes of its generator as in training, and the discriminator's config."""
    import torch

    from gannorm.data import images_of_run
    from gannorm.models import load_networks
    from gannorm.seeds import stream
    from gannorm.training.callbacks.samples import generate

    networks = load_networks(options.run, options.step, ema=False)
    held_out = images_of_run(dataclasses.asdict(networks.config.data), "test")
    images = min(options.images, len(held_out))
    z = torch.randn(images, networks.generator.latent_dim, generator=stream(options.seed, "latents"))
    fake = generate(networks.generator, z, options.batch_size, training=True)
    settings = dataclasses.asdict(networks.config.model)["discriminator"]
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
