"""The benchmark's loops are the same mathematics as a run, and its ratios are what they say."""

import copy
import json
import sys

import pytest
import torch
from support.plain_loop import plain_loop

from benchmarks import __main__ as command
from benchmarks import core, loops, training
from gannorm.arithmetic import Arithmetic
from gannorm.data.loader import ImageLoader
from gannorm.training import prepare


@pytest.fixture
def bench():
    """A Bench of few rounds that has not measured the machine."""
    bench = core.Bench.__new__(core.Bench)
    bench.device, bench.quick, bench.rounds = torch.device("cpu"), True, 2
    bench.flops, bench.bytes_per_second = {"float32": 1e9, "bfloat16": 2e9}, 1e9
    return bench


def test_contestants_take_turns_and_the_first_round_is_not_counted(bench):
    calls = []
    times = bench.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert "".join(calls) == "ababab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_within_a_round():
    times = {"ours": [1.0, 10.0, 2.0], "other": [2.0, 30.0, 2.0]}  # the machine was slow in the second round
    faster = core.row("s", "w", times, "ours", "other", True, "it", "≥ 2.5")
    assert (faster.ratio, faster.low, faster.high, faster.met) == (2.0, 1.0, 3.0, False)
    cost = core.row("s", "w", times, "ours", "other", False, "it", "≤ 0.5")
    assert (cost.ratio, cost.low, cost.high, cost.met) == (0.5, pytest.approx(1 / 3), 1.0, True)


def test_the_loops_compared_are_the_same_mathematics():
    small = {"data": {"name": "digits", "image_size": 8, "batch_size": 16}, "precision": "exact"}
    config = loops.digits_config(**small)
    config["model"] |= {
        "discriminator": {"width": 8, "norm": "batch"},
        "generator": {"width": 8, "latent_dim": 4, "norm": "batch"},
    }
    config["model"]["ema_decay"] = 0.7
    gan, data = prepare(config)
    gan.double()
    loader = ImageLoader(data.train.pixels, 16, seed=0)
    batches = [next(loader).double() for _ in range(4)]
    torch.set_default_dtype(torch.float64)  # of the latents, which all three loops draw from one stream
    try:
        expected, losses = plain_loop(copy.deepcopy(gan), batches, config)
        tutorial = loops.Tutorial(gan, torch.device("cpu"))
        found = [tutorial.step(batch) for batch in batches]
        bare = loops.Bare(gan, Arithmetic("64-true", True, False, ""), torch.device("cpu"))
        for batch in batches:
            bare.step(batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(torch.tensor(found), torch.tensor(losses), rtol=1e-9)
    for prefix, network in (("generator.", tutorial.g), ("discriminator.", tutorial.d), ("", bare.gan)):
        for name, value in network.state_dict().items():  # float64: the order of sums
            torch.testing.assert_close(value, expected[prefix + name], rtol=1e-8, atol=1e-10)


def test_a_section_without_its_library_is_left_out_with_a_line(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "Bench", lambda device, quick: bench)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # as if it were not installed
    output = tmp_path / "benchmark.json"
    assert command.main(["--only", "evaluation", "data", "--device", "cpu", "--output", str(output)]) == 0
    assert "left out: torch_fidelity is not installed" in capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    assert {row["section"] for row in rows} == {"data"}


def test_nothing_but_products_is_left_of_the_networks():
    gan, _ = prepare(loops.digits_config())
    left = loops.products_alone(gan)
    products = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
    computing = [
        m for m in left.modules() if not list(m.children()) and type(m) not in (torch.nn.Identity, torch.nn.Flatten)
    ]
    assert {type(m) for m in computing} == set(products)
    weights = lambda gan: [p.shape for p in gan.parameters() if p.dim() > 1]  # noqa: E731
    assert weights(left) == weights(gan)


@pytest.mark.slow
def test_training_is_timed_inside_a_real_run(bench):
    config = loops.digits_config(data={"name": "digits", "image_size": 8, "batch_size": 16})
    config["model"] |= {
        "discriminator": {"width": 8, "norm": "batch"},
        "generator": {"width": 8, "latent_dim": 4, "norm": "batch"},
    }
    rows = list(training._train_against(bench, "digits, tiny", config))
    faster = "faster than the tutorial loop"
    assert [row.meaning for row in rows] == [faster, "cost of the bare loop", faster]
    assert all(row.low <= row.ratio <= row.high for row in rows)
    assert rows[0].share > 0
