"""The typed configuration of a run: what can be set, within which range, and what each key is for.

    TrainConfig.load("digits", **{"model.discriminator.norm": "group", "seed": 1})

The command line, YAML files and Python are three ways to make a `TrainConfig`. Every key is declared once, below, with
its type, its range, its help and its role:

    factor       changes the run: two runs that differ in it are two conditions
    measurement  changes what is measured of a run, or when
    display      names, places or shows a run, and changes none of its numbers

Imports neither torch nor lightning: a wrong key is answered at once, and studies plan hundreds of configs. Imports the
standard library alone: scripts check their arguments before anything is installed.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from gannorm.config.dotted import Flat, changed, flatten
from gannorm.config.schema import (
    COUNT,
    DISPLAY,
    FACTOR,
    FROM_ONE,
    POSITIVE,
    Key,
    Range,
    declared,
    display,
    factor,
    measurement,
    unknown_key,
)
from gannorm.errors import UserError
from gannorm.recipes import locate

Activation = Literal["leaky_relu", "relu", "sigmoid", "tanh"]

NORMS = ("model.discriminator.norm", "model.classifier.norm")  # the first factor of each task

RENAMED = {  # keys of earlier versions → their names now
    "why_every": "optimization_every",
    "why_budget": "optimization_budget",
    "why_layers": "optimization_layers",
}
DROPPED: tuple[str, ...] = ()  # keys of earlier versions that mean nothing now
DISPLAYED_TRAINER = {f"trainer.{k}" for k in ("max_time", "log_every_n_steps", "enable_model_summary", "profiler")}


# -- the keys ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    name: str = factor("digits", "data set", names="datasets")
    root: str = display("data", "folder of the data set's files; for `folder`, the tree of images")
    image_size: int = factor(32, "pixels a side, after cropping to a square: 8, 16, 32, 64 or 128")
    batch_size: int = factor(64, "images a batch, on each device")
    download: bool = display(False, "download a torchvision data set that is not in root")
    skip_bad: bool = factor(False, "leave out damaged or too small images, and name them, instead of stopping")
    enlarge: bool = factor(False, "enlarge images that are smaller than image_size, instead of refusing them")
    background: str = factor("black", "colour under transparent pixels of image files: a name or #rrggbb")
    follow_links: bool = factor(False, "follow symbolic links that lead out of a folder")


@dataclass(frozen=True)
class NetworkConfig:
    """What discriminator and classifier have in common."""

    norm: str = factor("batch", "activation normalizer", names="normalizers")
    norm_options: dict[str, Any] = factor(dict, "options of the normalizer, such as {groups: 4}")
    weight_norm: str = factor("none", "weight normalizer of every layer", names="weight_normalizers")
    width: int = factor(32, "channels of the first stage", FROM_ONE)
    minibatch: str = factor("none", "deliberate coupling by a minibatch layer", names="minibatch")
    norm_layers: Literal["all", "all_but_first", "last"] = factor("all", "which convolutions the normalizer follows")
    activation: Activation = factor("leaky_relu", "nonlinearity; leaky_relu has a slope of 0.2")


@dataclass(frozen=True)
class DiscriminatorConfig(NetworkConfig):
    """The discriminator."""

    architecture: str = factor("vgg", "network, or one of your own", names="discriminators")


@dataclass(frozen=True)
class ClassifierNetworkConfig(NetworkConfig):
    """The classifier's network: a discriminator with a logit a class."""

    depth: int = factor(0, "layers with weights; 0 for the discriminator's layout", COUNT)
    dropout: float = factor(0.0, "share of the features dropped before the last layer", Range(0, 1, "[)"))


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator."""

    norm: str = factor("batch", "activation normalizer", names="normalizers")
    norm_options: dict[str, Any] = factor(dict, "options of the normalizer, such as {groups: 4}")
    weight_norm: str = factor("none", "weight normalizer of every layer", names="weight_normalizers")
    width: int = factor(32, "channels of the last stage", FROM_ONE)
    latent_dim: int = factor(64, "numbers in a latent", FROM_ONE)
    activation: Activation = factor("relu", "nonlinearity; leaky_relu has a slope of 0.2")
    architecture: str = factor("vgg", "network, or one of your own", names="generators")


@dataclass(frozen=True)
class GANModel:
    """The GAN: losses, learning rates, and how batches are composed."""

    loss: str = factor("non_saturating", "adversarial loss", names="losses")
    lr_d: float = factor(2e-4, "Adam's learning rate of the discriminator", POSITIVE)
    lr_g: float = factor(2e-4, "Adam's learning rate of the generator", POSITIVE)
    betas: tuple[float, float] = factor((0.5, 0.999), "Adam's two betas", Range(0, 1, "[)"))
    d_steps: int = factor(1, "discriminator updates for each generator update", FROM_ONE)
    penalty: str = factor("none", "penalty of the discriminator", names="penalties")
    penalty_weight: float = factor(10.0, "factor of the penalty in D's loss", COUNT)
    moment_weight: float = factor(0.0, "factor of the penalty on layers' means and variances", COUNT)
    augment: str = factor("none", "augmentation of real and fake images before D", names="augmentations")
    d_composition: Literal["separate", "joint"] = factor(
        "separate", "real and fake images of the D step: in batches of their own, or in one"
    )
    g_composition: Literal["fake", "joint"] = factor("fake", "what D sees in the G step: fakes alone, or with real")
    accumulate: int = factor(1, "microbatches that a batch is split into", FROM_ONE)
    accumulation: Literal["exact", "frozen", "naive"] = factor("exact", "whose statistics normalize a microbatch")
    ema_decay: float = factor(0.999, "decay of the averaged generator; 0 switches averaging off", Range(0, 1, "[)"))
    max_loss: float = factor(1e4, "a larger loss has exploded and ends the run", POSITIVE)
    initialization: str = factor("dcgan", "initialization of both networks", names="initializers")
    initialization_options: dict[str, Any] = factor(
        dict, "options of D's initialization, such as {zero_classifier: true}"
    )
    equalize_bias: bool = factor(False, "set D's bias so that it calls half of all images real at the start")
    residual_blocks: int = factor(0, "residual blocks at a map size; 0 for the VGG pair", COUNT)
    cuda_graph: bool = display(False, "experimental: on a GPU, launch a step as one CUDA graph where possible")
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)


@dataclass(frozen=True)
class ClassifierModel:
    """The classifier: its optimizer and its network."""

    learning_rate: float = factor(0.05, "learning rate of stochastic gradient descent", POSITIVE)
    momentum: float = factor(0.9, "momentum of the gradient; 0 for none", Range(0, 1, "[)"))
    weight_decay: float = factor(0.0, "added to the gradient: this factor times each parameter", COUNT)
    max_loss: float = factor(1e4, "a larger loss has exploded and ends the run", POSITIVE)
    initialization: str = factor("kaiming", "initialization of the network", names="initializers")
    initialization_options: dict[str, Any] = factor(
        dict, "options of the initialization, such as {zero_classifier: true}"
    )
    residual_blocks: int = factor(0, "residual blocks at a map size; 0 for the VGG network", COUNT)
    classifier: ClassifierNetworkConfig = field(default_factory=ClassifierNetworkConfig)


MODELS: dict[str, type] = {"gan": GANModel, "classifier": ClassifierModel}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on.

    Raises:
        UserError: an unknown key, or a value of another type or out of range.

    >>> TrainConfig(steps=100, model=GANModel(loss="hinge")).changed(**{"data.batch_size": 32}).data.batch_size
    32
    """

    steps: int = factor(1200, "updates, of a GAN's generator", FROM_ONE)
    seed: int = factor(0, "random seed of the run", Range(0, 2**32 - 1))
    name: str = display("", "name of the run; default: what differs from the recipe, then the seed")
    study: str = display("runs", "folder that groups runs to be compared")
    output: str = display("runs", "folder of all studies")
    task: Literal["gan", "classifier"] = factor("gan", "what is trained")
    precision: Literal["auto", "exact"] = factor("auto", "auto: bf16 where it is fast; exact: float32")
    progress: bool = display(True, "show a progress bar")
    wandb: Literal["auto", "online", "offline", "off"] = display("auto", "auto: online with a key, else offline")
    wandb_project: str = display("gannorm", "W&B project")
    wandb_checkpoints: bool = display(False, "send checkpoints to W&B, as versions of an artifact")
    evaluate: bool = declared(
        DISPLAY, False, "score the last checkpoint at the end, into the same W&B run", None, "", "gan"
    )
    recipe: str = display("", "the recipe or file of --config, which sets this key")
    probe_every: int = measurement(100, "steps between batch-dependence probes; 0: never", COUNT, "gan")
    # More images make another estimate, so runs that differ in it are not averaged.
    probe_images: int = declared(FACTOR, 256, "held-out images of a probe, and as many fakes", FROM_ONE, "", "gan")
    probe_one_own: bool = measurement(False, "probes: also the AUC at one own image in a batch", None, "gan")
    sample_every: int = measurement(200, "steps between sample grids; 0: never", COUNT, "gan")
    test_every: int = measurement(100, "steps between tests on held-out images; 0: never", COUNT, "classifier")
    checkpoint_every: int = measurement(200, "steps between checkpoints; 0: never", COUNT)
    log_every: int = measurement(50, "steps between records of the losses", FROM_ONE)
    optimization_every: int = measurement(0, "steps between optimization probes; 0: never", COUNT)
    optimization_budget: float = measurement(
        0.1, "largest share of the time for optimization probes; 0.1 is a tenth of the time", Range(0, 1, "(]")
    )
    optimization_layers: list[str] = measurement(
        list, "layers whose covariate shift is measured, such as [discriminator.logit]; default: two, drawn each time"
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: GANModel | ClassifierModel = None  # type: ignore[assignment]  # that of the task
    trainer: dict[str, Any] = factor(dict, "any option of Lightning's Trainer, such as {accelerator: gpu}")

    def __post_init__(self) -> None:
        if self.task in MODELS and self.model is None:
            object.__setattr__(self, "model", MODELS[self.task]())
        keys("gan")["task"].typed(self.task)  # it decides which other keys there are
        for f in dataclasses.fields(self):
            if f.metadata.get("task", "") not in ("", self.task) and getattr(self, f.name) != f.default:
                raise unknown_key(f.name, keys(self.task))
        if not isinstance(self.model, MODELS[self.task]):
            raise UserError(
                f"`model` must be of the task {self.task!r}: got {type(self.model).__name__}; give "
                f"{MODELS[self.task].__name__}."
            )
        for name, key in keys(self.task).items():
            key.typed(self[name])

    def __getitem__(self, key: str) -> Any:
        """The value of a dotted key."""
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        return value

    @classmethod
    def load(cls, source: str | Path, **changes: Any) -> TrainConfig:
        """A recipe by name, or a YAML file, with some dotted keys changed.

        Args:
            source: a recipe ("digits"), or a file: whatever has a slash or a suffix ("my.yaml").
            changes: dotted key → value.

        Raises:
            UserError: no such recipe or file, an unknown key, or an invalid value.

        >>> TrainConfig.load("digits", **{"model.loss": "hinge"}).model.loss
        'hinge'
        """
        return cls.from_dict(changed(read_sources([str(source)]), changes))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainConfig:
        """Make a config from nested or dotted plain data, also of an earlier version; missing keys get defaults."""
        nested = changed({}, flatten(upgraded(content)))
        task = nested.get("task", "gan")
        known = keys(task if task in MODELS else "gan")
        known["task"].typed(task)
        given = {name: known[name].typed(value) for name, value in _assigned(nested, known)}
        return _built(cls, given, "", task)

    @classmethod
    def of(cls, config: TrainConfig | Mapping[str, Any]) -> TrainConfig:
        """The config itself, or the config made from plain data."""
        return config if isinstance(config, TrainConfig) else cls.from_dict(config)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data, as in config.yaml: `from_dict` makes the same config of it."""
        flat = {name: copy.deepcopy(self[name]) for name in keys(self.task)}
        return changed({}, {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()})

    def changed(self, **changes: Any) -> TrainConfig:
        """Another config with some dotted keys set."""
        return TrainConfig.from_dict(changed(self.to_dict(), changes))


# -- keys by their dotted names ---------------------------------------------------------------------------------------


@lru_cache
def keys(task: str) -> Mapping[str, Key]:
    """Dotted name → key of a task's config, in the order in which they are declared."""
    return {key.name: key for key in _keys(TrainConfig, "", task)}


def _keys(section: type, prefix: str, task: str) -> Iterator[Key]:
    hints = get_type_hints(section)
    for f in dataclasses.fields(section):
        name, about = f"{prefix}{f.name}", f.metadata
        part = MODELS[task] if name == "model" else hints[f.name]
        if dataclasses.is_dataclass(part):
            yield from _keys(part, f"{name}.", task)  # type: ignore[arg-type]
        elif about["task"] in ("", task):
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            yield Key(name, part, default, about["role"], about["help"], about["within"], about["names"])


def _assigned(content: Mapping[str, Any], known: Mapping[str, Key], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested data, all of whose keys are known."""
    for part, value in content.items():
        name = f"{prefix}{part}"
        if name in known:
            yield name, value
        elif any(key.startswith(f"{name}.") for key in known):
            if not isinstance(value, Mapping):
                raise UserError(f"`{name}` must be a mapping of keys: got {value!r}; leave it out.")
            yield from _assigned(value, known, f"{name}.")
        else:
            inside = next(iter(flatten(value)), "") if isinstance(value, Mapping) else ""
            raise unknown_key(f"{name}.{inside}".rstrip("."), known)


def _built(section: type, given: Mapping[str, Any], prefix: str, task: str) -> Any:
    hints, values = get_type_hints(section), {}
    for f in dataclasses.fields(section):
        name = f"{prefix}{f.name}"
        part = MODELS[task] if name == "model" else hints[f.name]
        if dataclasses.is_dataclass(part):
            values[f.name] = _built(part, given, f"{name}.", task)  # type: ignore[arg-type]
        elif name in given:
            values[f.name] = given[name]
    return section(**values)


def taken_by(function: Callable[..., Any], section: Any) -> dict[str, Any]:
    """The keys of a section of a config that are arguments of a function or class."""
    names = inspect.signature(function).parameters
    values = {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name in names}
    return {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}


# -- files ------------------------------------------------------------------------------------------------------------


def read_sources(sources: Iterable[str]) -> dict[str, Any]:
    """The joined content of recipes and files, later ones over earlier ones. The first is the config's `recipe`.

    Raises:
        UserError: one cannot be read, or is a study.
    """
    from gannorm.files import load  # and with it PyYAML

    joined: dict[str, Any] = {}
    for source in sources:
        content = load(locate(source), "a config")
        if is_study(content):
            raise UserError(f"a training config makes one run: {source} is a study; run `gannorm study {source}`.")
        joined = changed({"recipe": source} | joined, flatten(upgraded(content)))
    return joined


def is_study(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("factors"), dict)


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a file of an earlier version has it, with today's names of the keys."""
    return {RENAMED.get(key, key): value for key, value in config.items() if key not in DROPPED}


# -- what identifies a run --------------------------------------------------------------------------------------------


def factors(config: Mapping[str, Any]) -> Flat:
    """The dotted keys of a config, of an earlier version or a flat one too, that identify what was trained.

    The seed is not among them: runs that differ in it alone repeat one another. Keys that nobody declared are factors.

    >>> factors({"steps": 9, "seed": 3, "name": "a", "model": {"discriminator": {"norm": "group"}}})
    {'model.discriminator.norm': 'group', 'steps': 9}
    """
    roles = {key.name: key.role for task in MODELS for key in keys(task).values()}
    flat = flatten(upgraded(config))
    ordered = {key: flat[key] for key in (*NORMS, *flat) if key in flat}
    return {
        key: value
        for key, value in ordered.items()
        if key != "seed" and value != {} and key not in DISPLAYED_TRAINER and roles.get(key, FACTOR) == FACTOR
    }
