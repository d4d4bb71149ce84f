"""Plan a study: from a question and a grid of factors to one training config a run.

A study file:

    question: what is asked, and what would falsify it
    base: digits                             # a recipe, or a training config relative to the study file
    set: {steps: 400}                        # overrides for all runs, dotted or nested keys
    factors:
      model.discriminator.norm: [batch, group]     # a config key → its values
      rate:                                        # or any name → label → what it sets
        slow: {model.lr_d: 1e-4, model.lr_g: 4e-4}
        fast: {model.lr_d: 4e-4, model.lr_g: 1.6e-3}
      seed: [0, 1, 2]
    evaluate: {all_checkpoints: true}        # options of `gannorm evaluate`; false: no scores. With statistics: all,
                                             # the conditions are the sampling modes of G, run by run.
    baseline: batch                          # the condition that the others are compared with
    primary: {quantity: fid, …}              # the comparisons that answer it, see `gannorm.comparison.primary`

Every combination of the factors' values is a run, here batch_slow_0 and so on. Planning starts no run and imports no
network, so a grid of hundreds of runs is checked in a moment, before the first run starts.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gannorm.comparison.primary import Primary, read_primary
from gannorm.comparison.titles import STATISTICS, WEIGHTS
from gannorm.config import TrainConfig, upgraded
from gannorm.config import factors as identifying
from gannorm.config.dotted import Flat, changed, difference, flatten
from gannorm.config.labels import labels as labels_of
from gannorm.errors import UserError
from gannorm.files import dump_yaml, load, write_text, writing
from gannorm.recipes import FOLDER, locate
from gannorm.registry import choices
from gannorm.rundir import PLAN, RunDir
from gannorm.studies.evaluation_options import MODES, compares_modes, evaluate_options
from gannorm.studies.runner import USAGE_ERROR

STUDY_KEYS = ("question", "base", "set", "factors", "evaluate", "baseline", "primary")
OWN_KEYS = ("name", "study", "output", "progress")  # set by the study for each run

Factors = Mapping[str, Mapping[Any, Flat]]  # factor → label of a value → the config keys that it sets


@dataclass(frozen=True)
class PlannedRun:
    """One run of the grid.

    Attributes:
        directory: where it goes, <output>/<study>/<name>.
        values: factor → label of its value here.
        config: the training config; keys that neither base nor study name keep their defaults.
    """

    directory: RunDir
    values: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.directory.path.name

    @property
    def config_file(self) -> Path:
        """The saved config, from which `gannorm train --config` makes this run."""
        return self.directory.path.parent / PLAN / f"{self.name}.yaml"

    def config_text(self) -> str:
        return dump_yaml(self.config)

    def save_config(self) -> None:
        """Write `config_file`. An equal file is not touched, and keeps its time."""
        text, file = self.config_text(), self.config_file
        if not file.exists() or file.read_text("utf-8") != text:
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)


@dataclass(frozen=True)
class Study:
    """A planned study.

    Attributes:
        file: that states it.
        folder: <output>/<study>, of all its runs; the study's name is the stem of its file.
        question: what is asked, and what would falsify it.
        runs: the grid in the order of execution. The seed changes slowest: a faulty condition fails early, and
            a study that is stopped half-way has runs of all conditions.
        evaluate: options of `gannorm evaluate`; None for no scores.
        baseline: label of the condition to compare with; None for the first.
        primary: the analysis that answers the question; None where the file names none.
    """

    file: Path
    folder: Path
    question: str
    runs: Sequence[PlannedRun]
    evaluate: Mapping[str, Any] | None
    baseline: str | None
    primary: Primary | None = None

    @property
    def by_mode(self) -> bool:
        """Whether each run is compared with itself under every sampling mode, and not with the other runs."""
        return compares_modes(self.evaluate)


def plan(file: Path, output: Path) -> Study:
    """Read a study file and plan the grid of its runs. Makes every check that needs no training code.

    Args:
        file: the study file.
        output: folder of all studies.

    Raises:
        UserError: a file that is missing or malformed, an unknown key of a study, an empty grid, two factors that set
            one key, invalid seeds, two tasks, two runs that a comparison cannot distinguish, a baseline that is no
            condition, or a run directory made from another config.
    """
    content = load(file, "a study file")
    if {"model", "data", "steps"} & content.keys() and not {"base", "factors"} & content.keys():
        name = file.stem if file.parent == FOLDER else file
        raise UserError(f"a study varies a config: {name} is one config; run `gannorm train --config {name}`.")
    for key in content:
        if key not in STUDY_KEYS:
            raise UserError(f"unknown key in {file}: {key!r}: {choices(key, STUDY_KEYS)}")
    if not isinstance(content.get("base"), str):
        raise UserError(f"a study must name the config that it varies: `base` is {content.get('base')!r} in {file}.")
    base_file = locate(content["base"], file.parent)
    base = upgraded(load(base_file, "a base config"))
    overrides = flatten(upgraded(_mapping(content, "set", file)))
    factors = _factors(_mapping(content, "factors", file), file)

    common = changed(base, overrides)
    steps = common.get("steps")
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"a study must say how long its runs are: `steps` is {steps!r} in {base_file} and {file}.")
    runs = []
    for combination in itertools.product(*factors.values()):
        values = dict(zip(factors, combination, strict=True))
        settings = {key: value for factor, label in values.items() for key, value in factors[factor][label].items()}
        directory = RunDir(output / file.stem / _run_name(factors, values))
        own = {"study": file.stem, "name": directory.path.name, "output": str(output), "progress": False}
        runs.append(PlannedRun(directory, values, changed(common, settings | own)))

    keys = [*overrides, *(key for settings in factors.values() for setting in settings.values() for key in setting)]
    if taken := [key for key in keys if key in OWN_KEYS]:
        raise UserError(f"the study itself sets `{taken[0]}` of each run: remove it from `set` or `factors`.")
    for seed in (run.config.get("seed", 0) for run in runs):
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UserError(f"every `seed` must be an integer in 0 … 4294967295: got {seed!r} in {file}.")
    tasks = list(dict.fromkeys(str(run.config.get("task", "gan")) for run in runs))
    if len(tasks) > 1:
        raise UserError(f"the runs of a study are compared, and must be of one task: got {', '.join(tasks)} in {file}.")
    _require_distinct(runs)
    baseline, evaluate = content.get("baseline"), evaluate_options(content.get("evaluate"), file)
    if tasks == ["classifier"]:
        if content.get("evaluate"):
            raise UserError(f"`evaluate` scores generators, and classifiers have none: remove it from {file}.")
        evaluate = None
    if baseline is not None:
        _require_condition(baseline, runs, compares_modes(evaluate))
    _require_same_configs(runs)
    question = " ".join(str(content.get("question") or "").split())
    primary = read_primary(content["primary"], _arms(factors, runs), file) if "primary" in content else None
    for arm in primary.arms if primary is not None else ():
        _require_one_condition(arm, runs, file)
    return Study(file, output / file.stem, question, runs, evaluate, baseline, primary)


def require_possible(study: Study, command: Sequence[str]) -> None:
    """Check that training accepts every condition, by one `gannorm check`, which takes seconds.

    A condition with an existing run is skipped: it was checked before that run began.

    Args:
        study: the plan.
        command: how to start `gannorm`.

    Raises:
        UserError: some condition has an unknown key or an invalid value.
    """
    conditions: dict[str, list[PlannedRun]] = {}
    for run in study.runs:
        conditions.setdefault(_content(run, "name", "seed"), []).append(run)
    new = [runs[0] for runs in conditions.values() if not any(run.directory.config_file.exists() for run in runs)]
    if not new:
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{run.name}.yaml" for run in new]
        for file, run in zip(files, new, strict=True):
            file.write_text(run.config_text(), "utf-8")
        check = [*command, "check", *map(str, files)]
        answer = subprocess.run(check, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode == USAGE_ERROR:
        own = f"{folder}{os.sep}"
        lines = [line.removeprefix(own) for line in answer.stderr.splitlines() if line.startswith(own)]
        first, *others = lines or [answer.stderr.strip()]
        more = f" (and {len(others)} more conditions)" if others else ""
        raise UserError(f"every condition must be able to train: {first}{more}")
    # Other failures, such as a network that does not fit into memory, concern one run and do not stop the others.


# -- reading ----------------------------------------------------------------------------------------------------------


def _mapping(content: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"`{key}` must be a mapping of config keys: got {value!r} in {file}.")
    return value


def _factors(given: Mapping[str, Any], file: Path) -> Factors:
    """The factors, the seed first."""
    factors: dict[str, dict[Any, Flat]] = {}
    for factor, values in given.items():
        if isinstance(values, dict) and values and all(isinstance(v, dict) and v for v in values.values()):
            factors[factor] = {label: flatten(settings) for label, settings in values.items()}
        elif isinstance(values, list):
            labels = [_label(value) for value in values]
            if twice := [label for i, label in enumerate(labels) if label in labels[:i]]:
                raise UserError(f"runs must differ: `{factor}` has the value {twice[0]!r} twice in {file}; remove one.")
            factors[factor] = {n: flatten({factor: value}) for n, value in zip(labels, values, strict=True)}
        else:
            raise UserError(f"a factor must be a list of values, or label → settings: got {factor}: {values!r}.")
        if not factors[factor]:
            raise UserError(f"every factor must have a value: `{factor}` has none in {file}, so the grid is empty.")
    if not factors:
        raise UserError(f"a study must vary something: {file} has no `factors`, so the grid is empty.")
    owners: dict[str, str] = {}
    for factor, settings in factors.items():
        for key in (key for setting in settings.values() for key in setting):
            if owners.setdefault(key, factor) != factor:
                raise UserError(f"one factor sets a key: `{owners[key]}` and `{factor}` both set `{key}`; join them.")
    return dict(sorted(factors.items(), key=lambda item: item[0] != "seed"))


def _arms(factors: Factors, runs: Sequence[PlannedRun]) -> dict[str, Flat]:
    """Every label → its runs' values of all keys that its factor sets for any label: what distinguishes it."""
    arms: dict[str, Flat] = {}
    for factor, settings in factors.items():
        keys = {key for setting in settings.values() for key in setting}
        for label in settings if factor != "seed" else ():
            run = next(run for run in runs if run.values[factor] == label)
            whole = flatten(TrainConfig.from_dict(run.config).to_dict())
            arms[str(label)] = {key: whole.get(key) for key in sorted(keys)}
    return arms


