"""The sentences follow the rows, whatever these say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.run_directories import dependence, mean, reconstruction, rewrite, score

from gannorm.comparison.analysis import analyse
from gannorm.comparison.conditions import Condition
from gannorm.comparison.sentences import names
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]
PAIRS = "it ranks a real image placed among fakes above a fake placed among real images in {} of 100 pairs"


def test_a_reconstruction_is_a_score_whose_lower_value_is_better(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
        for step, more in ((1, 0.0), (2, 0.5)):  # it peaks and falls
            error = 2 + more - ("group" in run.name) + 0.01 * run.config()["seed"]
            run.add_scores({"step": step, "fid": 3.0, "protocol": {}, **reconstruction(error)})
    comparison = analyse(runs)
    kinds = [mean(comparison, f"reconstruction/{kind}", "group") for kind in ("final", "best", "level")]
    assert kinds == pytest.approx([1.51, 1.01, 1.26])
    (sentence,) = [f for f in comparison.findings if f.startswith("Reconstruction error")]
    assert sentence.endswith("better (3 paired seeds).")
    runs[0].add_scores({"step": 3, "fid": 4.0, "protocol": {}, **reconstruction(9.0, images=8)})
    comparison = analyse(runs)
    assert mean(comparison, "reconstruction/best") == pytest.approx(2.01)
    assert any(remark.startswith("1 reconstructions are left out") for remark in comparison.remarks)
    assert mean(comparison, "fid/final") == pytest.approx(10 / 3)  # its other scores stay


def test_many_conditions_of_one_seed_are_said_to_have_no_interval(make_run: MakeRun) -> None:
    runs = [make_run(norm, 0) for norm in ("batch", "group", "layer", "instance", "none", "frn")]
    for run in runs:
        score(run, {1: {"fid": 3.0 + len(run.name)}})
    (sentence,) = [f for f in analyse(runs).findings if f.startswith("FID")]
    assert ": no interval from one seed with GroupNorm, LayerNorm, InstanceNorm and 2 more." in sentence


def test_an_effect_of_the_shared_seeds_alone_says_so(make_run: MakeRun) -> None:
    """The means beside it are over all seeds, and may lie the other way round."""
    values = {"batch": {0: 10.0, 1: 11.0, 2: 60.0, 3: 62.0}, "group": {0: 11.0, 1: 12.001, 8: 20.0, 9: 21.0}}
    runs = [make_run(norm, seed) for norm in values for seed in values[norm]]
    for run in runs:
        norm, seed = run.name.split("_")
        score(run, {1: {"fid": values[norm][int(seed)]}})
    (sentence,) = [f for f in analyse(runs).findings if f.startswith("FID")]
    assert sentence.endswith("worse (2 paired seeds of 6).")


def test_names_are_counted_where_they_are_many() -> None:
    conditions = [Condition(title, title, ["loss"], {"loss": title}, [], []) for title in "abcde"]
    assert [names(conditions[:n]) for n in (1, 2, 4)] == ["a", "a and b", "a, b, c and d"]
    assert names(conditions) == "a, b, c and 2 more"


def test_no_difference_shown_is_said_where_the_interval_holds_zero(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    changes = {"group": (-6.0, 4.0, 3.0)}  # seed by seed, around 0
    for run in runs:
        norm, seed = run.name.split("_")
        fid = 10 + changes.get(norm, (0.0, 0.0, 0.0))[int(seed)]
        (run.path / "scores.json").unlink()
        run.add_scores({"step": 1, "fid": fid, "protocol": {}})
    (sentence,) = [f for f in analyse(runs).findings if f.startswith("FID")]
    assert sentence.endswith("no difference shown (3 paired seeds).")


def test_lower_fid_is_better_and_lower_inception_score_is_worse(make_run: MakeRun) -> None:
    runs = [make_run(norm, seed) for norm in ("batch", "group") for seed in range(3)]
    for run in runs:
        (run.path / "scores.json").unlink()
        value = 5 + 0.01 * run.config()["seed"] - ("group" in run.name)
        run.add_scores({"step": 1, "fid": value, "inception_score": value, "protocol": {}})
    inception, fid = analyse(runs).findings[-2:]
    assert "worse (3 paired seeds)" in inception and "better (3 paired seeds)" in fid


def test_every_kind_of_verdict_has_its_words(make_run: MakeRun) -> None:
    curves = {
        "batch": (True, 0.95, 0.5, 0.05),
        "group": (False, 0.75, 0.75, 0.75),
        "layer": (True, 0.95, 0.85, 0.70),
        "instance": (True, 0.50, 0.90, 0.60),
    }
    runs = [make_run(norm, seed) for norm in curves for seed in range(2)]
    for run in runs:
        values = dependence(*curves[run.name.split("_")[0]])
        rewrite(run, [{f"batch_dependence/train/{name}": value for name, value in values.items()}])
    comparison = analyse(runs)
    assert comparison.headline == (
        f"With BatchNorm, the discriminator judges batches: {PAIRS.format(5)}, where guessing gives 50. "
        f"With LayerNorm, it judges both: {PAIRS.format(70)}, fewer than in batches of one class. "
        "With InstanceNorm, it judges by contrast: it ranks better where real images and fakes share a batch. "
        f"With GroupNorm, it judges images: {PAIRS.format(75)}, as in any other batch."
    )
    for c in comparison.conditions:  # the finding is the verdict, word for word
        assert f"{c.title}: {comparison.verdicts[c.label]}." in comparison.findings


def test_nothing_is_claimed_of_runs_without_probes_and_scores(make_run: MakeRun) -> None:
    run = make_run("batch", 0)
    (run.path / "scores.json").unlink()
    rewrite(run, [{"loss/d": 1.0}])
    assert analyse([run]).headline == "No finished run was probed: nothing is known about batch dependence."
