"""Planning: the grid, its names, and every mistake that must be told before anything starts."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gannorm.config import TrainConfig
from gannorm.config.dotted import flatten
from gannorm.errors import UserError
from gannorm.rundir import RunDir
from gannorm.studies.plan import Study, plan, require_possible

GANNORM = [sys.executable, "-m", "gannorm.cli"]
BASE = {
    "steps": 6,
    "data": {"name": "digits", "batch_size": 8},
    "model": {"lr_d": 1e-4, "lr_g": 4e-4, "discriminator": {"norm": "batch", "width": 8}},
}
GRID = {"model.discriminator.norm": ["batch", "group"], "seed": [0, 1]}
SHIPPED = sorted(Path("configs/studies").glob("*.yaml"))


def test_a_grid_is_every_combination_and_the_seed_changes_slowest(tmp_path: Path) -> None:
    study = planned(tmp_path, set={"data.batch_size": 4, "model": {"lr_d": 1}}, factors=GRID)
    assert [run.name for run in study.runs] == ["batch_0", "group_0", "batch_1", "group_1"]
    config = study.runs[1].config
    assert config == {
        "steps": 6,
        "data": {"name": "digits", "batch_size": 4},
        "model": {"lr_d": 1, "lr_g": 4e-4, "discriminator": {"norm": "group", "width": 8}},
        "seed": 0,
        "study": "s",
        "name": "group_0",
        "output": str(tmp_path / "runs"),
        "progress": False,
    }
    assert yaml.safe_load(study.runs[1].config_text()) == config
    assert study.runs[1].config_file == tmp_path / "runs/s/plan/group_0.yaml"


def test_a_labelled_value_sets_several_keys(tmp_path: Path) -> None:
    rates = {"slow": {"model.lr_d": 0.1, "model": {"lr_g": 0.2}}, "fast": {"model.lr_d": 1, "model.lr_g": 2}}
    study = planned(tmp_path, factors={"seed": [3, 4], "rate": rates})
    assert [run.name for run in study.runs] == ["slow_3", "fast_3", "slow_4", "fast_4"]
    assert [(r.config["model"]["lr_d"], r.config["model"]["lr_g"]) for r in study.runs[:2]] == [(0.1, 0.2), (1, 2)]


@pytest.mark.parametrize(
    ("factors", "names"),
    [
        ({"data.batch_size": [4, 16], "model.discriminator.norm": ["batch"]}, ["batch_size4", "batch_size16"]),
        ({"model.lr_d": [1e-4, 0.5], "seed": [0, 1]}, ["lr_d0.0001_0", "lr_d0.5_0", "lr_d0.0001_1", "lr_d0.5_1"]),
        ({"model.discriminator.norm": ["../up", "a b/c"]}, ["up", "a-b-c"]),
        ({"model.discriminator.norm_options": [{"groups": 4}, None]}, ["groups-4", "null"]),
        ({"model.discriminator.norm": ["batch"], "seed": [7]}, ["batch_7"]),
    ],
)
def test_names_hold_what_varies_and_are_safe(tmp_path: Path, factors: Any, names: list[str]) -> None:
    base = {**BASE, "model": {**BASE["model"], "discriminator": {"norm": "batch", "norm_options": {"groups": 2}}}}
    assert [run.name for run in planned(tmp_path, base=base, factors=factors).runs] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "missing.yaml"}, "a base config must be readable: .*missing.yaml: No such file"),
        ({"base": None}, "must name the config that it varies"),
        ({"factor": {}}, "unknown key in .*'factor': did you mean 'factors'"),
        ({"factors": {}}, "no `factors`, so the grid is empty"),
        ({"factors": {"seed": []}}, "`seed` has none in .*, so the grid is empty"),
        ({"factors": {"seed": 3}}, "must be a list of values, or label → settings: got seed: 3"),
        ({"factors": {"seed": [0, 1, 0]}}, "`seed` has the value 0 twice"),
        ({"factors": {"model.discriminator.norm": ["a b", "a-b"]}}, "have the same name"),
        ({"factors": {"rate": {"a": {"seed": 1}, "b": {"seed": 1}}}}, "have the same factors"),
        ({"factors": {"rate": {"a": {"seed": 1}}, "seed": [0]}}, "`rate` and `seed` both set `seed`"),
        ({"factors": {"seed": [0, -1]}}, "every `seed` must be an integer in 0 … 4294967295: got -1"),
        ({"factors": {"seed": ["zero"]}}, "every `seed` must be an integer in 0 … 4294967295: got 'zero'"),
        ({"factors": {"task": ["gan", "classifier"]}}, "must be of one task: got gan, classifier"),
        ({"set": {"task": "classifier"}, "evaluate": {"samples": 8}}, "classifiers have none: remove it"),
        ({"factors": {"probe_every": [1, 2]}}, "have the same factors and seed"),
        ({"factors": {"name": ["a", "b"]}}, "the study itself sets `name` of each run: remove it"),
        ({"factors": {"model.discriminator.norm": ["plan", "group"]}}, "gives 'plan'; give the values labels"),
        ({"factors": {"trainer": [{}]}}, "gives ''; give the values labels"),
        ({"baseline": "grup"}, "got 'grup'; did you mean 'group'"),
        ({"evaluate": {"statistic": "batch"}}, "unknown option of `evaluate` .*did you mean 'statistics'"),
        ({"evaluate": "yes please"}, "`evaluate` must be options"),
        ({"set": {"steps": None}}, "how long its runs are: `steps` is None"),
        ({"set": ["steps"]}, "`set` must be a mapping"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    study = {"base": "base.yaml", "factors": GRID} | change
    with pytest.raises(UserError, match=message):
        plan_file(tmp_path, yaml.safe_dump(study))
    assert not (tmp_path / "runs").exists()


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"well-formed YAML: .*s\.yaml"):
        plan_file(tmp_path, "factors: {seed: [0, 1}")


# One factor a mistake, so that one process finds them all.
CANNOT = {
    "unknown": ({"model.discriminator.nrom": "group"}, "unknown key 'model.discriminator.nrom': did you mean 'model.d"),
    "below": ({"log_every.x": 0}, "`log_every` must be int"),
    "above": ({"model": "group"}, "`model` must be a mapping of keys: got 'group'"),
    "misspelt": ({"model.discriminator.norm": "grup"}, "unknown normalizer 'grup': did you mean 'group'?"),
    "type": ({"data.batch_size": "many"}, "`data.batch_size` must be int: got many"),
    "range": ({"model.lr_d": -1}, "`model.lr_d` must be above 0: got -1"),
    "pair": ({"model.initialization": "fixup", "model.discriminator.weight_norm": "weight"}, "fixup"),
    "trainer": ({"trainer.acelerator": "cpu"}, "did you mean 'accelerator'"),
    "value": ({"trainer.precision": "nonsense"}, "Lightning's Trainer refuses its options"),
    "data": ({"data.name": "digit"}, "did you mean 'digits'"),
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What training says of each condition that cannot train, asked as a study asks."""
    folder = tmp_path_factory.mktemp("cannot")
    fine = {"fine": {"model.discriminator.norm": "group"}, "elsewhere": {"trainer.accelerator": "gpu"}}
    settings = {name: setting for name, (setting, _) in CANNOT.items()} | fine
    study = plan_file(folder, yaml.safe_dump({"base": "base.yaml", "factors": {"what": settings, "seed": [0, 1]}}))
    answers: list[str] = []
    original = subprocess.run

    def listened(*arguments: Any, **options: Any) -> Any:
        answer = original(*arguments, **options)
        answers.append(answer.stderr)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", listened)
        with pytest.raises(UserError, match=r"must be able to train: \w+_0.yaml: .* \(and 9 more conditions"):
            require_possible(study, GANNORM)
    (said,) = answers
    return {Path(line.split(": ")[0]).stem: line for line in said.splitlines()}


