"""The table of a network names every normalizer, counts every parameter, and says which batch a layer sees."""

import copy

import pytest
import torch

from gannorm.models import Discriminator, Generator, ResidualDiscriminator, ResidualGenerator
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
        ({"augment": "diffaugment"}, ["real and fake images alike pass through diffaugment first"]),
    ],
)
def test_remarks_say_what_else_passes_and_what_couples_beside_a_layer(model, expected):
    lines = remarks_of(**model)
    lines = [line for line in lines if "normalizes by images of the step before" not in line]  # the note itself
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


@pytest.mark.parametrize("minibatch,together", [("stddev", dict.fromkeys(BATCHES, 4)), ("discrimination", BATCHES)])
def test_minibatch_layers_say_how_many_images_they_take_together(minibatch, together):
    network = Discriminator(8, 1, 8, "group", minibatch=minibatch)
    (row,) = [row for row in describe(network, torch.zeros(2, 1, 8, 8), "group", BATCHES) if row.batches]
    assert (row.coupling, row.batches) == ("forward, gradient", together)
