"""A watched training is the training: to the last bit, in either library; and what is measured is what is there."""

import csv
import importlib
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from support.foreign import SHAPE, fakes, fit, images, loader, modules, require_equal
from torch import nn

import gannorm
from gannorm import BatchDependence
from gannorm.errors import UserError
from gannorm.models import Discriminator, Generator
from gannorm.probes import BatchCouplingError
from gannorm.seeds import stream
from gannorm.training import GAN, prepare

warnings.filterwarnings("ignore", module="lightning")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(LeafSpec|num_workers|does not have many workers|in `Lightning`).*"),
    pytest.mark.filterwarnings("ignore:.*pkg_resources.*"),
]
LIBRARIES = ("lightning.pytorch", "pytorch_lightning")


def watch(discriminator="critic", **options):
    return BatchDependence(discriminator, **{"fakes": fakes, "real": images(128, seed=1), **options})


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["manual", "automatic"])
def test_a_foreign_training_ends_with_the_same_bits(library, kind):
    library = importlib.import_module(library)
    make = modules(library)[kind]
    callback = watch(every_n_batches=4, at_ends=True)
    watched, _ = fit(library, make, [callback])
    require_equal(watched, fit(library, make)[0])
    assert callback.measurements == 4  # 12 batches, and before the first; the last is one of these


@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16-mixed"}, {"precision": "bf16-true"}, {"accumulate_grad_batches": 3, "gradient_clip_val": 1}],
    ids=str,
)
def test_so_it_does_in_other_arithmetic_and_with_gradients_in_flight(options):
    library = importlib.import_module("lightning.pytorch")
    make = modules(library)["automatic"]
    callback = watch(every_n_batches=4)
    require_equal(fit(library, make, [callback], **options)[0], fit(library, make, **options)[0])
    assert callback.measurements == 3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of dynamo, in training
def test_so_it_does_beside_an_averaging_callback_and_with_a_compiled_discriminator():
    library = importlib.import_module("lightning.pytorch")
    from lightning.pytorch.callbacks import EMAWeightAveraging

    def make():
        module = modules(library)["automatic"]()
        module.critic.compile(backend="eager")
        return module

    watched, _ = fit(library, make, [EMAWeightAveraging(decay=0.9), watch(every_n_batches=5)])
    require_equal(watched, fit(library, make, [EMAWeightAveraging(decay=0.9)])[0])


def rows(folder):
    with open(next(folder.rglob("metrics.csv"))) as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_rows_stand_beside_the_modules_own_and_hold_the_names_of_batch_invariance(tmp_path):
    library = importlib.import_module("lightning.pytorch")
    callback = watch(every_n_batches=4)
    fit(library, modules(library)["manual"], [callback], logger=CSVLogger(tmp_path))
    mine = {row["step"] for row in rows(tmp_path) if "mine" in row}
    ours = [row for row in rows(tmp_path) if "batch_dependence/train/auc_gap" in row]
    # Lightning's own rows count a batch once, though two optimizers stepped: the 4th, 8th and 12th from 0.
    assert [row["step"] for row in ours] == ["3", "7", "11"] and {row["step"] for row in ours} <= mine
    for mode, result in callback.last.items():
        for name, value in result.metrics(f"batch_dependence/{mode}/").items():
            assert float(ours[-1][name]) == pytest.approx(value, rel=1e-6, nan_ok=True)
    plain = gannorm.batch_invariance(
        nn.Flatten(),
        images(64).mean((1, 2, 3), keepdim=True),
        images(64).mean((1, 2, 3), keepdim=True),
        16,
        threshold=0.5,
        cost="quick",
    )
    names = {name.removeprefix("batch_dependence/train/") for name in ours[-1]}
    assert {"auc_gap", "auc_conflict", "accuracy_gap"} <= names & set(plain.metrics())


def test_the_end_says_what_it_took_and_what_it_found(capsys):
    library = importlib.import_module("lightning.pytorch")
    fit(library, modules(library)["automatic"], [watch(every_n_batches=6)])
    printed = capsys.readouterr().out
    assert "batch dependence: 2 measurements took" in printed and "% of the training's time" in printed
    assert "train mode:" in printed and "eval mode:" in printed


class Seen(BatchDependence):
    """Notes the images of every measurement."""

    def _act(self, trainer, module, step):
        fake = torch.zeros(1, *SHAPE)
        self.images = self._real.take(module, fake, self._count)
        super()._act(trainer, module, step)


def test_by_default_the_training_batches_seen_last_are_the_real_ones():
    library = importlib.import_module("lightning.pytorch")
    callback = Seen("critic", fakes=fakes, every_n_batches=4, images=64)
    fit(library, modules(library)["automatic"], [callback], epochs=1)
    torch.manual_seed(0)
    modules(library)["automatic"]()
    order = torch.cat([batch[0] for batch in loader()])  # another shuffle: the same images
    shown = {tuple(x.flatten().tolist()) for x in callback.images}
    assert len(callback.images) == 64 and shown <= {tuple(x.flatten().tolist()) for x in order}


