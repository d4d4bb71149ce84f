"""score generators: IS, FID, KID, precision and recall"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from gannorm.arguments import add_checkpoint_options, parser_for, settings
from gannorm.rundir import RunDir

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def parser() -> ArgumentParser:
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
    parser.add_argument("--sha256", type=name, default=None, help="of that file, all 64 digits: it is trusted to load")
    parser.add_argument("--extractor_seed", type=int, default=0, help="of an in_domain extractor's training")
    parser.add_argument("--device", type=name, default=None, help="such as cuda or cpu; default: the best there is")
    splits = Literal["train", "test"] | None
    parser.add_argument("--split", type=splits, default=None, help="real images; default: test if 5,000, else train")
    parser.add_argument("--samples", type=int | None, default=None, help="fakes; default: as many as real, to 50,000")
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch of generator and extractor")
    parser.add_argument("--splits", type=int, default=10, help="parts for the inception score")
    parser.add_argument("--kid_subsets", type=int, default=100, help="random subsets for KID")
    kernels = Literal["poly", "rbf"]
    parser.add_argument("--kid_kernel", type=kernels, default="poly", help="rbf: the kernel of CMMD, meant for CLIP")
    parser.add_argument("--seed", type=int, default=2020, help="of latents, splits and subsets")
    parser.add_argument("--reconstruction", type=int, default=0, help="held-out images to reconstruct; 0: none")
    parser.add_argument("--again", type=bool, default=False, help="score also what is scored under this protocol")
    modes = Literal["auto", "online", "offline", "off"] | None
    parser.add_argument("--wandb", type=modes, default=None, help="where scores go too; default: as the run's training")
    return parser


def run(argv: Sequence[str]) -> int:
    options = settings(parser(), argv)

    from gannorm.rundir import find_runs

    return score(find_runs(options.pop("runs")), options.pop("wandb"), **options)


def score(runs: Sequence[RunDir], wandb: str | None = None, **options: Any) -> int:
    """Score checkpoints of runs, see `score_runs`, and log new scores to W&B; 1 if any could not be scored."""
    from tqdm import tqdm

    from gannorm.comparison.scores import score_curves
    from gannorm.evaluation import score_runs, score_table
    from gannorm.wandb_run import log_scores

    results = []
    for result in score_runs(runs, **options):
        results.append(result)
        tqdm.write(result.said, file=sys.stderr if result.failed else sys.stdout)
    for run in runs:
        records = [r.record for r in results if r.run is run and r.record]
        if options.get("statistics") == "all":
            print(f"{run.path}:\n{score_table(records)}")
        elif options.get("all_checkpoints") and records:
            print(f"{run.path}:\n{score_curves(records)}")
        if new := [r.record for r in results if r.run is run and r.record and r.new]:
            log_scores(run, new, wandb or run.config().get("wandb", "off"))
    return int(any(result.failed for result in results))
