"""The optimization probes inside a training step: they measure the real update, and training never notices them."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.plain_loop import final_state
from torch import nn

from gannorm.commands.inputs.arguments import train_config
from gannorm.errors import UserError
from gannorm.normalizers import normalizer
from gannorm.probes.optimization.internal_covariate_shift import layers_of
from gannorm.probes.optimization.landscape import FACTORS
from gannorm.training import prepare, train
from gannorm.training.callbacks import optimization_probes as optimization
from gannorm.training.callbacks.optimization_probes import Optimization

WHY = ("--optimization_every", "2", "--optimization_budget", "1")


@pytest.fixture
def classify(tmp_path):
    """classify("--steps", "4", …) -> a resolved config of a tiny digits classifier."""

    def build(*flags):
        tiny = ["--task", "classifier", "--data.image_size", "8", "--data.batch_size", "16", "--steps", "4"]
        tiny += ["--model.classifier.width", "8", "--log_every", "1", "--test_every", "0", "--checkpoint_every", "0"]
        tiny += ["--wandb", "off", "--progress", "false", "--name", "run", "--output", str(tmp_path)]
        config = train_config(["--task", "classifier", *tiny, *flags]).to_dict()
        return config

    return build


PARTS = ("covariate_shift", "landscape", "gradients")
NOISY_PENALIZED = (
    *("--model.discriminator.norm", "noisy", "--model.d_steps", "2", "--model.g_composition", "joint"),
    *("--model.moment_weight", "0.1", "--model.generator.weight_norm", "spectral"),
)


@pytest.mark.parametrize("factors", [NOISY_PENALIZED, ("--model.accumulate", "2", "--trainer.precision", "bf16-mixed")])
def test_training_with_the_callback_is_bit_identical_to_training_without(configure, tmp_path, factors):
    factors = (*factors, "--steps", "3", "--checkpoint_every", "3")  # the last step follows a measurement
    alone = final_state(train(configure(*factors), tmp_path / "alone"))
    run = train(configure(*factors, *WHY), tmp_path / "measured")
    measured = final_state(run)
    assert all(torch.equal(alone[name], measured[name]) for name in alone)
    assert run.series("optimization/failed") == ([0, 2], [0, 0])
    assert list(run.probes()) == [0, 2]


def test_a_classifier_too_is_left_alone(classify, tmp_path):
    factors = ("--model.classifier.norm", "noisy", "--checkpoint_every", "4")
    alone = final_state(train(classify(*factors), tmp_path / "alone"))
    measured = final_state(train(classify(*factors, *WHY), tmp_path / "measured"))
    assert all(torch.equal(alone[name], measured[name]) for name in alone)


def test_each_network_is_measured_at_the_parameters_and_on_the_batch_of_its_own_update(configure, tmp_path):
    run = train({**configure(*WHY, "--model.d_steps", "2"), "precision": "exact"}, tmp_path / "run")
    for network, loss in (("discriminator", "loss/d"), ("generator", "loss/g")):
        before = dict(zip(*run.series(f"optimization/{network}/loss"), strict=True))
        trained = dict(zip(*run.series(loss), strict=True))  # of the step that led to this one
        assert list(before) == [0, 2]
        for step, value in before.items():
            assert value == pytest.approx(trained[step + 1], rel=1e-5)  # fp32, in another order of kernels


def test_the_landscape_looks_as_far_ahead_as_plain_descent_steps(classify, tmp_path):
    run = train(classify(*WHY, "--model.momentum", "0", "--model.learning_rate", "0.03"), tmp_path / "run")
    with np.load(run.probe_file(2)) as arrays:
        steps = arrays["optimization/classifier/landscape/step_sizes"]
        losses = arrays["optimization/classifier/landscape/losses"]
    np.testing.assert_allclose(steps, 0.03 * np.array(FACTORS), rtol=1e-3)  # fp32: θ' − θ has lost some digits
    band = dict(zip(*run.series("optimization/classifier/loss_low"), strict=True))[2]
    assert band == pytest.approx(losses.min())


def test_arrays_are_of_the_layers_that_were_named_and_join_those_of_the_batch_dependence(configure, tmp_path):
    named = (
        "--optimization_layers",
        "[discriminator.logit]",
        "--steps",
        "1",
        "--probe_every",
        "1",
        "--probe_images",
        "16",
    )
    run = train(configure(*WHY, *named), tmp_path / "run")
    with np.load(run.probe_file(0)) as arrays:
        assert "coupling_train" in arrays  # of the same step
        assert arrays["optimization/discriminator/covariate_shift/layers"].tolist() == ["logit"]
        assert len(arrays["optimization/generator/covariate_shift/layers"]) == 2  # drawn
        assert {"optimization/discriminator/gradients/histogram", "optimization/generator/moments/means"} <= set(arrays)


ALONE = ("--model.classifier.norm", "none")  # every parameter belongs to a layer


def test_every_figure_is_the_stated_reduction_of_the_arrays_beside_it(classify, tmp_path):
    config = classify(*WHY, *ALONE, "--model.learning_rate", "0.05")
    layers = [f"classifier.{name}" for name in layers_of(prepare(config)[0].network)]
    run = train(config | {"optimization_layers": layers}, tmp_path / "run")
    (record,) = [r for r in run.metrics() if r["step"] == 2 and "optimization/classifier/loss" in r]
    found = {name.removeprefix("optimization/classifier/"): value for name, value in record.items()}
    with np.load(run.probe_file(2)) as file:
        arrays = {name.removeprefix("optimization/classifier/"): array for name, array in file.items()}
    shift, ahead, kernels = ({k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{p}/")} for p in PARTS)
    g = found["gradient_norm"]
    shapes = {kind: arrays[f"moments/channel_{kind}"][:-10] for kind in ("skewness", "kurtosis")}  # not of the output
    expected = {
        "covariate_shift": shift["distance"].mean(),
        "covariate_shift_relative": (shift["distance"] / shift["gradient_norm"]).mean(),
        "covariate_shift_cosine": shift["cosine"].mean(),
        "loss_band": ahead["losses"].max() - ahead["losses"].min(),
        "loss_high": ahead["losses"].max(),
        "predictiveness_low": ahead["gradient_changes"].min(),
        "predictiveness_high": ahead["gradient_changes"].max(),
        "effective_beta": (ahead["gradient_changes"] / ahead["step_sizes"]).max() / g,
        "step_size": np.median(ahead["step_sizes"]),
        **{k: np.median(kernels[k]) for k in ("kurtosis", "range_ratio", "coherence", "alignment", "effective_rank")},
        "radial": np.abs(
            kernels["radial"][:-1]
        ).max(),  # of the last layer, which no normalizer follows, it says nothing
        "input_mean": arrays["moments/means"][:-1].mean(),  # the last entry is the output's
        "input_variance": arrays["moments/variances"][:-1].mean(),
        "input_skewness": np.nanmedian(np.abs(shapes["skewness"])),
        "input_kurtosis": np.nanmedian(np.abs(shapes["kurtosis"])),
        "unit_variance_ratio": np.median(arrays["units/ratio"]),
        # C/b of batches as large as this one, C on b − 1, over the squared gradient without that noise
        "noise_to_signal": (noise := found["noise_variance"] / 15) / (g**2 - noise),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    # All at the parameters before the update: the layers' gradients are the parts of one gradient.
    assert np.sqrt(np.square(shift["gradient_norm"]).sum()) == pytest.approx(g, rel=1e-5)


def test_probes_of_a_bf16_run_compute_in_float32(classify, tmp_path):
    """At step 0 both runs have the same networks and batch; bf16 has three digits."""
    full, half = (
        train(classify(*WHY, *ALONE, "--steps", "1", "--trainer.precision", p), tmp_path / p)
        for p in ("32-true", "bf16-mixed")
    )
    for name in ("loss", "gradient_norm", "noise_variance", "input_variance"):
        one, other = (run.series(f"optimization/classifier/{name}")[1][0] for run in (full, half))
        assert other == pytest.approx(one, rel=1e-5)


def test_the_layers_of_the_covariate_shift_are_drawn_anew_every_time(classify, tmp_path):
    run = train(classify("--optimization_every", "1", "--optimization_budget", "1", "--steps", "6"), tmp_path / "run")
    drawn = set()
    for file in run.probes().values():
        with np.load(file) as arrays:
            drawn.add(tuple(arrays["optimization/classifier/covariate_shift/layers"].tolist()))
    assert len(drawn) > 1


def test_layers_and_budget_are_checked_before_the_run_is_made(configure):
    with pytest.raises(UserError, match=r"did you mean 'discriminator\.logit'\? choose from"):
        prepare(configure("--optimization_layers", "[discriminator.logits]"))
    for budget in ("0", "1.5"):
        with pytest.raises(UserError, match=r"`optimization_budget` must be in \(0, 1\]"):
            prepare(configure("--optimization_budget", budget))


def test_measurements_stay_within_their_share_of_the_time(monkeypatch):
    clock, cost, budget = [0.0], 30.0, 0.1  # a training step takes a second
    monkeypatch.setattr(optimization.time, "perf_counter", lambda: clock[0])
    probe = Optimization(1, budget, [], seed=0)
    probe.on_train_start(SimpleNamespace(max_steps=1000), SimpleNamespace(step=0))
    made = []
    for step in range(1000):
        if probe._affordable():
            clock[0] += cost
            probe.spent, probe.cost = probe.spent + cost, cost
            assert step == 0 or probe.spent <= budget * clock[0]
            made.append(step)
        clock[0] += 1
    assert made[0] == 0
    assert len(made) == 3  # a tenth of 1090 seconds pays for 3.6, and 1000 were due
    assert probe.spent <= budget * clock[0]


def test_a_run_too_short_for_its_budget_says_so_and_logs_what_it_skips(configure, tmp_path):
    with pytest.warns(UserWarning, match="budget 0.1 of 4 steps does not pay for a measurement of about 40"):
        run = train(configure("--optimization_every", "2"), tmp_path / "run")
    assert run.series("optimization/skipped") == ([0, 2], [1, 2])
    assert run.series("optimization/seconds") == ([], [])


def test_gradients_that_are_not_finite_cost_the_probe_and_not_the_run(classify, tmp_path):
    config = classify(*WHY, "--model.learning_rate", "1e30", "--log_every", "4")
    with pytest.warns(UserWarning, match="no probe of .* of the classifier at step") as caught:
        run = train(config, tmp_path / "run")
    said = [str(w.message) for w in caught]
    assert sum("loss and gradients must be finite: the loss holds NaN" in line for line in said) == 6
    assert len(said) == 7  # one a probe; the landscape's, which had infinite steps to take, came first
    assert run.status()["state"] == "diverged"
    assert run.series("optimization/failed")[1][-1] >= 6


def test_a_network_that_is_not_deterministic_costs_the_probe_and_not_the_run(configure, tmp_path):
    @normalizer("dice", forward_coupling=False, gradient_coupling=False)
    class Dice(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            return x * random.SystemRandom().uniform(0.5, 1.5)  # no state that could be put back

    config = configure(*WHY, "--model.discriminator.norm", "dice", "--model.initialization", "kaiming")
    with pytest.warns(UserWarning, match="no probe of .* must be deterministic"):
        run = train(config, tmp_path / "run")
    assert run.status()["state"] == "finished"
    assert run.series("optimization/failed")[1][-1] > 0
