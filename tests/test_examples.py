"""The examples run as they stand, in seconds; README and the documentation show this code."""

import csv
import importlib.util
from pathlib import Path

import pytest

LIGHTNING = ("ignore:.*LeafSpec", "ignore:.*num_workers", "ignore:.*many workers", "ignore:.*smaller than")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(*LIGHTNING)]  # Lightning's remarks about itself
FOLDER = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_loop_of_ones_own_gets_a_flat_dictionary_of_numbers(capsys):
    metrics = example("own_loop").main()
    assert "step 200: " in capsys.readouterr().out
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert {f"batch_dependence/train/{name}" for name in ("auc_gap", "auc_conflict", "verdict")} <= set(metrics)


def test_a_lightning_gan_of_ones_own_is_watched(tmp_path):
    watch = example("own_lightning_gan").main(str(tmp_path))
    assert watch.last["train"].forward_coupling and not watch.last["eval"].forward_coupling
    with open(next(tmp_path.rglob("metrics.csv"))) as file:
        columns = set(csv.DictReader(file).fieldnames)
    assert {"loss_d", "batch_dependence/train/auc_gap", "batch_dependence/eval/auc_gap"} <= columns


def test_networks_of_ones_own_train_in_our_gan(tmp_path):
    verdicts = example("own_networks").main(str(tmp_path))
    assert set(verdicts) == {"batch", "group"}
    assert len(list(tmp_path.rglob("samples/step_*.png"))) == 6  # at 0, 50 and 100, of each