@pytest.mark.parametrize(
    "real",
    [images(96, seed=1), lambda module, n: images(n), loader(), [(images(64), torch.zeros(64)), images(64)]],
    ids=["tensor", "function", "loader", "list of batches"],
)
def test_real_images_come_from_anything_that_gives_them(real):
    library = importlib.import_module("lightning.pytorch")
    callback = Seen("critic", fakes=fakes, real=real, every_n_batches=12)
    fit(library, modules(library)["automatic"], [callback])
    assert callback.measurements == 1
    assert callback.images.shape == (96 if isinstance(real, torch.Tensor) else 128, *SHAPE)


class Conditional(nn.Module):
    """Judges (images, labels), and returns its features too."""

    def __init__(self):
        super().__init__()
        self.layer, self.label = nn.Linear(48, 1), nn.Embedding(2, 1)

    def forward(self, x, y):
        features = self.layer(x.flatten(1))
        return {"features": features, "logit": features + self.label(y)}


def conditional(library):
    class Module(modules(library)["automatic"]):
        def __init__(self):
            super().__init__()
            self.judge = Conditional()

    return Module


def test_a_conditional_discriminator_with_several_outputs():
    library = importlib.import_module("lightning.pytorch")

    def pairs(module, n):
        return module.sample(n), torch.arange(n) % 2

    callback = BatchDependence("judge", fakes=pairs, every_n_batches=4, output="logit")
    fit(library, conditional(library), [callback], epochs=1)
    assert callback.last["train"].swap.bitwise_equal and callback.measurements == 1
    with pytest.raises(UserError, match="output"):
        fit(library, conditional(library), [BatchDependence("judge", fakes=pairs, every_n_batches=4)], epochs=1)


