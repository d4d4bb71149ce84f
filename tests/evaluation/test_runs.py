"""The evaluate and extractor commands on a run that the train command wrote, and what one bad checkpoint costs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from gannorm.cli import main
from gannorm.data import load_images
from gannorm.evaluation import Evaluator, extractors, score_runs
from gannorm.evaluation.reconstruction import reconstruction_score
from gannorm.evaluation.runs import _Data
from gannorm.models import load_networks
from gannorm.rundir import RunDir

TINY = ["--data.image_size=8", "--data.batch_size=16", "--steps=4", "--checkpoint_every=2", "--wandb=off"]
TINY += ["--model.discriminator.width=8", "--model.generator.width=8", "--progress=false"]
TINY += ["--probe_every=0", "--sample_every=0", "--log_every=4"]
FEW = ["--splits=2", "--kid_subsets=3", "--device=cpu", "--samples=100"]
OPTIONS = {"samples": 100, "splits": 2, "kid_subsets": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *TINY, "--name=run", f"--output={folder}", "--study=s"]) == 0
    return folder / "s" / "run"


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run, in the current folder's `run`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    return RunDir("run")


def edit(file, change):
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)


def spoil(content):
    for name, tensor in content["state_dict"].items():
        if name.endswith("weight"):
            tensor.fill_(torch.nan)


def test_every_checkpoint_is_scored_into_scores_json_and_printed_as_a_curve(run, capsys):
    assert main(["evaluate", "run", "--all_checkpoints=true", *FEW]) == 0
    out = capsys.readouterr().out
    records = run.scores()
    assert [r["step"] for r in records] == list(run.checkpoints()) == [2, 4]
    for record in records:
        assert f"step {record['step']}: IS {record['inception_score']:.3f}" in out
        assert f"FID {record['fid']:.3f} (floor {record['fid_floor']:.3f})" in out
        assert (record["protocol"]["fake_images"], record["protocol"]["ema"]) == (100, True)
    best = min(records, key=lambda r: r["fid"])
    assert f"best {best['fid']:.4g} at step {best['step']}, last {records[-1]['fid']:.4g} at step 4, mean level" in out


def test_what_is_scored_under_the_protocol_is_not_scored_again_unless_asked_to(run, capsys, monkeypatch):
    scored, score = [], Evaluator.score
    monkeypatch.setattr(Evaluator, "score", lambda *a, **k: scored.append(1) or score(*a, **k))
    assert main(["evaluate", "run", *FEW]) == 0
    assert main(["evaluate", "run", "--all_checkpoints=true", *FEW]) == 0
    assert len(scored) == 2 and "step 4, scored before: IS" in capsys.readouterr().out
    assert main(["evaluate", "run", "--seed=1", *FEW]) == 0  # another protocol
    assert main(["evaluate", "run", "--again=true", *FEW]) == 0
    assert len(scored) == 4 and len(run.scores()) == 3


def test_one_bad_checkpoint_costs_that_checkpoint(run, capsys):
    spoiled, whole = run.checkpoints().values()
    edit(spoiled, spoil)
    run.checkpoint_file(6).write_bytes(whole.read_bytes()[:1000])
    assert main(["evaluate", "run", "--all_checkpoints=true", *FEW]) == 1
    out, err = capsys.readouterr()
    bad, good = run.scores()
    assert bad.keys() == {"step", "diverged", "protocol"} and (bad["step"], bad["diverged"]) == (2, True)
    assert bad["protocol"] == good["protocol"] and good["fid"] > 0
    assert "run step 2: non-finite: a generator's images must be finite" in err
    assert "step_00000006.ckpt is not scored: a checkpoint must be whole" in err
    assert "non-finite images at step 2" in out
    run.checkpoint_file(6).unlink()
    assert main(["evaluate", "run", "--all_checkpoints=true", *FEW]) == 1
    assert "step 2: non-finite images, as recorded before" in capsys.readouterr().err


def test_one_damaged_run_costs_that_run_and_one_line_names_its_file(run, capsys):
    for name, file in (("cut", "checkpoints/last.ckpt"), ("config", "config.yaml"), ("scores", "scores.json")):
        shutil.copytree("run", name)
        for damaged in Path(name).glob("checkpoints/*" if name == "cut" else file):
            damaged.write_bytes(damaged.read_bytes()[:1000])
        if name != "cut":
            Path(name, file).write_text("{cut: [")
    assert main(["evaluate", "config", "cut", "run", "scores", *FEW]) == 1
    (record,) = run.scores()
    assert record["fid"] > 0
    err = capsys.readouterr().err.splitlines()
    for name, file in (("config", "config/config.yaml"), ("scores", "scores/scores.json"), ("cut", "cut/checkpoints/")):
        assert len([line for line in err if file in line and "is not scored" in line]) == 1, (name, err)


@pytest.mark.filterwarnings("default")  # as a user has them
def test_a_damaged_newest_checkpoint_leaves_the_one_before_to_be_scored(run, capsys):
    newest = max(run.checkpoints())
    run.checkpoint_file(newest).write_bytes(b"cut")
    assert main(["evaluate", "run", *FEW]) == 0
    assert f"step_{newest:08d}.ckpt is damaged" in capsys.readouterr().err
    (record,) = run.scores()
    assert record["step"] == max(step for step in run.checkpoints() if step < newest)


def test_all_statistics_are_a_table_of_one_checkpoint(run, capsys):
    assert main(["evaluate", "run", "--statistics=all", *FEW]) == 0
    records = run.scores()
    modes = [(r["protocol"]["statistics"], r["protocol"]["ema"]) for r in records]
    assert modes == [(s, e) for e in (True, False) for s in ("running", "batch", "standing")]
    assert len({r["fid"] for r in records}) == 6
    head, *rows, real = capsys.readouterr().out.splitlines()[-8:]
    assert head.split() == ["step", "statistics", "weights", "IS", "FID", "KID", "precision", "recall"]
    for row, record, (statistics, ema) in zip(rows, records, modes, strict=True):
        assert row.split()[:3] == ["4", statistics, "averaged" if ema else "raw"]
        assert float(row.split()[4]) == pytest.approx(record["fid"], abs=5e-4)
    assert float(real.split()[2]) == pytest.approx(records[0]["fid_floor"], abs=5e-4)


def test_reconstruction_is_kept_with_its_own_protocol_also_beside_older_scores(run, capsys):
    assert main(["evaluate", "run", *FEW]) == 0
    (before,) = run.scores()
    assert "reconstruction" not in before
    assert main(["evaluate", "run", "--reconstruction=3", *FEW]) == 0
    (after,) = run.scores()
    found = after.pop("reconstruction")
    assert after == before
    assert 0 < found["error"] < found["error_at_start"]
    assert found["protocol"]["images"] == 3 and found["protocol"]["split"] == "test"
    assert f"reconstruction {found['error']:.4f}" in capsys.readouterr().out
    assert main(["evaluate", "run", "--reconstruction=4", *FEW]) == 0  # of another number of images: sought anew
    (again,) = run.scores()
    assert again.pop("reconstruction")["protocol"] == found["protocol"] | {"images": 4}
    assert again == before
    capsys.readouterr()
    assert main(["evaluate", "run", "--reconstruction=4", *FEW]) == 0
    assert "scored before" in capsys.readouterr().out


def test_a_reconstruction_is_that_of_its_protocol_once_for_each_kind_of_weights(run):
    assert main(["evaluate", "run", "--statistics=all", "--reconstruction=2", "--seed=1", *FEW]) == 0
    averaged, raw = (r for r in run.scores() if "reconstruction" in r)
    modes = [(r["protocol"]["statistics"], r["protocol"]["ema"]) for r in (averaged, raw)]
    assert modes == [("running", True), ("running", False)]
    held_out = load_images("digits", "test", image_size=8)
    expected = reconstruction_score(load_networks("run").generator, held_out, images=2, seed=1, quiet=True)
    assert averaged["reconstruction"]["error"] == expected.error != raw["reconstruction"]["error"]
    assert averaged["reconstruction"]["protocol"]["fingerprint"] == held_out.fingerprint


def test_an_extractor_learns_from_the_training_split_also_where_the_other_is_scored_against(run, monkeypatch):
    seen, build = [], extractors.build_extractor

    def noted(name, data, **options):
        seen.append(data.split)
        return build(name, data, **options)

    monkeypatch.setattr("gannorm.evaluation.runs.build_extractor", noted)
    assert main(["evaluate", "run", "--split=test", *FEW]) == 0
    assert seen == ["train"] and run.scores()[0]["protocol"]["split"] == "test"


def test_each_folder_is_read_with_its_own_root_and_options(tmp_path, monkeypatch):
    """Runs of two folders must not be scored against the images of the first."""
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "cache"))
    data, sources = _Data("train", 0), []
    for level, name in enumerate(("cats", "dogs")):
        for split in ("train", "test"):
            (tmp_path / name / split).mkdir(parents=True)
            Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / name / split / "1.png")
        (tmp_path / name / "train" / "bad.png").touch()
        sources.append({"name": "folder", "root": str(tmp_path / name), "image_size": 8, "skip_bad": True})
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        found = [data.of(source)[1] for source in sources]
    assert [images.pixels[:, 0, 0, 0].tolist() for images in found] == [[0], [1]]


def test_contradictions_and_mistakes_are_known_before_anything_is_built(run, capsys, monkeypatch):
    patch = "gannorm.evaluation.runs.build_extractor"
    monkeypatch.setattr(patch, lambda *a, **k: pytest.fail("the long part has begun"))
    for options, line in (
        (["--step=2", "--all_checkpoints=true"], "--step and --all_checkpoints exclude each other"),
        (["--statistics=all", "--ema=false"], "--statistics all scores averaged and trained weights"),
        (["--step=3"], "has no checkpoint of step 3: it has 2, 4"),
        (["--reconstruction=9999"], "--reconstruction must lie between 2 and the 359 held-out images"),
        (["--batch_size=0"], "batch_size, splits and kid_subsets must be at least 1: got 0"),
        (["--samples=7"], "need at least 8 images: got 7 samples"),
    ):
        assert main(["evaluate", "run", *FEW, *options]) == 2
        assert line in capsys.readouterr().err
    for file in run.checkpoints().values():
        file.write_bytes(b"cut")
    assert main(["evaluate", "run", "--all_checkpoints=true", *FEW]) == 1
    assert capsys.readouterr().err.count("is not scored") == 2


@pytest.mark.slow
def test_an_extractor_is_trained_into_a_folder_that_evaluate_takes(run, capsys):
    assert main(["extractor", "train", "--data.name=digits", "--data.image_size=8", "--output=judge", "--seed=3"]) == 0
    card = json.loads((run.path.parent / "judge" / "card.json").read_text())
    assert f"judge: accuracy {card['held_out_accuracy']:.4f} on 144 held-out images" in capsys.readouterr().out
    assert main(["evaluate", "run", "--extractor_weights=judge", *FEW]) == 0
    (record,) = run.scores()
    assert record["protocol"]["extractor_weights_sha256"] == card["weights_sha256"]
    assert main(["extractor", "tran"]) == 2
    assert main(["evaluate", "run", "--extractor_weights=judge", f"--sha256={'0' * 64}", *FEW]) == 2
    assert f"must be {'0' * 64}: it is" in capsys.readouterr().err


def test_runs_of_one_dataset_share_an_extractor_and_a_reference(run, monkeypatch):
    shutil.copytree("run", "other")
    built, build = [], extractors.build_extractor
    monkeypatch.setattr("gannorm.evaluation.runs.build_extractor", lambda *a, **k: built.append(1) or build(*a, **k))
    found = list(score_runs([run, RunDir("other")], all_checkpoints=True, **OPTIONS))
    assert len(built) == 1 and [f.record["fid"] for f in found[:2]] == [f.record["fid"] for f in found[2:]]
