"""Every normalizer and weight normalizer trains the digits for 200 steps at the recipe's learning rates."""

import pytest

from gannorm.data import load_images
from gannorm.models import load_networks
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS
from gannorm.probes import estimate_coupling
from gannorm.seeds import stream
from gannorm.training import train

RATES = ["--model.lr_d", "1e-4", "--model.lr_g", "4e-4"]  # recipe digits
# The published schedule of renorm is plain BatchNorm for longer than these 200 steps of three forward passes each.
OPTIONS = {"renorm": {"start": 60, "r_end": 300, "d_end": 200}}
CASES = [(name, "none") for name in NORMALIZERS] + [("none", name) for name in WEIGHT_NORMALIZERS if name != "none"]


@pytest.fixture(scope="module")
def images():
    return load_images("digits", "test", image_size=8).take(16, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("norm,weight_norm", CASES)
def test_two_hundred_steps_without_divergence(configure, tmp_path, images, norm, weight_norm):
    factors = ["--model.discriminator.norm", norm, "--model.discriminator.weight_norm", weight_norm]
    config = configure(*RATES, *factors, "--steps", "200", "--log_every", "10", "--checkpoint_every", "200")
    config["model"]["discriminator"]["norm_options"] = OPTIONS.get(norm, {})
    run = train(config, tmp_path / "run")
    assert (run.status()["state"], run.status()["step"]) == ("finished", 200)
    assert list(run.checkpoints()) == [200]  # which is not written with a weight that is not finite
    trained = load_networks(run.path).discriminator.train()
    coupling = estimate_coupling(trained, images, generator=stream(0)).ratio
    # float32 rounding leaves less than 1e-10 of squared norms; the weakest coupling here is above 1e-5.
    assert (coupling > 1e-6) == NORMALIZERS[norm].gradient_coupling
