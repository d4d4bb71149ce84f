"""A step from microbatches is the step of the whole batch, when it says so; or it is refused before the run starts."""

import pytest
import torch
from support.plain_loop import final_state

from gannorm.data import to_float
from gannorm.errors import UserError
from gannorm.seeds import stream
from gannorm.training import prepare, train

D, G = "--model.discriminator.", "--model.generator."
WEIGHT = "ema.module.features.0.conv.weight"
STEPS = ("--steps", "8", "--model.d_steps", "2", "--model.ema_decay", "0.9", "--checkpoint_every", "8")
DOUBLE = ("--precision", "exact", "--trainer.precision", "64-true")
JOINT = ("--model.d_composition", "joint", "--model.g_composition", "joint")


def accumulated(parts=2, mode="exact"):
    return ("--model.accumulate", str(parts), "--model.accumulation", mode)


@pytest.fixture
def trained(configure, tmp_path):
    """trained(flags) -> the final state dict of a run in float64."""
    count = iter(range(100))
    return lambda *flags: final_state(train(configure(*STEPS, *DOUBLE, *flags), tmp_path / str(next(count))))


def differences(a, b, running=True):
    """Where two runs' states differ, and by how much, relative to the size of the tensor."""
    assert a.keys() == b.keys()
    names = [name for name in a if running or not name.endswith(("running_mean", "running_var", "batches_tracked"))]
    return {n: ((a[n] - b[n]).double().norm() / b[n].double().norm().clamp(min=1e-12)).item() for n in names}


@pytest.mark.parametrize("composition", [(), JOINT], ids=["separate, fake", "joint, joint"])
def test_exact_training_is_that_of_the_whole_batch(trained, composition):
    # Renorm in G reads the running statistics that its pass begins with; spectral norm turns once in every pass.
    flags = (*composition, G + "norm", "renorm", G + "norm_options", "{start: 2, r_end: 9, d_end: 9}")
    flags = (*flags, D + "weight_norm", "spectral")
    plain, exact = trained(*flags), trained(*flags, *accumulated())
    # float64; every one of the 24 updates divides by √v, which enlarges rounding: 1e-11 was measured.
    assert max(differences(exact, plain).values()) < 1e-8
    frozen = trained(*flags, *accumulated(mode="frozen"))
    assert differences(frozen, plain)[WEIGHT] > 1e-3


@pytest.mark.parametrize("composition", [(), JOINT], ids=["separate, fake", "joint, joint"])
@pytest.mark.parametrize("factor", [("--model.loss", "relativistic"), (D + "norm", "reference")], ids=["loss", "norm"])
def test_pairs_and_references_are_accumulated_exactly(trained, composition, factor):
    flags = (*composition, *factor)
    plain, exact = trained(*flags), trained(*flags, *accumulated())
    apart = differences(exact, plain)
    apart.pop("discriminator.logit.bias")  # no loss of pairs sees it: its gradient is rounding, which Adam enlarges
    assert max(apart.values()) < 1e-8  # float64, as above


def test_naive_training_is_that_of_ghost_batches_of_its_size(trained):
    naive = trained(*accumulated(mode="naive"))
    ghosts = trained(*(flag for net in (D, G) for flag in (net + "norm", "ghost", net + "norm_options.size", "8")))
    assert max(differences(naive, ghosts, running=False).values()) < 1e-8
    assert differences(naive, trained())[WEIGHT] > 1e-3


@pytest.mark.parametrize("mode", ["exact", "frozen", "naive"])
@pytest.mark.parametrize("composition", ["separate", "joint"])
@pytest.mark.parametrize("penalty", ["none", "r1", "gradient"])
def test_every_mode_is_the_step_of_single_images(configure, composition, penalty, mode):
    flags = ("--model.d_composition", composition, "--model.penalty", penalty, "--model.loss", "hinge")
    flags += (D + "norm", "group", D + "weight_norm", "spectral", G + "norm", "none")
    gradients = []
    for parts in (1, 4):
        gan, data = prepare(configure(*flags, *accumulated(parts, mode)))
        gan.double()
        gan._penalty_randomness = stream(0, "penalty")
        real = to_float(data.train.pixels[:16]).double()
        with torch.no_grad():
            fake = gan.generator(torch.randn(16, 4, generator=stream(0), dtype=torch.float64))
        if parts == 1:
            loss = gan.discriminator_loss(real, fake)
            loss.backward()
        else:
            loss = gan.gradients.discriminator(gan, real, fake)["loss/d"]
        buffers = [b.flatten() for b in gan.discriminator.buffers()]  # a power iteration for each batch, not microbatch
        gradients.append(torch.cat([loss[None], *(p.grad.flatten() for p in gan.discriminator.parameters()), *buffers]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)  # float64


def test_naive_joint_batches_hold_the_same_share_of_real_and_fake(configure):
    flags = ("--model.d_composition", "joint", *accumulated(4, "naive"))
    gan, data = prepare(configure(*flags))
    real = to_float(data.train.pixels[:16])
    fake = gan.generator(torch.randn(16, 4, generator=stream(0))).detach()
    loss = gan.gradients.discriminator(gan, real, fake)["loss/d"]
    parts = [gan.discriminator_loss(*pair) for pair in zip(real.split(4), fake.split(4), strict=True)]
    assert loss.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)  # float32


@pytest.mark.parametrize(
    "flags,message",
    [
        (accumulated(3), "`accumulate` must divide the batch: got accumulate=3, batch=16"),
        (accumulated(0), "`model.accumulate` must be at least 1: got 0"),
        ((*accumulated(), "--model.moment_weight", "1"), "`moment_weight` pulls at the whole batch's moments"),
        ((*accumulated(), "--model.loss", "relativistic_average"), "compares each image with the mean of its batch"),
        ((*accumulated(), "--model.penalty", "r1"), "judges each image alone, as this one does not: got accum.*=exact"),
        ((*accumulated(), D + "minibatch", "stddev"), "exact accumulation needs samples that only known"),
        ((*accumulated(), G + "norm", "noisy"), "exact accumulation needs .* 'generator.features.0.norm'"),
        ((*accumulated(), D + "norm", "ghost", D + "norm_options.size", "16"), "within a microbatch: got size=16"),
    ],
)
def test_what_cannot_be_accumulated_is_refused_before_a_run_directory_exists(configure, tmp_path, flags, message):
    with pytest.raises(UserError, match=message) as caught:
        train(configure(*flags), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
