"""Plan a study: from a question and a grid of factors to one complete training config a run.

A study file:

    question: what is asked, and what would falsify it
    base: ../digits.yaml                     # a training config; relative to the study file
    set: {steps: 400}                        # overrides for all runs, dotted or nested
    factors:
      model.discriminator.norm: [batch, group]     # a config key → its values
      rate:                                        # or any name → what each of its values sets
        slow: {model.lr_d: 1.0e-4, model.lr_g: 4.0e-4}
        fast: {model.lr_d: 4.0e-4, model.lr_g: 1.6e-3}
      seed: [0, 1, 2]
    evaluate: {all_checkpoints: true}        # options of `gannorm evaluate`; false: no scores
    baseline: batch                          # the condition that the others are compared with

Every combination of the factors' values is a run, `batch_slow_0` and so on. Planning reads two files, starts nothing
and imports no network, so that a grid of hundreds of runs is checked before the first of them costs anything.
"""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gannorm.errors import UserError
from gannorm.registry import choices
from gannorm.rundir import RunDir
from gannorm.studies.conditions import Run, group

Flat = dict[str, Any]  # dotted key → value

STUDY_KEYS = ("question", "base", "set", "factors", "evaluate", "baseline")
OWN_KEYS = ("name", "study", "output")  # what the plan itself gives each run
PLAN = "plan"  # the folder beside the runs for saved configs, logs and attempts that were set aside

# Options of `gannorm evaluate` that a study may give → where a score's protocol records them.
EVALUATE_OPTIONS = {
    "all_checkpoints": None,
    "ema": "ema",
    "statistics": "statistics",
    "extractor": "extractor",
    "weights": None,
    "split": "split",
    "samples": "fake_images",
    "splits": "inception_splits",
    "seed": "seed",
}


@dataclass(frozen=True)
class PlannedRun:
    """One run of the grid.

    Attributes:
        directory: where it goes, <output>/<study>/<name>.
        values: factor → its value here, as the study file labels it.
        config: the training config, without the defaults of keys that neither base nor study name.
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

    def images(self) -> int:
        """How many real images the run trains on."""
        config = flatten(self.config)
        return config["steps"] * config.get("data.batch_size", 64) * config.get("model.d_steps", 1)

    def config_text(self) -> str:
        return yaml.dump(dict(self.config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Study:
    """A planned study.

    Attributes:
        name: stem of the study file.
        folder: <output>/<study>, of all its runs.
        question: what is asked, and what would falsify it.
        runs: the grid, the last factor fastest.
        evaluate: options of `gannorm evaluate`; None for no scores.
        baseline: label of the condition to compare with; None for the first.
    """

    name: str
    folder: Path
    question: str
    runs: Sequence[PlannedRun]
    evaluate: Mapping[str, Any] | None
    baseline: str | None


def plan(file: Path, output: Path, command: Sequence[str]) -> Study:
    """Read a study file and make the grid of its runs; everything that can be checked without training is.

    Args:
        file: the study file.
        output: folder of all studies.
        command: how to start `gannorm`: asked for its config keys when the study uses one that its base does not name.

    Raises:
        UserError: a file that is missing or malformed, an unknown key, an empty grid, two factors that set one key, two
            runs that are the same, a baseline that no run belongs to, or a run directory made from another config.
    """
    content = _load(file, "a study file")
    _require_known(content, STUDY_KEYS, f"key in {file}")
    base_file = file.parent / _text(content, "base", file)
    base = _load(base_file, "a base config")
    overrides = flatten(_mapping(content, "set", file))
    factors = _factors(_mapping(content, "factors", file), file)
    keys = dict.fromkeys([*overrides, *(k for settings in factors.values() for s in settings.values() for k in s)])
    _check_keys(list(keys), base, base_file, command)

    common = _changed(base, overrides)
    if not isinstance(common.get("steps"), int):
        raise UserError(f"a study must know how long its runs are: `steps` is {common.get('steps')!r} in {base_file}.")
    folder = output / file.stem
    runs = []
    for labels in itertools.product(*factors.values()):
        settings = [factors[factor][label] for factor, label in zip(factors, labels, strict=True)]
        name = _run_name(factors, labels)
        own = {"name": name, "study": file.stem, "output": str(output)}
        config = _changed(common, {key: value for setting in settings for key, value in setting.items()} | own)
        values = dict(zip(factors, labels, strict=True))
        runs.append(PlannedRun(RunDir(folder / name), values, config))
    _require_distinct(runs)
    study = Study(
        name=file.stem,
        folder=folder,
        question=" ".join(str(content.get("question", "")).split()),
        runs=runs,
        evaluate=_evaluate_options(content.get("evaluate", {}), file),
        baseline=content.get("baseline"),
    )
    _check_baseline(study)
    for run in runs:
        _require_same_config(run)
    return study


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested mappings as dotted keys; an empty mapping is a value.

    >>> flatten({"model": {"lr_d": 0.1, "discriminator.norm": "group"}, "trainer": {}})
    {'model.lr_d': 0.1, 'model.discriminator.norm': 'group', 'trainer': {}}
    """
    flat: Flat = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


