"""Names tell apart what differs, and nothing else."""

import itertools

from gannorm.config import TrainConfig
from gannorm.config.labels import LONGEST, labels, run_name


def named(**changes):
    return run_name(TrainConfig.load("digits", **changes))


def test_a_run_is_called_by_what_differs_from_its_recipe():
    assert named() == "batch_0"
    assert named(**{"model.discriminator.norm": "group", "model.loss": "hinge"}) == "group_hinge_0"
    assert named(**{"model.lr_d": 2e-4, "seed": 3}) == "batch_lr_d-0.0002_3"
    assert named(**{"model.generator.norm": "group"}) == "batch_generator.norm-group_0"
    assert named(**{"wandb": "off", "probe_every": 7, "study": "other"}) == "batch_0"  # which change nothing in the run
    assert run_name(TrainConfig.load("classifier", **{"model.classifier.norm": "none"})) == "none_0"


def test_without_a_recipe_the_defaults_are_what_it_differs_from():
    assert run_name(TrainConfig(seed=2)) == "batch_2"
    assert run_name(TrainConfig.load("digits").changed(recipe="")).startswith("batch_exact_image_size-16")


def test_a_name_is_a_folders_and_not_long():
    changes = {
        "model.discriminator.norm_options.groups": 4,
        "trainer.strategy": "a/b: c",
        "steps": 3,
        "model.betas": [0, 0.9],
    }
    name = named(**changes, **{"model.generator.width": 8, "model.discriminator.width": 8})
    assert len(name) <= LONGEST and "/" not in name and " " not in name and name.endswith("_0")


def test_labels_are_the_fewest_values_that_tell_conditions_apart():
    configs = [
        {"seed": seed, "name": f"{norm}{rate}", "model": {"discriminator": {"norm": norm}, "lr_d": rate, "lr_g": rate}}
        for norm, rate, seed in itertools.product(("batch", "group"), (0.1, 0.2), (0, 1))
    ]
    expected = [f"norm={norm}, lr_d={rate}" for norm in ("batch", "group") for rate in (0.1, 0.2) for _ in range(2)]
    assert labels(configs) == expected
    assert labels(configs[:2]) == ["batch", "batch"]
    assert labels(configs[::4]) == ["batch", "group"]


def test_a_normalizers_options_name_a_condition_before_what_changes_with_them() -> None:
    """Two arms of one normalizer, each at a rate of its own: the option names them; an absent one is left out."""
    arms = [("batch", {}, 0.1), ("reference", {"gradient": True}, 0.1), ("reference", {"gradient": False}, 0.2)]
    configs = [
        {"model": {"lr_d": rate, "discriminator": {"norm": norm, "norm_options": options}}}
        for norm, options, rate in arms
    ]
    expected = ["norm=batch", "norm=reference, gradient=true", "norm=reference, gradient=false"]
    assert labels(configs) == expected
