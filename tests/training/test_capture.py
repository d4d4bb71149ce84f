"""A step that is recorded once and replayed computes what the step computes, to the last bit; else it is not replayed.

Recorded and replayed on a CPU, operation by operation (see emulated_graphs.py), and, where there is a GPU, there.
"""

import pytest
import torch
from support.emulated_graphs import EmulatedGraphs
from support.plain_loop import final_state
from torch import nn

from gannorm.losses import LOSSES
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, normalizer
from gannorm.training import prepare, resume, train
from gannorm.training.capture import WARM_UP, Captured, state_of

STEPS = WARM_UP + 6
SETTINGS = {
    "joint": ("--model.d_composition=joint", "--model.g_composition=joint"),
    "several D steps": ("--model.d_steps=3", "--model.ema_decay=0.9"),
    "hinge and R1": ("--model.loss=hinge", "--model.penalty=r1", "--model.discriminator.norm=group"),
    "gradient penalty": ("--model.penalty=gradient", "--model.discriminator.norm=layer"),
    "moments": ("--model.moment_weight=0.1", "--model.discriminator.norm=none"),
    "minibatch": ("--model.discriminator.minibatch=discrimination",),
    "renorm that opens": (
        "--model.discriminator.norm=renorm",
        "--model.discriminator.norm_options={start: 8, r_end: 24, d_end: 24}",
    ),
    "bfloat16": ("--precision=auto", "--trainer.precision=bf16-mixed"),
    "measured": ("--probe_every=2", "--probe_images=32", "--sample_every=3", "--checkpoint_every=2"),
    **{f"D {name}": (f"--model.discriminator.norm={name}",) for name in NORMALIZERS},
    **{f"G {name}": (f"--model.generator.norm={name}",) for name in ("none", "ghost", "noisy", "sync", "virtual")},
    **{
        f"weights {name}": (f"--model.discriminator.weight_norm={name}", f"--model.generator.weight_norm={name}")
        for name in WEIGHT_NORMALIZERS
    },
    "diffaugment": ("--model.augment=diffaugment",),
    "relativistic": ("--model.loss=relativistic", "--model.penalty=r1r2", "--model.discriminator.norm=none"),
}


@pytest.fixture
def graphs(monkeypatch):
    graphs = EmulatedGraphs()
    monkeypatch.setattr("gannorm.training.capture.graphs_of", lambda _: graphs)
    return graphs


def both(configure, tmp_path, *flags):
    """A run whose steps are replayed, and the same run computed."""
    config = configure("--steps", str(STEPS), f"--checkpoint_every={STEPS}", *flags)
    switched = {**config, "model": {**config["model"], "cuda_graph": True}}
    return train(switched, tmp_path / "replayed"), train(config, tmp_path / "computed")


