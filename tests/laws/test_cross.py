"""scripts/cross.py: every discriminator on the same fakes, on tiny runs and against the probe's own answer."""

from __future__ import annotations

import csv
import dataclasses
import io
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from gannorm import TrainConfig, train
from gannorm.data import images_of_run
from gannorm.errors import UserError
from gannorm.models import load_networks
from gannorm.probes import composition_curve
from gannorm.rundir import find_runs
from gannorm.seeds import stream

SCRIPT: dict[str, Any] = runpy.run_path("scripts/cross.py")
TINY = {
    "steps": 3,
    "probe_every": 0,
    "sample_every": 0,
    "checkpoint_every": 3,
    "wandb": "off",
    "progress": False,
    "study": "s",
    "data": {"name": "digits", "image_size": 8, "batch_size": 8},
    "model": {"discriminator": {"width": 8}, "generator": {"width": 8, "latent_dim": 8}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    base = TrainConfig.from_dict({**TINY, "output": str(folder)})
    for norm, options in (("batch", {}), ("reference", {"gradient": False})):
        for seed in (0, 1):
            train(
                base.changed(
                    **{
                        "model.discriminator.norm": norm,
                        "model.discriminator.norm_options": options,
                        "seed": seed,
                        "name": f"{norm}_{seed}",
                    }
                )
            )
    return folder / "s"


@pytest.mark.slow
def test_every_discriminator_judges_every_bank(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert SCRIPT["main"]([str(runs), "--output", str(tmp_path), "--images", "64", "--batch_size", "8"]) == 0
    records = list(csv.DictReader(io.StringIO((tmp_path / "cross.csv").read_text())))
    assert [(r["run"], r["generator"]) for r in records] == [
        (f"{norm}_{seed}", bank)
        for norm in ("batch", "reference")
        for seed in (0, 1)
        for bank in ("batch", "reference", "all")
    ]
    for r in records:
        assert all(0 <= float(r[f"auc_{end}"]) <= 1 for end in ("pure", "mixed", "conflict", "eval"))
        if r["discriminator"] == "reference":  # no image of the batch enters: the curve is flat
            assert r["auc_pure"] == r["auc_mixed"] == r["auc_conflict"]
        else:
            assert len({r["auc_pure"], r["auc_mixed"], r["auc_conflict"]}) > 1
    table = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert len(table) == 6 and {line["runs"] for line in table} == {"2"}
    pure = [float(r["auc_pure"]) for r in records if (r["discriminator"], r["generator"]) == ("batch", "all")]
    line = next(line for line in table if (line["discriminator"], line["generator"]) == ("batch", "all"))
    assert float(line["auc_pure"]) == pytest.approx(sum(pure) / 2)
    assert float(line["auc_pure_low"]) <= float(line["auc_pure"]) <= float(line["auc_pure_high"])
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "table.md").read_text() and "| batch | reference | 2 | " in printed
    assert len(printed.splitlines()) == 2 + 6 and (tmp_path / "cross.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_it_continues_and_judges_anew_what_has_other_weights_or_fakes(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    judge = SCRIPT["judged"]
    monkeypatch.setitem(SCRIPT["cross"].__globals__, "judged", lambda *a: calls.append(1) or judge(*a))
    arguments = [str(runs), "--output", str(tmp_path), "--images", "32", "--batch_size", "8"]
    assert SCRIPT["main"](arguments) == 0 and len(calls) == 12
    file = tmp_path / "cross.csv"
    whole, table = file.read_text(), (tmp_path / "table.csv").read_text()
    assert SCRIPT["main"](arguments) == 0 and len(calls) == 12  # nothing is judged twice
    head, *lines = whole.splitlines(keepends=True)
    file.write_text("".join([head, *lines[:3], *lines[7:]]))  # as after an interruption
    assert SCRIPT["main"](arguments) == 0 and len(calls) == 12 + 4
    column = head.split(",").index("weights")
    cells = lines[0].split(",")
    cells[column] = "0123456789ab"  # of a run that was trained again
    file.write_text("".join([head, ",".join(cells), *lines[1:]]))
    assert SCRIPT["main"](arguments) == 0 and len(calls) == 12 + 4 + 1
    assert file.read_text() == whole and (tmp_path / "table.csv").read_text() == table
    assert SCRIPT["main"]([*arguments, "--seed", "1"]) == 0 and len(calls) == 12 + 4 + 1 + 12


def test_the_matrix_holds_the_means_discriminators_by_generators() -> None:
    means = SCRIPT["summary"](
        [
            {"discriminator": d, "generator": g, **dict.fromkeys(SCRIPT["AUCS"], value)}
            for d, g, value in (("a", "a", 0.2), ("a", "a", 0.4), ("a", "b", 0.9), ("b", "a", 1.0), ("b", "b", 1.0))
        ]
    )
    assert means["a", "a"]["auc_pure"].mean == pytest.approx(0.3) and means["b", "b"]["auc_eval"].low is None
    panel = SCRIPT["figure"](means).panels[0]
    panel.draw(axes := Figure().subplots())
    assert [text.get_text() for text in axes.texts] == ["0.30", "0.90", "1.00", "1.00"]
    (image,) = axes.images
    assert image.get_array().tolist() == [[pytest.approx(0.3), 0.9], [1, 1]] and image.get_clim() == (0, 1)


@pytest.mark.slow
def test_a_bank_is_the_same_for_every_judge_and_the_curve_is_the_probes(runs: Path) -> None:
    paths = find_runs([str(runs)])
    networks = [load_networks(run.path, ema=False) for run in paths]
    conditions = ["batch", "batch", "reference", "reference"]
    banks = SCRIPT["fake_banks"](networks, conditions, 48, 8, 0)
    assert {name: tuple(bank.shape) for name, bank in banks.items()} == dict.fromkeys(
        ("batch", "reference", "all"), (48, 1, 8, 8)
    )
    assert not torch.equal(banks["batch"], banks["reference"])
    alone = SCRIPT["fake_banks"](networks[:2], conditions[:2], 48, 8, 0)
    assert torch.equal(alone["batch"], banks["batch"])  # whatever else is compared
    (record,) = [r for r in SCRIPT["cross"](paths, 48, 8) if r["run"] == "batch_1" and r["generator"] == "reference"]
    held_out = images_of_run(dataclasses.asdict(networks[0].config.data), "test").take(48, 0)
    judge = networks[1].discriminator.train()
    curve = composition_curve(judge, held_out, banks["reference"], 8, generator=stream(0, "probe"))
    assert (record["auc_pure"], record["auc_conflict"]) == (curve.pure.mean, curve.conflict.mean)


def test_without_a_finished_run_it_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert SCRIPT["main"]([str(tmp_path / "nothing"), "--output", str(tmp_path)]) == 2
    assert "nothing" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="needs finished runs: got none"):
        SCRIPT["cross"]([])
