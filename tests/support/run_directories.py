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


def dependence(coupled: bool, pure: float, mixed: float, conflict: float, batch_size: int = 64) -> dict[str, float]:
    """What one probe of a discriminator records, by today's keys without their prefix.

    A curve through the three named AUCs, with intervals of ±0.03 and the facts that go with `coupled`.
    """
    curve = {
        "pure": pure,
        "share_0.75": (pure + mixed) / 2,
        "mixed": mixed,
        "share_0.25": (mixed + conflict) / 2,
        "conflict": conflict,
    }
    values: dict[str, float] = {}
    for end, auc in curve.items():
        values |= {f"auc_{end}": auc, f"auc_{end}_low": max(auc - 0.03, 0.0), f"auc_{end}_high": min(auc + 0.03, 1.0)}
        if end != "pure":
            change = auc - pure
            values |= {f"auc_change_{end}": change}
            values |= {f"auc_change_{end}_low": change - 0.03, f"auc_change_{end}_high": change + 0.03}
    values |= {"auc_gap": pure - mixed, "auc_same_batch": mixed, "auc_pure_training": min(pure + 0.05, 1.0)}
    values |= {"auc_images": pure, "auc_images_low": pure - 0.03, "auc_images_high": pure + 0.03}
    values |= {"accuracy_pure": pure - 0.1, "accuracy_mixed": mixed - 0.1 if coupled else pure - 0.1}
    values |= {"accuracy_gap": values["accuracy_pure"] - values["accuracy_mixed"]}
    values |= {"decisions_follow_batch": 0.64} if coupled else {}
    values |= {"images": 256, "batch_size": batch_size, "units": 4, "hidden_layers": 0}
    values |= {"forward_coupled": float(coupled), "gradient_coupled": float(coupled)}
    values |= {"repeats": 1.0, "constant": 0.0, "saturated": 0.0}
    return values


def _fill(run: RunDir, norm: str, noise: np.random.Generator) -> None:
    coupled, seed = norm == "batch", run.config()["seed"]
    size = run.config()["data"].get("batch_size", 64)
    for step in STEPS:
        progress = 1 - np.exp(-step / 300)
        pure = 0.55 + progress * (0.35 if coupled else 0.22) + noise.normal(0, 0.01)
        values = {"loss/d": 1.2, "loss/g": 0.9, "images_per_second": 900 + noise.normal(0, 20)}
        for mode in ("train", "eval"):
            acts = coupled and mode == "train"
            mixed = 0.5 - 0.2 * progress + noise.normal(0, 0.01) if acts else pure
            conflict = max(0.5 - 0.45 * progress + noise.normal(0, 0.01), 0.0) if acts else pure
            probe = dependence(acts, pure, mixed, conflict, size)
            probe |= {
                "leak_own": 1 + noise.normal(0, 0.1),
                "leak_context": noise.normal(3, 0.4) if acts else noise.normal(0, 1e-8),
                "coupling_ratio": 0.12 + noise.normal(0, 0.01) if acts else 0.0,
                "gradient_change": 0.3 if acts else 0.0,
                "swap_max_change": 0.4 + noise.normal(0, 0.05) if acts else 0.0,
                "swap_bitwise_equal": 0.0 if acts else 1.0,
            }
            values |= {f"batch_dependence/{mode}/{name}": value for name, value in probe.items()}
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


# -- what tests change in a run ---------------------------------------------------------------------------------------


def rewrite(run: RunDir, metrics: Sequence[dict[str, float]]) -> None:
    """Replace a run's metrics by records at steps 1, 2, …"""
    (run.path / "metrics.jsonl").unlink()
    for step, values in enumerate(metrics, start=1):
        run.append_metrics(step, values)


def probe(pure: float, mixed: float, mode: str = "train", **more: float) -> dict[str, float]:
    """A record of accuracies in pure and mixed batches, and of whatever else is named."""
    values = {"accuracy_pure": pure, "accuracy_mixed": mixed} | more
    return {f"batch_dependence/{mode}/{name}": value for name, value in values.items()}


def score(run: RunDir, records: dict[int, dict[str, object]]) -> None:
    """Replace a run's scores by these: step → scores."""
    (run.path / "scores.json").unlink()
    for step, record in records.items():
        run.add_scores({"step": step, "protocol": {}, **record})


def reconstruction(error: float, images: int = 64) -> dict[str, object]:
    """The part of a score record that a reconstruction makes."""
    return {"reconstruction": {"error": error, "protocol": {"images": images}}}


def mean(comparison: Any, quantity: str, condition: str = "batch") -> float:
    """The mean of a row that must be there."""
    row = comparison.row(condition, quantity)
    assert row is not None, (condition, quantity)
    return row.estimate.mean