@pytest.mark.parametrize("name", CANNOT)
def test_a_condition_that_cannot_train_is_told_before_anything_starts(checked: dict[str, str], name: str) -> None:
    assert CANNOT[name][1] in checked[f"{name}_0"]


def test_the_conditions_that_can_are_not_named(checked: dict[str, str]) -> None:
    assert set(checked) == {f"{name}_0" for name in CANNOT}  # nor is what needs another machine


def test_a_network_too_large_hides_no_mistake_and_stops_no_study(tmp_path: Path) -> None:
    wide = {"model.discriminator.width": 10**12}
    content = {"factors": {"what": {"wide": wide, "bad": {"model.discriminator.norm": "grup"}}}}
    with pytest.raises(UserError, match=r"must be able to train: bad.yaml: unknown normalizer 'grup'.*\w\.$"):
        require_possible(planned(tmp_path, **content), GANNORM)
    require_possible(planned(tmp_path, set=wide, factors={"seed": [0]}), GANNORM)


def test_a_study_of_classifiers_asks_for_no_scores(tmp_path: Path) -> None:
    assert planned(tmp_path, factors={"seed": [0]}).evaluate == {}
    assert planned(tmp_path, set={"task": "classifier"}, factors={"seed": [0]}).evaluate is None


def test_a_condition_that_has_a_run_is_not_asked_about(tmp_path: Path) -> None:
    study = planned(tmp_path, factors={"model.discriminator.norm": ["batch"], "seed": [0, 1]})
    with RunDir.create(study.runs[1].directory.path, study.runs[1].config):
        require_possible(study, ["no such command"])
    with pytest.raises(FileNotFoundError):
        require_possible(planned(tmp_path, factors={"model.discriminator.norm": ["group"]}), ["no such command"])


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    study = plan_file(tmp_path, "base: base.yaml\nfactors: {model.lr_d: [1e-4, 2E+3, 0.5]}")
    assert [run.config["model"]["lr_d"] for run in study.runs] == [1e-4, 2e3, 0.5]


