"""Precision and layout change the speed of a run, never its mathematics."""

import pytest
import torch
from training.plain_loop import final_state, plain_loop

from gannorm.errors import UserError
from gannorm.training import prepare, train
from gannorm.training.precision import bf16_hardware, choose

STEPS = 50


@pytest.fixture
def follow(configure, tmp_path):
    """follow(trainer precision, …) -> the configured run and the plain loop: (state, losses) of each, and θ₀."""

    def run(precision, d_steps=1, **loop):
        config = configure("--steps", str(STEPS), "--checkpoint_every", str(STEPS), "--model.d_steps", str(d_steps))
        config["trainer"]["precision"] = precision
        gan, data = prepare(config)
        start = {name: value.double() for name, value in gan.state_dict().items()}
        if precision == "64-true":
            gan.double()
        loader = data.train_dataloader()
        expected = plain_loop(gan, [next(loader) for _ in range(STEPS)], config, **loop)
        directory = train(config, tmp_path / f"{precision}_{d_steps}_{bool(loop)}")
        series = zip(directory.series("loss_d")[1], directory.series("loss_g")[1], strict=True)
        return (final_state(directory), list(series)), expected, start

    return run


def drift(state, expected, start):
    """‖θ − θ'‖ / ‖θ' − θ₀‖ over all weights: 0 for the same path, about √2 for unrelated ones of one length."""
    weights = [name for name in start if start[name].dim() > 0 and "running" not in name]
    apart = sum((state[n].double() - expected[n].double()).square().sum() for n in weights)
    moved = sum((expected[n].double() - start[n]).square().sum() for n in weights)
    return (apart / moved).sqrt().item()


def worst(losses, expected):
    return (torch.tensor(losses) - torch.tensor(expected)).abs().max().item()


def test_x(follow):
    for precision, loop in (("64-true", {}), ("32-true", {}), ("bf16-mixed", {"bfloat16": True}), ("bf16-mixed", {})):
        for d in (1, 2):
            (state, losses), (e, el), start = follow(precision, d_steps=d, **loop)
            print(precision, loop, d, drift(state, e, start), worst(losses, el))
