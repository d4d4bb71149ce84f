"""The classifier: a plain loop of gradient descent on the discriminator's network, in a run directory."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from support.plain_loop import final_state

from gannorm.cli import main
from gannorm.commands.inputs.arguments import train_config
from gannorm.data import ImageData, Images
from gannorm.errors import UserError
from gannorm.models import load_classifier
from gannorm.rundir import RunDir
from gannorm.training import prepare, train
from gannorm.training.classifier import TestAccuracy
from gannorm.training.classifier import test as held_out_test

TINY = ("--data.image_size", "8", "--data.batch_size", "32", "--model.classifier.width", "8", "--wandb", "off",
        "--progress", "false")  # fmt: skip


def configured(*flags):
    config = train_config(["--task", "classifier", *TINY, "--name", "run", *flags]).to_dict()
    return config


def test_a_run_follows_the_plain_loop(tmp_path):
    config = configured("--steps", "4", "--checkpoint_every", "4", "--precision", "exact", "--model.momentum", "0.5")
    config["model"]["weight_decay"] = 0.1
    module, data = prepare(config)
    network, batches = copy.deepcopy(module.network), data.train_dataloader()
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    for _ in range(4):
        images, labels = next(batches)
        gradients = torch.autograd.grad(F.cross_entropy(network(images), labels), list(network.parameters()))
        with torch.no_grad():
            for p, v, g in zip(network.parameters(), velocity, gradients, strict=True):
                v.mul_(0.5).add_(g + 0.1 * p)
                p.sub_(config["model"]["learning_rate"] * v)
    state = final_state(train(config, tmp_path / "run"))
    for name, value in network.state_dict().items():  # fp32: another memory layout sums in another order
        torch.testing.assert_close(state[f"network.{name}"], value, rtol=1e-4, atol=1e-5)


def test_it_learns_the_digits_and_says_how_well_on_held_out_images(tmp_path):
    run = train(configured("--steps", "80", "--test_every", "80", "--log_every", "80"), tmp_path / "run")
    steps, accuracy = run.series("test/accuracy")
    assert steps == [0, 80]
    assert accuracy[0] < 0.4 < 0.85 < accuracy[1]  # ten classes
    assert run.series("train/accuracy")[1][-1] > 0.85


def test_the_test_is_over_all_images_in_eval_mode_and_leaves_no_trace():
    module, data = prepare(configured())
    images, network = data.test, module.network.train()
    before = copy.deepcopy(network.state_dict())
    loss, accuracy = held_out_test(network, images, torch.device("cpu"))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    logits = network.eval()(images.pixels / 127.5 - 1)
    assert loss == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-5)  # fp32
    assert accuracy == (logits.argmax(1) == images.labels).double().mean().item()


def test_the_gap_is_the_accuracy_on_as_many_training_images_less_that_on_held_out_ones(tmp_path):
    flags = ("--steps", "30", "--test_every", "30", "--checkpoint_every", "30", "--model.classifier.norm", "none")
    run = train(configured(*flags), tmp_path / "run")
    network, config = load_classifier(run.path)
    data = ImageData(image_size=8, batch_size=32, labelled=True)
    data.setup()
    test = TestAccuracy(30, data.test, data.train, config.seed)
    assert len(test.training) == len(data.test)
    of_training = {image.numpy().tobytes() for image in data.train.pixels}
    assert all(image.numpy().tobytes() in of_training for image in test.training.pixels)
    accuracies = [held_out_test(network, images, torch.device("cpu"))[1] for images in (test.training, data.test)]
    assert run.series("test/accuracy_gap")[1][-1] == pytest.approx(accuracies[0] - accuracies[1], abs=1e-9)


def test_a_classifier_with_dropout_has_its_optimization_probes(tmp_path):
    flags = ("--steps", "2", "--optimization_every", "1", "--optimization_budget", "1", "--model.classifier.norm=none")
    run = train(configured(*flags, "--model.classifier.dropout", "0.5"), tmp_path / "run")
    assert run.series("optimization/failed")[1] == [0, 0]


def test_labels_go_with_their_images():
    data = ImageData(image_size=8, batch_size=32, labelled=True)
    data.setup()
    images, labels = next(data.train_dataloader())
    pixels = data.train.pixels.float() / 127.5 - 1
    for image, label in zip(images, labels, strict=True):
        same = (pixels == image).flatten(1).all(1).nonzero().flatten()
        assert label in data.train.labels[same]


def test_images_without_labels_are_refused(monkeypatch):
    unlabelled = Images(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), None, (), "blank", "train")
    monkeypatch.setattr(ImageData, "_load", lambda self, split: unlabelled)
    with pytest.raises(UserError, match="a classifier needs labels: data set 'digits' has none"):
        prepare(configured())


@pytest.mark.parametrize(
    "arguments,task",
    [
        ([], "gan"),
        (["--task", "classifier"], "classifier"),
        (["--task=classifier", "--seed", "1"], "classifier"),
        (["--config", "FILE"], "classifier"),
        (["--config=FILE"], "classifier"),
        (["--config", "FILE", "--task", "gan"], "gan"),
    ],
)
def test_the_task_is_the_last_that_the_command_names(tmp_path, arguments, task):
    file = tmp_path / "config.yaml"
    file.write_text("task: classifier\n")
    assert train_config([argument.replace("FILE", str(file)) for argument in arguments]).task == task


def test_the_command_trains_from_the_config_and_its_run_repeats(tmp_path, capsys):
    flags = [*TINY, "--steps", "2", "--optimization_every", "0", "--checkpoint_every", "2", "--output", str(tmp_path)]
    assert main(["train", "--config", "classifier", "--name", "batch_0", *flags]) == 0
    first = RunDir.open(tmp_path / "classifier" / "batch_0")
    assert main(["train", "--config", str(first.config_file)]) == 0
    again = RunDir.open(tmp_path / "classifier" / "batch_0_2")
    states = [final_state(run) for run in (first, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    capsys.readouterr()
    assert main(["sample", str(first.path)]) == 2
    assert "holds a classifier; give a GAN's run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--model.classifer.norm", "group"], "unknown key 'model.classifer.norm': did you mean"),
        (["--model.discriminator.norm", "group"], "unknown key 'model.discriminator.norm'"),
        (["--model.classifier.depth", "3"], "`depth` must be 0 or at least 4 for images of 8: got 3"),
        (["--model.momentum", "1"], r"`model.momentum` must be in \[0, 1\): got 1.0"),
        (["--task", "clasifier"], "`task` must be one of gan, classifier: got clasifier; did you mean 'classifier'"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, capsys, flags, message):
    assert main(["train", "--config", "classifier", *TINY, "--output", str(tmp_path), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert not list(tmp_path.iterdir())
