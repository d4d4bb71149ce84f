"""Precision and layout change the speed of a run, never its mathematics."""

import pytest
import torch
from support.plain_loop import final_state, plain_loop

from gannorm.errors import UserError
from gannorm.training import check, prepare, train
from gannorm.training.precision import choose

STEPS = 50


@pytest.fixture
def follow(configure, tmp_path):
    """follow(precision, flags, …) -> how far a run ends from the plain loop: (its weights' drift, its losses')."""

    def run(precision, *flags, loop_flags=(), bfloat16=False):
        config, loop_config = (
            configure("--steps", str(STEPS), "--checkpoint_every", str(STEPS), "--precision", "exact", *chosen)
            for chosen in (flags, loop_flags or flags)
        )
        config["trainer"]["precision"] = precision
        gan, data = prepare(config)
        start = {name: value.double() for name, value in gan.state_dict().items()}
        if precision == "64-true":
            gan.double()
        loader = data.train_dataloader()
        expected, losses = plain_loop(gan, [next(loader) for _ in range(STEPS)], loop_config, bfloat16)
        directory = train(config, tmp_path / "run")
        found = torch.tensor([directory.series(name)[1] for name in ("loss/d", "loss/g")], dtype=torch.float64)
        worst = (found - torch.tensor(losses, dtype=torch.float64).t()).abs().max().item()
        return drift(final_state(directory), expected, start), worst

    return run


def drift(state, expected, start):
    """‖θ − θ'‖ / ‖θ' − θ₀‖ over all weights: 0 for the same path, about √2 for unrelated ones of one length."""
    weights = [name for name in start if start[name].dim() > 0 and "running" not in name]
    apart = sum((state[n].double() - expected[n].double()).square().sum() for n in weights)
    moved = sum((expected[n].double() - start[n]).square().sum() for n in weights)
    return (apart / moved).sqrt().item()


@pytest.mark.parametrize("d_steps", ["1", "2"])
def test_fifty_steps_are_the_plain_loops_in_float64(follow, d_steps):
    weights, losses = follow("64-true", "--model.d_steps", d_steps)
    assert weights < 1e-11  # float64 rounding, 1e-16, a hundred updates
    assert losses < 1e-12


def test_fifty_steps_are_the_plain_loops_in_float32(follow):
    weights, losses = follow("32-true")
    # An update of Adam is lr·sign(g) at first: a weight whose gradient is rounding noise may go either way.
    assert weights < 0.1
    assert losses < 0.01


@pytest.mark.parametrize("d_steps", ["1", "2"])  # with 2, the weights change between two passes of one autocast
def test_fifty_steps_in_bfloat16_keep_to_the_path_of_float32(follow, d_steps):
    weights, losses = follow("bf16-mixed", "--model.d_steps", d_steps)
    # bfloat16 keeps 8 bits: each product is off by up to 0.4 %, at random, and with it a few percent of Adam's signs.
    assert 1e-3 < weights < 0.2
    assert losses < 0.05


def test_another_composition_is_another_path(follow):
    weights, losses = follow("32-true", loop_flags=("--model.d_composition", "joint"))
    assert weights > 0.3  # so the bounds above tell rounding from other mathematics
    assert losses > 0.05


def test_bfloat16_rounds_maps_alone(configure, tmp_path):
    config = configure("--checkpoint_every", "4", "--model.d_steps", "2")
    config["trainer"]["precision"] = "bf16-mixed"
    first, again = (train(config, tmp_path / name) for name in ("first", "again"))
    content = torch.load(first.checkpoint_file(None), weights_only=True)
    kept = [*content["state_dict"].values()]
    for optimizer in content["optimizer_states"]:
        kept += [value for state in optimizer["state"].values() for value in state.values()]
    assert all(value.dtype in (torch.float32, torch.int64) for value in kept)  # int64: num_batches_tracked
    assert all(torch.equal(v, final_state(again)[name]) for name, v in content["state_dict"].items())


def test_channels_last_reaches_every_network(configure, tmp_path):
    state = final_state(train(configure("--checkpoint_every", "4"), tmp_path / "run"))
    for network in ("generator", "ema.module", "discriminator"):
        weight = state[f"{network}.features.1.conv.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous()


def test_the_choice_follows_hardware_and_config_and_says_why(configure, monkeypatch):
    auto, exact = configure(), configure("--precision", "exact")
    monkeypatch.setattr("gannorm.training.precision.fast_bf16", lambda device: "AMX")
    assert str(choose(auto)) == "bf16-mixed (precision auto: AMX), channels_last"
    assert str(choose(exact)) == "32-true (precision exact), channels_last"
    assert choose({**exact, "trainer": {"precision": "bf16-mixed"}}).precision == "bf16-mixed"
    monkeypatch.setattr("gannorm.training.precision.fast_bf16", lambda device: "")
    assert str(choose(auto)) == "32-true (precision auto: bf16 would not be faster here), channels_last"
    with pytest.raises(UserError, match="did you mean 'exact'"):
        choose({**auto, "precision": "exakt"})


def test_a_layout_that_costs_time_or_moves_noise_is_not_taken(configure):
    taken = {}
    for norm in ("group", "noisy", "frn"):
        config = configure("--model.discriminator.norm", norm)
        taken[norm] = [choose({**config, "trainer": {"precision": p}}).channels_last for p in ("32-true", "bf16-mixed")]
    assert taken == {"group": [True, False], "noisy": [False, False], "frn": [False, False]}


def test_kernels_are_chosen_by_no_timing_and_exact_refuses_what_auto_warns_of(configure, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    for mode, deterministic in (("auto", "warn"), ("exact", True)):
        arithmetic = choose(configure("--precision", mode))
        assert arithmetic.trainer_options()["deterministic"] == deterministic
        with arithmetic.applied():
            assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
            assert (torch.backends.cuda.matmul.fp32_precision == "ieee") == (mode == "exact")


def test_training_leaves_torchs_switches_as_they_were(configure, tmp_path):
    def switches():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.mkldnn.conv.fp32_precision,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        )

    before = switches()
    inside = []
    config = configure("--precision", "exact", "--steps", "1")
    with choose(config).applied():
        inside = switches()
    train(config, tmp_path / "run")
    assert switches() == before
    assert inside != before
    for options in ({"deterministic": True}, {"benchmark": True, "deterministic": False}):
        check({**config, "trainer": options})
        assert switches() == before