# -- reading ----------------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which 1e-4 is a number, as it is in the training command (YAML 1.1 wants 1.0e-4)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _load(file: Path, what: str) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(), _Loader)
    except OSError as error:
        raise UserError(f"{what} must be readable: {file}: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{what} must be well-formed YAML: {file}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{what} must be a mapping of keys: {file} is not.")
    return content


def _mapping(content: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"`{key}` must be a mapping of config keys: got {value!r} in {file}.")
    return value


def _text(content: Mapping[str, Any], key: str, file: Path) -> str:
    if not isinstance(content.get(key), str):
        raise UserError(f"a study file must have `{key}`: got {content.get(key)!r} in {file}.")
    return content[key]


def _factors(given: Mapping[str, Any], file: Path) -> dict[str, dict[Any, Flat]]:
    """Factor → label → the config keys that it sets; the seed last, so that the runs of a condition stand together."""
    factors: dict[str, dict[Any, Flat]] = {}
    for factor, values in given.items():
        labelled = isinstance(values, dict) and all(isinstance(v, dict) and v for v in values.values())
        if not labelled and not isinstance(values, list):
            raise UserError(f"a factor must be a list of values or label → settings: got {factor}: {values!r}.")
        if not values:
            raise UserError(f"every factor must have a value: `{factor}` in {file} has none, so the grid is empty.")
        if labelled:
            factors[factor] = {label: flatten(settings) for label, settings in values.items()}
        else:
            labels = [_label(value) for value in values]
            twice = [label for i, label in enumerate(labels) if label in labels[:i]]
            if twice:
                raise UserError(f"runs must differ: factor `{factor}` has the value {twice[0]!r} twice; remove one.")
            factors[factor] = {label: flatten({factor: value}) for label, value in zip(labels, values, strict=True)}
    if not factors:
        raise UserError(f"a study must vary something: {file} has no `factors`, so the grid is empty.")
    owners: dict[str, str] = {}
    for factor, settings in factors.items():
        for key in {key for setting in settings.values() for key in setting}:
            other = owners.setdefault(key, factor)
            if other != factor:
                raise UserError(f"one factor sets a key: `{key}` is set by `{other}` and by `{factor}`; join them.")
    return dict(sorted(factors.items(), key=lambda item: item[0] == "seed"))


def _label(value: Any) -> Any:
    """A value as a label: itself where it is plain, otherwise its text."""
    return value if isinstance(value, str | int | float) else yaml.safe_dump(value, default_flow_style=True).strip()


def _evaluate_options(given: Any, file: Path) -> Mapping[str, Any] | None:
    if given is False:
        return None
    if given is True or given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"`evaluate` must be options of `gannorm evaluate`, or false: got {given!r} in {file}.")
    _require_known(given, EVALUATE_OPTIONS, f"`evaluate` option in {file}")
    return given


# -- configs and names ------------------------------------------------------------------------------------------------


def _changed(config: Mapping[str, Any], settings: Flat) -> dict[str, Any]:
    """A copy of a nested config with some dotted keys set."""
    changed = copy.deepcopy(dict(config))
    for key, value in settings.items():
        *path, last = key.split(".")
        inner = changed
        for part in path:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = copy.deepcopy(value)
    return changed