def _require_one_condition(arm: str, runs: Sequence[PlannedRun], file: Path) -> None:
    """Before anything is trained: a comparison of an arm that is crossed with other factors could not say of which."""
    conditions = [{factor: label for factor, label in run.values.items() if factor != "seed"} for run in runs]
    of_arm = {str(condition) for condition in conditions if arm in map(str, condition.values())}
    if len(of_arm) > 1:
        raise UserError(
            f"an arm of `primary` must be one condition: {arm!r} is {len(of_arm)} in {file}; name each by one factor."
        )


def _label(value: Any) -> Any:
    """The label of a value: a plain value itself, the text of any other."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if plain else json.dumps(value, default=str)


def _run_name(factors: Factors, values: Mapping[str, Any]) -> str:
    """The values of the varying factors, the seed last, as a safe file name. Numbers carry their factor's name."""
    varying = [factor for factor in values if len(factors[factor]) > 1] or list(values)
    parts = []
    for factor in sorted(varying, key=lambda factor: factor == "seed"):
        bare = isinstance(values[factor], str) or factor == "seed"
        parts.append(str(values[factor]) if bare else f"{factor.rsplit('.', 1)[-1]}{values[factor]}")
    name = re.sub(r"[^\w.+-]+", "-", "_".join(parts), flags=re.ASCII).strip("-.")
    if name in ("", PLAN):
        raise UserError(f"a run must have a name: {dict(values)} gives {name!r}; give the values labels.")
    return name


