"""The table of a network names every normalizer, counts every parameter, and says which batch a layer sees."""

import copy

import pytest
import torch

from gannorm.losses import LOSSES, PENALTIES
from gannorm.models import AUGMENTATIONS, Discriminator, Generator, ResidualDiscriminator, ResidualGenerator
from gannorm.models.describe import describe, remarks
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS

BATCHES = {"D step": 128, "G step": 64}
# Convolutions that a normalizer follows at image size 8, with one block at each of two sizes.
PAIRS = {
    "plain": ((Discriminator, 3, {}), (Generator, 2, {})),
    "residual": ((ResidualDiscriminator, 4, {"blocks": 1}), (ResidualGenerator, 4, {"blocks": 1})),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("norm", NORMALIZERS)
def test_every_normalizer_is_recognized_and_every_parameter_counted(norm, pair):
    for kind, places, options in PAIRS[pair]:
        network = kind(8, 1, 8, norm=norm, **options)
        before = copy.deepcopy(network.state_dict())
        x = torch.zeros(2, network.latent_dim) if hasattr(network, "latent_dim") else torch.zeros(2, 1, 8, 8)
        rows = describe(network, x, norm, BATCHES)
        normalizers = [row for row in rows if row.coupling]
        assert len(normalizers) == (0 if norm == "none" else places)
        assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())
        entry = NORMALIZERS[norm]
        for row in normalizers:
            assert ("forward" in row.coupling, "gradient" in row.coupling) == (
                entry.forward_coupling,
                entry.gradient_coupling,
            )
            coupled = entry.forward_coupling or entry.gradient_coupling
            sizes = {"ghost": 16, "local": 8}
            expected = dict.fromkeys(BATCHES, sizes[norm]) if norm in sizes else BATCHES
            assert row.batches == (expected if coupled else {})
        assert not hasattr(network, "reference")
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("weight_norm", WEIGHT_NORMALIZERS)
def test_weight_normalizers_have_their_column(weight_norm):
    rows = describe(Discriminator(8, 1, 8, "none", weight_norm), torch.zeros(2, 1, 8, 8), "none", BATCHES)
    weighted = [(row.kind, row.weight_norm) for row in rows if row.kind in ("Conv2d", "Linear")]
    inner = {"none": "", "spectral": "SpectralNorm", "weight": "WeightNorm", "strict_weight": "StrictWeightNorm"}
    inner["standardization"] = "WeightStandardization"
    last = {"strict_weight": "WeightNorm", "standardization": ""}.get(weight_norm, inner[weight_norm])
    assert weighted == [("Conv2d", inner[weight_norm])] * 3 + [("Linear", last)]


def remarks_of(d_norm="group", g_norm="none", **model):
    usual = {"loss": "hinge", "d_composition": "separate", "g_composition": "fake"}
    return remarks(
        {**usual, **model, "discriminator": {"norm": d_norm}, "generator": {"norm": g_norm}},
        images=64,
    )


@pytest.mark.parametrize(
    "model,expected",
    [
        ({}, []),
        ({"d_norm": "reference"}, ["also takes 64 of the step before as reference: 2 in a D step, 1 in a G step"]),
        (
            {"d_norm": "reference", "loss": "relativistic", "d_composition": "joint"},
            [
                "as reference: 1 in a D step, 2 in a G step",
                "relativistic compares with the real images, which pass too",
            ],
        ),
        ({"g_norm": "virtual"}, ["generator: every pass in training also takes its fixed reference batch"]),
        ({"loss": "relativistic", "g_composition": "joint"}, []),
        ({"d_norm": "local"}, ["couples within virtual batches", "local couples the batch in eval mode, too"]),
        (
            {"loss": "relativistic_average"},
            ["which pass too", "couples the images of a batch, although no normalizer of the discriminator does"],
        ),
        ({"loss": "relativistic_average", "d_norm": "batch"}, ["too", "of a batch, as the discriminator does"]),
        ({"moment_weight": 0.1}, ["each layer's mean and variance over a batch: it couples its images"]),
        ({"penalty": "r1", "penalty_weight": 0.0}, []),
        ({"augment": "diffaugment"}, ["real and fake images alike pass through diffaugment first"]),
    ],
)
def test_remarks_say_what_else_passes_and_what_couples_beside_a_layer(model, expected):
    lines = remarks_of(**model)
    lines = [line for line in lines if "normalizes by images of the step before" not in line]  # the note itself
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_says_what_it_shows_the_discriminator(name):
    x, seen = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)), []

    def f(images):
        seen.append(len(images))
        return images.flatten(1).square().sum(dim=1)

    PENALTIES[name](f, x, -x, torch.Generator().manual_seed(0))
    assert seen == [3] * len(PENALTIES[name].passes)  # a further pass for each kind of images, of a whole batch
    lines = remarks_of(penalty=name, penalty_weight=1.0)
    coupled = remarks_of(penalty=name, penalty_weight=1.0, d_norm="batch")
    if name == "none":
        assert lines == coupled == [] == seen
    else:
        assert [line.startswith(f"D step: penalty {name} takes") for line in lines] == [True]
        assert all(f"64 {kind}" in lines[0] for kind in PENALTIES[name].passes)
        assert "couples" not in lines[0] and "which the discriminator couples" in coupled[0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_that_couples_or_needs_the_real_images_says_so(name):
    lines = " ".join(remarks_of(loss=name))
    assert (f"loss {name} couples" in lines) == LOSSES[name].couples_batch
    assert ("which pass too" in lines) == LOSSES[name].needs_real


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_says_what_passes_through_it(name):
    assert remarks_of(augment=name) == (
        [f"discriminator: real and fake images alike pass through {name} first"] if name != "none" else []
    )


@pytest.mark.parametrize("minibatch,together", [("stddev", dict.fromkeys(BATCHES, 4)), ("discrimination", BATCHES)])
def test_minibatch_layers_say_how_many_images_they_take_together(minibatch, together):
    network = Discriminator(8, 1, 8, "group", minibatch=minibatch)
    (row,) = [row for row in describe(network, torch.zeros(2, 1, 8, 8), "group", BATCHES) if row.batches]
    assert (row.coupling, row.batches) == ("forward, gradient", together)