def _run_name(factors: Mapping[str, Mapping[Any, Flat]], labels: Sequence[Any]) -> str:
    """The values of the factors that vary, safe as a file name; a number says what it is, the seed excepted."""
    varying = [(f, v) for f, v in zip(factors, labels, strict=True) if len(factors[f]) > 1]
    parts = []
    for factor, value in varying or list(zip(factors, labels, strict=True)):
        bare = isinstance(value, str) or factor == "seed"
        parts.append(str(value) if bare else f"{factor.rsplit('.', 1)[-1]}{value}")
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts), flags=re.ASCII).strip("-.")


# -- checks -----------------------------------------------------------------------------------------------------------


def _require_known(given: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str], what: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"unknown {what}: {key!r}: {choices(key, known)}")


def _check_keys(keys: Sequence[str], base: Mapping[str, Any], base_file: Path, command: Sequence[str]) -> None:
    for key in keys:
        if key.split(".")[0] in OWN_KEYS:
            raise UserError(f"a study gives each run its name and place: remove `{key}` from the study file.")
    known = [*flatten(base), "seed"]
    if any(not _names(key, known) for key in keys):  # seconds instead of milliseconds: only then
        known = list(flatten(_resolved(base_file, command)))
    for key in keys:
        if not _names(key, known):
            raise UserError(f"a factor or override must name a config key: unknown key {key!r}: {choices(key, known)}")


def _names(key: str, known: Sequence[str]) -> bool:
    """Whether `key` is a config key, or lies inside one that takes any options."""
    return _without_options(key) in {_without_options(k) for k in known}


def _without_options(key: str) -> str:
    """The key up to the part that takes any options: their names are not the config's.

    >>> _without_options("model.discriminator.norm_options.groups")
    'model.discriminator.norm_options'
    """
    return re.sub(r"^(trainer|.*\.norm_options)\..*", r"\1", key)


def _resolved(base_file: Path, command: Sequence[str]) -> dict[str, Any]:
    """The base with every default filled in, by the training command itself: it alone knows all keys."""
    asked = [*command, "train", "--config", str(base_file), "--print_config"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode:
        line = (answer.stderr.strip() or "no output").splitlines()[-1]
        raise UserError(f"the base must be a training config: {base_file}: {line}")
    return yaml.load(answer.stdout, _Loader)


def _require_distinct(runs: Sequence[PlannedRun]) -> None:
    names: dict[str, PlannedRun] = {}
    configs: dict[str, PlannedRun] = {}
    for run in runs:
        if run.name in ("", PLAN):
            raise UserError(
                f"a run must have a name of its own: {dict(run.values)} gives {run.name!r}; label the values."
            )
        same = repr(sorted((k, repr(v)) for k, v in flatten(run.config).items() if k != "name"))
        for seen, what in ((names.setdefault(run.name, run), "name"), (configs.setdefault(same, run), "config")):
            if seen is not run:
                raise UserError(
                    f"runs must differ: {dict(seen.values)} and {dict(run.values)} have the same {what}; give the "
                    "values of a factor labels, or remove one."
                )


def _check_baseline(study: Study) -> None:
    if study.baseline is None:
        return
    planned = [
        Run(run.directory, run.name, flatten(run.config), seed, "finished", 0, [], [])
        for seed, run in enumerate(study.runs)
    ]
    labels = [condition.label for condition in group(planned)[0]]
    # The parts of a label may stand in another order once the runs' configs are resolved.
    if set(str(study.baseline).split(", ")) not in [set(label.split(", ")) for label in labels]:
        raise UserError(
            f"the baseline must be a condition of the study: got {study.baseline!r}; {choices(study.baseline, labels)}"
        )


def _require_same_config(run: PlannedRun) -> None:
    """An existing directory of this name must have been made from this config."""
    if not run.directory.config_file.exists():
        return
    there = flatten(_load(run.directory.config_file, "a run's config"))
    for key, value in flatten(run.config).items():
        if key not in OWN_KEYS and not _equal(there.get(key), value):
            raise UserError(
                f"{run.directory.path} must be a run of this study: its {key} is {there.get(key)!r}, the study's is "
                f"{value!r}; choose another --output, rename the study file, or remove the directory."
            )


def _equal(a: Any, b: Any) -> bool:
    return a == b or str(a) == str(b)  # the training command reads "0.1" as 0.1 where it wants a number
