"""What scores cost beside the passes that they need."""

from __future__ import annotations

import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.core import Bench, Row, now, row
from benchmarks.loops import Items, random_images
from gannorm.data import to_uint8
from gannorm.models import Generator
from gannorm.seeds import stream


def evaluation(bench: Bench) -> Iterator[Row]:
    """Checkpoints scored by one Evaluator, against passes of generator and extractor, and torch-fidelity's one call."""
    from torch_fidelity import GenerativeModelModuleWrapper, calculate_metrics

    from gannorm.data import load_images
    from gannorm.evaluation import Evaluator, build_extractor, train_in_domain

    class Bytes(nn.Sequential):
        def forward(self, z: Tensor) -> Tensor:
            return to_uint8(super().forward(z))

    dataset = load_images("digits", "train", image_size=16)
    count = 3 if bench.quick else 10
    generators = [_seeded_generator(seed).to(bench.device) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, GANNORM_CACHE=folder):
        card = train_in_domain(dataset, folder, device=bench.device)
        extractor = build_extractor("in_domain", dataset, weights=folder, device=bench.device)
        evaluator = Evaluator(dataset, extractor=extractor, quiet=True)
        single = Evaluator(dataset, extractor=extractor, quiet=True, kid_subsets=1)
        passes, score, shares = _judges(evaluator)

        def separately(generator: nn.Module) -> None:
            warnings.simplefilter("ignore")  # its loaders' word on the number of their processes
            calculate_metrics(
                input1=GenerativeModelModuleWrapper(Bytes(generator), 64, "normal", 0),
                input1_model_num_samples=evaluator.samples,
                input2=Items(len(dataset), dataset.pixels.__getitem__),
                feature_extractor="in_domain",
                feature_extractor_weights_path=str(Path(folder) / card["weights"]),
                **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
                kid_subset_size=evaluator.kid_subset_size,
                cuda=bench.device.type == "cuda",
                cache=False,
                save_cpu_ram=False,
                verbose=False,
            )

        # A round is one checkpoint for each; what the reference costs once is shared out over all of them.
        begin = now(bench.device)
        Evaluator(dataset, extractor=extractor, quiet=True, seed=1)  # another key: nothing is in the cache
        once = (now(bench.device) - begin) / count
        contestants = {"ours": score, "one subset": single.score, "passes": passes, "separate": separately}
        drawn = {name: iter([generators[0], *generators]) for name in contestants}  # the first round is not counted
        runs = {name: lambda name=name, run=run: run(next(drawn[name])) for name, run in contestants.items()}
        times = bench.interleaved(runs, rounds=count)
    for name in ("ours", "one subset"):
        times[name] = [seconds + once for seconds in times[name]]
    # Medians of single checkpoints would hide a slow one: the sum is what a person waits for.
    total = {name: [sum(seconds)] for name, seconds in times.items()}
    what = f"{count} checkpoints, {evaluator.samples} digits each"
    note = f"{statistics.median(shares):.0%} of it in the extractor"
    yield row("evaluation", what, total, "ours", "passes", False, "passes alone", "≤ 1.1", note=note)
    what_less = "the same with 1 KID subset instead of 100"
    yield row("evaluation", what_less, total, "one subset", "passes", False, "passes alone", "≤ 1.1")
    yield row("evaluation", what, total, "ours", "separate", True, "calculate_metrics", "≥ 1.8")
    yield _inception(bench)


def _inception(bench: Bench) -> Row:
    """The same through torch-fidelity's Inception, with random weights: what they are does not change the time."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from gannorm.evaluation import Evaluator
    from gannorm.evaluation.extractors import INCEPTION, METRICS, Extractor

    count = 100 if bench.quick else 500
    with (
        mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None),
    ):
        module = FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"]).to(bench.device).eval()
    layers = {name: FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(name) for name in METRICS}
    generator = _seeded_generator(0, channels=3).to(bench.device)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, GANNORM_CACHE=folder):
        images = random_images(16, "train", count)
        extractor = Extractor(INCEPTION, module, layers, "random", bench.device)
        warnings.simplefilter("ignore")  # fewer images than features
        evaluator = Evaluator(images, extractor=extractor, quiet=True)
        passes, score, shares = _judges(evaluator)
        runs = {"ours": lambda: score(generator), "passes": lambda: passes(generator)}
        times = bench.interleaved(runs, rounds=1 if bench.quick else 2)
    note = f"{statistics.median(shares):.0%} of it in the extractor; the reference is cached"
    what = f"a checkpoint, {count} images, Inception"
    return row("evaluation", what, times, "ours", "passes", False, "passes alone", "≤ 1.1", note=note)


def _judges(evaluator: Any) -> tuple[Callable[[nn.Module], None], Callable[[nn.Module], None], list[float]]:
    """The bare passes of a generator's images, its scores, and what share of each scoring was in the extractor."""
    extractor, shares = evaluator.extractor, []

    def passes(generator: nn.Module) -> None:
        with torch.no_grad():
            for start in range(0, evaluator.samples, 64):
                z = torch.randn(min(64, evaluator.samples - start), 64, device=extractor.device)
                extractor.module(to_uint8(generator(z)))

    def score(generator: nn.Module) -> None:
        found = evaluator.score(generator)
        shares.append(found.seconds_by_part["extractor"] / found.seconds)

    return passes, score, shares


def _seeded_generator(seed: int, channels: int = 1) -> Generator:
    generator = Generator(16, channels, 32)
    for p in generator.parameters():
        nn.init.normal_(p, 0.0, 0.02, generator=stream(seed, "weights"))
    return generator.eval()