def require_equal(one, other):
    found, expected = final_state(one), final_state(other)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_replayed_run_has_the_bits_of_a_computed_one(configure, tmp_path, graphs, setting):
    replayed, computed = both(configure, tmp_path, *SETTINGS[setting])
    assert graphs.replays == STEPS - WARM_UP
    require_equal(replayed, computed)
    assert timeless(replayed) == timeless(computed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and GANNORM_TEST_GPU=1")
@pytest.mark.parametrize("setting", ["joint", "several D steps", "D noisy", "D virtual", "weights spectral"])
def test_on_a_gpu_too(configure, tmp_path, setting):
    """A recording that fails is a warning, which is an error here."""
    require_equal(*both(configure, tmp_path, *SETTINGS[setting]))


def test_by_default_steps_are_computed(configure, tmp_path, graphs):
    train(configure(f"--steps={STEPS}"), tmp_path / "run")
    assert graphs.replays == 0


def timeless(run):
    return [{k: v for k, v in r.items() if "second" not in k and "share_of" not in k} for r in run.metrics()]


@pytest.mark.parametrize("again", [True, False], ids=["graph", "kernels"])
def test_a_resumed_run_goes_on_to_the_same_bits(configure, tmp_path, graphs, again):
    config = configure(f"--steps={2 * STEPS}", f"--checkpoint_every={STEPS}", "--model.cuda_graph=true")
    whole = final_state(train(config, tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gannorm.training.callbacks.metrics.Metrics.act", stop_at(STEPS))
        train(config, stopped := tmp_path / "stopped")
    replays = graphs.replays
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace("cuda_graph: true", f"cuda_graph: {str(again).lower()}"))
    found = final_state(resume(stopped))
    assert graphs.replays == replays + (STEPS - WARM_UP) * again
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def stop_at(step):
    def act(self, trainer, module, *_):
        trainer.should_stop = trainer.should_stop or module.step == step

    return act


@pytest.mark.parametrize(
    "flags,reason",
    [
        (("--model.accumulate=2", "--model.accumulation=naive"), "microbatches are accumulated"),
        (("--model.discriminator.norm=own",), "whether Own does the same at every step is not known"),
        (
            ("--optimization_every=4", "--optimization_budget=1", "--data.batch_size=32"),
            "optimization probes look into a step",
        ),
    ],
)
def test_what_cannot_be_a_graph_is_said_and_computed(configure, tmp_path, graphs, flags, reason):
    @normalizer("own", forward_coupling=False, gradient_coupling=False)
    class Own(nn.Identity):
        def __init__(self, channels):
            super().__init__()

    with pytest.warns(UserWarning, match=f"steps are launched as single kernels: {reason}"):
        train(configure(f"--steps={STEPS}", "--model.cuda_graph=true", *flags), tmp_path / "run")
    assert graphs.replays == 0


def test_a_loss_that_is_not_ours_is_computed(configure, tmp_path, graphs, monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", {**LOSSES._entries, "own": LOSSES["hinge"]})
    model = {**configure()["model"], "loss": "own", "cuda_graph": True}
    with pytest.warns(UserWarning, match="whether own does the same"):
        train({**configure(), "model": model}, tmp_path / "run")
    assert graphs.replays == 0


def test_a_device_without_graphs_says_so(configure, tmp_path):
    with pytest.warns(UserWarning, match="the device has no CUDA graphs"):
        train(configure("--model.cuda_graph=true"), tmp_path / "run")


SPOILED = {
    "nothing is computed": lambda name, number: True,
    "D's update is missing": lambda name, number: name == "_fused_adam_" and number == 0,
    "G's update is missing": lambda name, number: name == "_fused_adam_" and number == 1,
    "the average's update is missing": lambda name, number: name == "_foreach_lerp_",
    "all latents are alike": lambda name, number: name == "randn",
}


@pytest.mark.parametrize("flags", [(), ("--model.loss=wasserstein", "--model.discriminator.norm=none")], ids=str)
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_replay_that_lacks_something_is_found_out(configure, tmp_path, monkeypatch, spoiled, flags):
    graphs = EmulatedGraphs(drop=SPOILED[spoiled])
    config = configure(f"--steps={STEPS}", f"--checkpoint_every={STEPS}", *flags)
    computed = final_state(train(config, tmp_path / "computed"))
    config = {**config, "model": {**config["model"], "cuda_graph": True}}
    monkeypatch.setattr("gannorm.training.capture.graphs_of", lambda _: graphs)
    with pytest.warns(UserWarning, match="it cannot be one graph .its replay d"):
        found = final_state(train(config, tmp_path / "run"))
    assert graphs.replays == 1
    assert all(torch.equal(found[name], computed[name]) for name in computed)


def test_a_counter_does_not_hide_statistics_that_a_replay_forgot(configure):
    """A group is compared by its length, of which a count of batches would be the whole."""
    gan, _ = prepare(configure())
    groups = state_of(gan)
    assert all(len({value.dtype for value in group}) == 1 for group in groups.values())
    assert {"running_mean of the average", "num_batches_tracked of the discriminator"} <= set(groups)
    found = [value for group in groups.values() for value in group]
    networks = (gan.generator, gan.discriminator, gan.ema)
    assert len(found) == sum(len([*n.parameters()]) + len([*n.buffers()]) for n in networks)


class Walk:
    """A step that moves one weight by its images, and by what `spoil` adds to that."""

    def __init__(self, spoil=lambda walk: 0.0):
        self.weight, self.calls, self.spoil = torch.zeros(3), 0, spoil

    def step(self, images):
        self.calls += 1
        self.weight.add_(images.mean() + self.spoil(self))
        return {"loss": self.weight.sum()}

    def captured(self):
        return Captured(self.step, lambda: {"weights": [self.weight]}, [], [], EmulatedGraphs())


def read_back(walk):
    return float(walk.weight.sum())


def new_memory(walk):
    walk.weight = walk.weight.clone()
    return 0.0


@pytest.mark.parametrize(
    "spoil,reason",
    [
        (lambda walk: float(walk.calls), "differs from it in the weights"),  # a number that python counts
        (new_memory, "makes some of its state again"),
        (read_back, "not permitted"),
    ],
    ids=["host number", "new memory", "host read"],
)
def test_a_step_that_is_not_one_program_is_computed(spoil, reason):
    walk, plain = Walk(spoil), Walk(spoil)
    step = walk.captured()
    with pytest.warns(UserWarning, match=f"it cannot be one graph .*{reason}"):
        found = [step(torch.full((2,), float(number)))["loss"].clone() for number in range(10)]
    if "differs" not in reason:  # where recording has called python's counter once more
        assert found == [plain.step(torch.full((2,), float(number)))["loss"] for number in range(10)]
    assert step.failed and walk.calls >= 10


def test_a_step_that_is_one_program_is_replayed_on_each_batch():
    walk, plain = Walk(), Walk()
    step = walk.captured()
    for number in range(10):
        images = torch.full((2,), float(number))
        assert torch.equal(step(images)["loss"], plain.step(images)["loss"])
    assert walk.calls == WARM_UP + 2  # the recorded one was computed, too
    assert torch.equal(walk.weight, plain.weight)