# -- checks -----------------------------------------------------------------------------------------------------------


def _require_distinct(runs: Sequence[PlannedRun]) -> None:
    names: dict[str, PlannedRun] = {}
    configs: dict[str, PlannedRun] = {}
    for run in runs:
        for other, what in (
            (names.setdefault(run.name, run), "name"),
            (configs.setdefault(_identity(run), run), "factors and seed"),
        ):
            if other is not run:
                raise UserError(
                    f"runs must differ: {dict(other.values)} and {dict(run.values)} have the same {what}; remove one, "
                    "or give the values of a factor labels."
                )


def _identity(run: PlannedRun) -> str:
    """The identity of a run as text: its factors and its seed."""
    return repr([*sorted(identifying(run.config).items()), run.config.get("seed", 0)])


def _content(run: PlannedRun, *without: str) -> str:
    """A run's config as text, without some keys."""
    return repr({key: value for key, value in flatten(run.config).items() if key not in without})


def _require_condition(label: Any, runs: Sequence[PlannedRun], by_mode: bool) -> None:
    """`label` must be a condition of the comparison."""
    modes = [{STATISTICS: s, WEIGHTS: "averaged" if ema else "raw"} for s, ema in MODES] if by_mode else [{}]
    labels = list(dict.fromkeys(labels_of([flatten(run.config) | mode for run in runs for mode in modes])))
    # The order of the parts follows the config, and may differ in the base.
    if set(str(label).split(", ")) not in [set(known.split(", ")) for known in labels]:
        raise UserError(f"the baseline must be a condition of the study: got {label!r}; {choices(label, labels)}")


def _require_same_configs(runs: Sequence[PlannedRun]) -> None:
    """Existing run directories must have been made from the planned configs."""
    for run in runs:
        file = run.directory.config_file
        if file.exists() and (
            unlike := difference(run.config, upgraded(load(file, "a run's config")), ignore=OWN_KEYS)
        ):
            raise UserError(
                f"{run.directory.path} must be a run of this study: its {unlike}; choose another --output, rename the "
                "study file, or remove the directory."
            )
