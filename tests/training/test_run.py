"""What a config asks for is tried out before a run directory exists: every pair works, or is refused with a reason."""

import pytest
import torch

from gannorm.errors import UserError
from gannorm.models import INITIALIZERS
from gannorm.normalizers import NORMALIZERS
from gannorm.training import train
from gannorm.training.run import check, prepare

D = "--model.discriminator."
G = "--model.generator."


@pytest.mark.parametrize("initialization", INITIALIZERS)
@pytest.mark.parametrize("norm", NORMALIZERS)
def test_every_initialization_works_with_every_normalizer(configure, norm, initialization):
    residual = "1" if initialization == "fixup" else "0"
    config = configure(D + "norm", norm, G + "norm", norm, "--model.initialization", initialization,
                       "--model.residual_blocks", residual)  # fmt: skip
    gan, data = prepare(config)
    assert all(p.isfinite().all() for p in gan.parameters())
    real, fake = data.train.take(16, 0), gan.generator(torch.randn(16, 4))
    assert gan.discriminator_loss(real, fake).isfinite()  # virtual normalizers have their reference


def test_noise_in_the_networks_follows_the_seed(configure):
    flags = [
        D + "norm",
        "noisy",
        G + "norm",
        "noisy",
        "--model.initialization",
        "lsuv",
        "--model.equalize_bias",
        "true",
    ]
    config = configure(*flags)
    networks = []
    for _ in range(2):
        torch.rand(7)  # whatever has drawn before
        networks.append(prepare(config)[0])
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--model.initialization", "fixup"], "fixup needs residual blocks"),
        (["--model.initialization", "lsuv", D + "weight_norm", "spectral"], "lsuv works by the scale of the weights"),
        ([D + "norm", "ghost", D + "norm_options.size", "12"], "`size` must divide the batch: got size=12, batch=16"),
        ([G + "norm", "ghost", G + "norm_options.size", "12"], "`size` must divide the batch: got size=12, batch=16"),
        (
            [D + "minibatch", "stddev", "--data.batch_size", "18"],
            "`group` must divide the batch: got group=4, batch=18",
        ),
        ([D + "norm", "group", D + "norm_options.groups", "abc"], "needs int or None for `groups`: got 'abc'"),
        (["--model.initialization_options.std", "1"], "initialization 'dcgan' has no option 'std'"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_directory_exists(configure, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train(configure(*flags), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_batches_are_those_of_the_compositions(configure):
    # A ghost batch of both halves fits joint batches alone: of D's step, and of G's.
    ghost = [D + "norm", "ghost", D + "norm_options.size", "32"]
    prepare(configure(*ghost, "--model.d_composition", "joint", "--model.g_composition", "joint"))
    for flag in ("--model.d_composition", "--model.g_composition"):
        with pytest.raises(UserError, match="size=32, batch=16"):
            prepare(configure(*ghost, flag, "joint"))


@pytest.mark.parametrize("composition", ["separate", "joint"])
def test_the_bias_is_equalized_in_the_composition_of_training(configure, composition):
    flags = ["--model.equalize_bias", "true", "--model.initialization", "kaiming", "--data.batch_size", "64"]
    gan, data = prepare(configure(*flags, "--model.d_composition", composition))
    real = data.train.take(64, 0)
    latents = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fake = gan.generator(latents)
        apart = torch.cat([gan.discriminator(real), gan.discriminator(fake)])
        joined = gan.discriminator(torch.cat([real, fake]))
    share = {"separate": apart, "joint": joined}[composition].gt(0).float().mean().item()
    # Other latents and the same images as in `prepare`: half within three standard errors of 128 images.
    assert abs(share - 0.5) < 0.14


def test_the_zero_classifier_of_fixup_is_in_reach_of_a_config(configure):
    flags = ["--model.initialization", "fixup", "--model.residual_blocks", "1"]
    on, _ = prepare(configure(*flags, "--model.initialization_options.zero_classifier", "true"))
    off, _ = prepare(configure(*flags))
    assert not on.discriminator.logit.weight.any() and off.discriminator.logit.weight.any()
    assert all(torch.equal(a, b) for a, b in zip(on.generator.parameters(), off.generator.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.*(num_workers|LeafSpec|is deprecated|model contains hooks).*")
def test_the_first_line_of_a_run_says_what_was_read_and_which_rule_made_the_split(configure, tmp_path, capsys):
    train(configure("--steps", "1"), tmp_path / "run")
    first = "digits: 1438 training and 359 held-out images of 10 classes; split: a fixed fifth is held out"
    assert capsys.readouterr().out.splitlines()[0] == first


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--data.root", "photos"], "'digits' .* reads no folder"),
        (["--data.name", "folder", "--data.background", "blakc"], "must be a colour"),
    ],
)
def test_images_that_a_config_cannot_have_are_named_without_reading_any(configure, flags, message):
    with pytest.raises(UserError, match=message):
        check(configure(*flags))