def test_a_run_directory_of_another_config_is_refused(tmp_path: Path) -> None:
    run = planned(tmp_path, factors=GRID).runs[0]
    resolved = {
        **run.config,
        "name": "elsewhere",
        "progress": True,
        "trainer": {},
        "model": {**run.config["model"], "loss": "hinge"},
    }
    with RunDir.create(run.directory.path, resolved):
        planned(tmp_path, factors=GRID)  # defaults that the run has filled in are no difference
    with pytest.raises(UserError, match=r"batch_0 must be a run of this study: its steps is 6, not 7"):
        planned(tmp_path, set={"steps": 7}, factors=GRID)


def test_five_hundred_runs_are_planned_without_torch_and_without_a_process(tmp_path: Path) -> None:
    study = {"base": "base.yaml", "factors": {"seed": list(range(125)), "data.batch_size": [2, 4, 8, 16]}}
    write(tmp_path, yaml.safe_dump(study))
    code = (
        "import sys; from pathlib import Path; from gannorm.studies.plan import plan\n"
        "from gannorm.studies.execute import describe\n"
        "study = plan(Path('s.yaml'), Path('runs'))\n"
        "assert '500 runs: 500 to do' in describe(study, None)\n"
        "print(len(study.runs), not {'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["500", "True"]


@pytest.mark.slow
def test_every_condition_of_the_shipped_studies_can_train(tmp_path: Path) -> None:
    studies = [plan(file, tmp_path) for file in SHIPPED]
    criteria = re.compile(r"falsif|contradict|support|judges \w+ if|show[sn]", re.IGNORECASE)
    for study in studies:  # each says what would answer its question, and none takes "not shown" for "shown not to be"
        assert criteria.search(study.question), study.question
        assert "holds zero" not in study.question
    everything = replace(studies[0], runs=[run for study in studies for run in study.runs if run.config["seed"] == 0])
    assert len(everything.runs) > 40
    require_possible(everything, GANNORM)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_an_arm_of_the_primary_analysis_is_one_condition(file: Path, tmp_path: Path) -> None:
    """Though what it sets may be what others set too: what it leaves to the base config belongs to it as well."""
    study = plan(file, tmp_path)
    for name, settings in study.primary.arms.items() if study.primary else ():
        fitting = set()
        for run in study.runs:
            config = flatten(TrainConfig.from_dict(run.config).to_dict())
            if all(config.get(key) == value for key, value in settings.items()):
                fitting.add(str({factor: label for factor, label in run.values.items() if factor != "seed"}))
        assert len(fitting) == 1 and name in fitting.pop(), name


def test_an_arm_that_leaves_a_key_to_the_base_has_the_value_of_the_base(tmp_path: Path) -> None:
    arms = {"plain": {"model.loss": "hinge"}, "fast": {"model.loss": "hinge", "model.lr_d": 1e-3}}
    primary = {"quantity": "fid", "scale": "log", "test": "welch", "comparisons": [["fast", "plain"]], "margin": 0.25}
    study = planned(tmp_path, factors={"arm": arms, "seed": [0, 1]}, primary=primary)
    assert study.primary is not None
    assert study.primary.arms["plain"] == {"model.loss": "hinge", "model.lr_d": BASE["model"]["lr_d"]}


def test_an_arm_that_is_crossed_with_a_factor_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    primary = {"quantity": "fid", "scale": "log", "test": "welch", "comparisons": [["group", "batch"]], "margin": 0.25}
    with pytest.raises(UserError, match="must be one condition: 'group' is 2 in"):
        planned(tmp_path, factors={**GRID, "model.loss": ["hinge", "wasserstein"]}, primary=primary)
    assert planned(tmp_path, factors=GRID, primary=primary).primary is not None


def test_a_study_of_modes_has_modes_as_conditions(tmp_path: Path) -> None:
    content = {"factors": {"seed": [0, 1]}, "evaluate": {"statistics": "all"}}
    study = planned(tmp_path, **content, baseline="weights=averaged, statistics=running")
    assert study.by_mode
    with pytest.raises(UserError, match="the baseline must be a condition of the study: got 'batch'"):
        planned(tmp_path, **content, baseline="batch")
    with pytest.raises(UserError, match="scores averaged and trained weights: got ema too"):
        planned(tmp_path, factors={"seed": [0]}, evaluate={"statistics": "all", "ema": False})


# -- building ---------------------------------------------------------------------------------------------------------


def planned(folder: Path, *, base: Any = BASE, **study: Any) -> Study:
    text = yaml.safe_dump({"base": "base.yaml", **study}, sort_keys=False)
    return plan_file(folder, text, base=base)


def plan_file(folder: Path, text: str, *, base: Any = BASE) -> Study:
    write(folder, text, base)
    return plan(folder / "s.yaml", folder / "runs")


def write(folder: Path, text: str, base: Any = BASE) -> None:
    (folder / "s.yaml").write_text(text)
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
