"""Run directories as training writes them, from a simulation: what `compare` must find is known in advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]
STEPS = range(100, 1300, 100)
PROTOCOL = {"extractor": "digits classifier", "extractor_sha256": "ab12", "fake_images": 1000, "real_split": "heldout"}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run(norm, seed, name=…, status=…, **config) writes one run below tmp_path/study."""
    return partial(_make_run, tmp_path / "study")


@pytest.fixture
def make_classifier(make_run: MakeRun) -> MakeRun:
    """make_classifier(norm, seed, accuracies, …) writes a classifier's run, tested at steps 0, 10, 20, …"""

    def make(norm: str, seed: int, accuracies: Sequence[float], rate: float = 0.1, **more: Any) -> RunDir:
        model = {"classifier": {"norm": norm, "width": 16}, "learning_rate": rate}
        run = make_run(norm, seed, **{"name": f"c_{norm}_{rate}_{seed}", "task": "classifier", "model": model, **more})
        for file in [*run.path.glob("scores.json"), *run.samples().values(), *run.probes().values()]:
            file.unlink()
        records = [f'{{"step": {10 * i}, "test/accuracy": {accuracy}}}\n' for i, accuracy in enumerate(accuracies)]
        (run.path / "metrics.jsonl").write_text("".join(records))
        return run

    return make


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A comparison of two normalizers over three seeds, one run diverged, and the folder of its report."""
    from gannorm.report.compare import compare  # draws: seconds that other tests need not wait for

    study = tmp_path_factory.mktemp("runs") / "digits"
    runs = [_make_run(study, norm, seed) for norm in ("batch", "group") for seed in range(3)]
    runs.append(_make_run(study, "batch", 3, status="diverged"))
    output = tmp_path_factory.mktemp("report")
    return compare(runs, output), output


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the runs of each comparison, instead of its seconds of figures."""
    from gannorm.studies.tasks import state

    compared: list[list[str]] = []

    class Nothing:
        def to_text(self) -> str:
            return "compared"

    def note(runs: list[RunDir], output: Path, **options: Any) -> Nothing:
        compared.append([run.name for run in runs if state(run) == "finished"])
        return Nothing()

    monkeypatch.setattr("gannorm.report.compare.compare", note)
    return compared


def _make_run(
    folder: Path, norm: str, seed: int, *, name: str | None = None, status: str = "finished", **more: Any
) -> RunDir:
    """One run. Batch norm couples the batch, every other normalizer does not.

    Args:
        more: config keys of the top level to add or replace.
    """
    noise = np.random.default_rng([seed, sum(map(ord, norm))])
    config = {
        "seed": seed,
        "study": folder.name,
        "name": name or f"{norm}_{seed}",
        "steps": STEPS[-1],
        "data": {"name": "digits", "image_size": 16, "batch_size": 64},
        "model": {
            "discriminator": {"norm": norm, "norm_options": {"groups": 8} if norm == "group" else {}, "width": 16},
            "generator": {"norm": "batch", "width": 32},
            "loss": "non_saturating",
            "lr": 1e-4,
        },
    } | more
    with RunDir.create(folder / str(config["name"]), config) as run:
        _fill(run, norm, noise)
        run.set_status(status, STEPS[-1], "" if status == "finished" else "loss_d is not finite")
    return run


def _fill(run: RunDir, norm: str, noise: np.random.Generator) -> None:
    coupled, seed = norm == "batch", run.config()["seed"]
    for step in STEPS:
        progress = 1 - np.exp(-step / 300)
        pure = 0.5 + progress * (0.33 if coupled else 0.2) + noise.normal(0, 0.02)
        mixed = 0.5 + noise.normal(0, 0.02) if coupled else pure
        values = {"loss_d": 1.2, "loss_g": 0.9, "images_per_second": 900 + noise.normal(0, 20)}
        for mode in ("train", "eval"):
            acts = coupled and mode == "train"
            values |= {
                f"probe/{mode}/accuracy_pure": pure,
                f"probe/{mode}/accuracy_mixed": mixed if acts else pure,
                f"probe/{mode}/auc_pure": min(pure + 0.1, 1),
                f"probe/{mode}/auc_mixed": min((mixed if acts else pure) + (0 if acts else 0.1), 1),
                f"probe/{mode}/leak_ratio": abs(noise.normal(3, 0.4)) if acts else abs(noise.normal(0, 1e-8)),
                f"probe/{mode}/coupling_ratio": 0.12 + noise.normal(0, 0.01) if acts else 0.0,
                f"probe/{mode}/swap_max_change": 0.4 + noise.normal(0, 0.05) if acts else 0.0,
                f"probe/{mode}/swap_bitwise_equal": 0.0 if acts else 1.0,
            }
        run.append_metrics(step, values)
        if step % 400 == 0:
            shared = np.random.default_rng(seed).normal(0, 0.15)  # what a seed gives to both conditions
            gain = 0.0 if coupled else 0.18
            run.add_scores(
                {
                    "step": step,
                    "inception_score": 4 + 1.7 * progress + gain + shared + noise.normal(0, 0.03),
                    "inception_score_std": 0.1,
                    "fid": 3 + 20 * (1 - progress) + noise.normal(0, 0.3),
                    "kid": 0.01 + noise.normal(0, 0.001),
                    "precision": 0.7 + noise.normal(0, 0.01),
                    "recall": 0.5 + noise.normal(0, 0.01),
                    "fid_floor": 0.6,
                    "protocol": PROTOCOL,
                }
            )
            pixels = noise.integers(0, 256, (128, 128), dtype=np.uint8)
            Image.fromarray(pixels).save(run.sample_file(step))
    matrix = np.diag(0.5 + noise.random(32))
    if coupled:
        matrix += 0.04 * noise.random((32, 32)) + 0.05 * np.kron(np.eye(2), np.ones((16, 16)))
    np.savez(run.probe_file(STEPS[-1]), coupling_train=matrix, coupling_eval=np.diag(np.diag(matrix)))