WRONG = {
    "no such attribute": ({"discriminator": "criticc"}, "did you mean 'critic'"),
    "no fakes": ({"fakes": None}, "`fakes` must be given for a Automatic"),
    "another number of fakes": ({"fakes": lambda m, n: m.sample(n // 2)}, r"as many fakes .* got \(16, 3, 4, 4\) for"),
    "another shape": ({"fakes": lambda m, n: m.sample(n)[..., :2]}, "must have one shape: got .*4, 4.* and .*4, 2"),
    "too few in a loader": ({"real": loader(64), "images": 128}, "got 64 of 128"),
    "too few in a tensor": ({"real": images(7)}, "at least 8 real images: got 7"),
    "too few of a function": ({"real": lambda m, n: images(8)}, "got 8 of 32"),
    "no images": ({"real": 3}, "`real` must be a tensor"),
    "another form": ({"fakes": lambda m, n: (m.sample(n), torch.zeros(n))}, "in the form of the fakes"),
    "no network": ({"discriminator": lambda module: None}, "must be a network, or a function of images: got NoneType"),
    "labels missing": (
        {"discriminator": lambda module: lambda x, y=None: module.critic(x) + nn.functional.one_hot(y)},
        r"in the form in which `fakes` returns them: with \(4, 3, 4, 4\) it raised TypeError",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line_at_the_first_batch(name):
    library = importlib.import_module("lightning.pytorch")
    options, message = WRONG[name]
    steps = []

    def make():
        module = modules(library)["automatic"]()
        step, module.training_step = module.training_step, lambda *a: steps.append(1) or step(*a)
        return module

    with pytest.raises(UserError, match=message) as caught:
        fit(library, make, [watch(**options)])
    assert "\n" not in str(caught.value) and not steps


@pytest.mark.parametrize(
    "options,message",
    [
        ({"modes": ("training",)}, "`modes` must be one of train, eval: got 'training'; did you mean 'train'"),
        ({"on_dependence": "error"}, "`on_dependence` must be one of log, warn, raise"),
        ({"cost": "cheap"}, "`cost` must be one of quick, full"),
        ({"every_n_batches": -1}, "`every_n_batches` must be at least 0"),
        ({"fakes": 3}, "`fakes` must be a function"),
    ],
)
def test_impossible_options_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        BatchDependence(**options)


def test_a_discriminator_in_a_dictionary_is_named_by_its_key():
    library = importlib.import_module("lightning.pytorch")

    class Module(modules(library)["automatic"]):
        def __init__(self):
            super().__init__()
            self.nets = {"D": self.critic}

    callback = watch("nets.D", every_n_batches=4)
    require_equal(fit(library, Module, [callback])[0], fit(library, Module)[0])
    assert callback.measurements == 3
    with pytest.raises(UserError, match=r"got 'nets\.E'; .*D"):
        fit(library, Module, [watch("nets.E", every_n_batches=4)])


def test_the_end_is_measured_also_where_two_optimizers_overshoot_the_last_step():
    library = importlib.import_module("lightning.pytorch")
    callback = watch(every_n_batches=100, at_ends=True)
    fit(library, modules(library)["manual"], [callback], max_steps=5)  # two steps a batch: it stops at 6
    assert callback.measurements == 2


class JudgesBatches(nn.Module):
    """Mostly the mean of the batch: real images among fakes look fake."""

    def forward(self, x):
        x = x.flatten(1).mean(1)
        return x + 3 * x.mean()


def test_a_dependence_is_logged_warned_of_or_raised():
    library = importlib.import_module("lightning.pytorch")

    class Module(modules(library)["automatic"]):
        def __init__(self):
            super().__init__()
            self.judge = JudgesBatches()

        def sample(self, n):
            return torch.randn(n, *SHAPE) - 0.5

    def with_it(**options):
        callback = watch("judge", every_n_batches=4, modes=("train",), **options)
        fit(library, Module, [callback], epochs=1)
        return callback.last["train"].verdict.kind

    assert with_it() == "judges batches"
    with pytest.warns(UserWarning, match="batch dependence at step 3, train mode: judges batches"):
        with_it(on_dependence="warn")
    with pytest.raises(BatchCouplingError, match="judges batches"):
        with_it(on_dependence="raise")


def test_a_logit_that_is_no_number_costs_its_measurement_alone():
    library = importlib.import_module("lightning.pytorch")

    class Module(modules(library)["automatic"]):
        def judge(self, x):
            return self.critic(x) * (float("nan") if self.global_step > 2 else 1.0)

    with pytest.warns(UserWarning, match="no measurement of batch dependence at step 3"):
        fit(library, Module, [watch(lambda module: module.judge, every_n_batches=4)], epochs=1)


def test_it_is_copied_and_pickled_and_its_key_is_fixed():
    callback = BatchDependence("critic", every_n_batches=7)
    again = pickle.loads(pickle.dumps(callback))
    assert isinstance(again, BatchDependence) and again.every_n_batches == 7
    assert again.state_key == "BatchDependence"


@pytest.fixture
def our_run():
    from lightning.pytorch import Trainer

    from gannorm.data import ImageData

    def fit_ours(tmp_path, callbacks):
        size = {"image_size": 8, "channels": 1, "width": 8}
        torch.manual_seed(0)
        gan = GAN(Generator(**size), Discriminator(**size, norm="batch"))
        logger = CSVLogger(tmp_path, name="", version="0")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = Trainer(
            max_steps=8, accelerator="cpu", logger=logger, log_every_n_steps=4, callbacks=callbacks, **quiet
        )
        trainer.fit(gan, ImageData(name="digits", image_size=8, batch_size=16))
        return gan

    return fit_ours


def test_for_our_gan_every_argument_has_a_default(our_run, tmp_path):
    callback = BatchDependence(every_n_batches=4)
    watched, plain = our_run(tmp_path / "a", [callback]), our_run(tmp_path / "b", [])
    require_equal(watched.state_dict(), plain.state_dict())
    found = rows(tmp_path / "a")
    logged = {name for row in found for name in row}
    assert {"loss/d", "loss/g", "logit/real", "logit/fake", "gradient_norm/d", "learning_rate/g"} <= logged
    assert {"batch_dependence/train/auc_conflict", "batch_dependence/generator/coupling_ratio"} <= logged
    result = callback.last["train"]
    assert result.batch_size == 16 and result.composition.images == 64 and result.forward_coupling


def test_the_fakes_are_those_of_the_step_and_other_ones_at_every_step(configure):
    """Fresh latents at each measurement, from its own stream, and the generator in training mode, batch by batch."""
    gan, data = prepare(configure("--seed", "3"))
    seen = []
    handle = gan.generator.register_forward_hook(lambda module, args, out: seen.append((module.training, args[0])))
    callback = BatchDependence(batch_size=16, images=32, modes=("train",), seed=3)
    trainer = type("Trainer", (), {"global_step": 7, "loggers": [], "strategy": None, "datamodule": data})()
    callback._prepare(trainer, gan, torch.zeros(16, 1, 8, 8))
    seen.clear()
    callback.measure(trainer, gan)
    handle.remove()
    torch.manual_seed(stream(3, "batch_dependence", 7).initial_seed())
    expected = [torch.randn(16, gan.latent_dim) for _ in range(2)]
    assert all(training for training, _ in seen[:2])
    assert all(torch.equal(z, e) for (_, z), e in zip(seen[:2], expected, strict=True))
    trainer.global_step = 8
    seen.clear()


@pytest.mark.slow
def test_one_of_two_processes_measures_and_both_end_with_the_same_bits(tmp_path):
    tests = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tests / "support" / "watched_program.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        watched, plain = (torch.load(tmp_path / f"{kind}_{rank}.pt") for kind in (True, False))
        require_equal(watched, plain)
