"""The reconstruction score of linear generators is the distance to a plane."""

import pytest
import torch
from known_images import images_of
from scipy.stats import sem
from torch import nn

from gannorm.data import to_float
from gannorm.errors import UserError
from gannorm.evaluation import reconstruction_score
from gannorm.models import Generator


class Plane(nn.Module):
    """z → A z with orthonormal columns, as 2×3 images."""

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        draw = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
        self.basis = nn.Parameter(torch.linalg.qr(draw)[0][:, :latent_dim])

    def forward(self, z):
        # check_generator draws z from N(0, 1): the clamp keeps those images in range and is not met near the data.
        return (z @ self.basis.T).clamp(-1, 1).view(-1, 1, 2, 3)


DATA = images_of(torch.randint(100, 156, (12, 1, 2, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8))


def test_the_error_is_the_squared_distance_to_the_plane():
    generator = Plane(2)
    x = to_float(DATA.pixels).flatten(1)
    residual = x - x @ generator.basis.detach() @ generator.basis.detach().T
    found = reconstruction_score(generator, DATA, images=12, steps=300)
    expected = residual.square().mean()
    assert found.error == pytest.approx(expected.item(), abs=2e-4)  # RMSprop at a constant rate 0.01 ends within 0.01
    assert found.error_at_start == pytest.approx(x.square().mean().item(), rel=1e-5)  # G(0) = 0
    assert found.error < 0.8 * found.error_at_start


def test_one_step_of_the_search_is_known_and_its_end_counts():
    """RMSprop's first step is 0.01·g/√(0.01·g²): 0.1 in every latent, against its gradient."""
    generator = Plane(3)
    basis, x = generator.basis.detach(), to_float(DATA.pixels).flatten(1)
    z = 0.1 * (x @ basis).sign()
    start, after = x.square().mean(1), (x - z @ basis.T).square().mean(1)
    assert (after < start).any() and (after > start).any()
    found = reconstruction_score(generator, DATA, images=12, steps=1)
    expected = torch.minimum(start, after)  # the best point on the way
    torch.testing.assert_close(
        found.errors.sort().values, expected.double().sort().values, rtol=1e-3, atol=0
    )  # its ε of 1e-8


def test_the_standard_error_is_that_of_a_mean_over_images():
    found = reconstruction_score(Plane(2), DATA, images=12, steps=3)
    assert found.errors.shape == (12,) and found.error == pytest.approx(found.errors.mean().item(), rel=1e-12)
    assert found.standard_error == pytest.approx(sem(found.errors.numpy()), rel=1e-12)


def test_a_generator_that_reaches_every_image_scores_near_zero():
    assert reconstruction_score(Plane(6), DATA, images=12, steps=300).error < 2e-4


def test_each_image_is_sought_alone():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(36)
    norm.running_mean.fill_(0.5)  # unlike any batch
    layers = nn.Sequential(nn.Linear(6, 36), norm, nn.Tanh(), nn.Unflatten(1, (1, 6, 6))).double()  # in training mode
    pixels = torch.randint(0, 256, (6, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole, parts = (
        reconstruction_score(layers, images_of(pixels), images=6, steps=50, batch_size=size, latent_dim=6)
        for size in (6, 2)
    )
    assert whole.error < 0.9 * whole.error_at_start  # the search has moved, and with it each batch's statistics
    torch.testing.assert_close(whole.errors, parts.errors, rtol=1e-9, atol=0)  # float64: kernels differ with the size


def test_the_images_are_those_of_the_seed():
    def errors(seed):
        return set(reconstruction_score(Plane(2), DATA, images=3, steps=2, seed=seed).errors.tolist())

    assert errors(1) == errors(1)
    assert errors(0) != errors(1)


def test_the_generator_survives():
    generator = Generator(image_size=8, channels=1, width=4, latent_dim=6)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    reconstruction_score(generator, images_of(pixels), images=4, steps=2)
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    assert generator.training and all(p.grad is None and p.requires_grad for p in generator.parameters())


def test_mistakes_are_named():
    with pytest.raises(UserError, match="got 0, 64, 12"):
        reconstruction_score(Plane(2), DATA, images=12, steps=0)
    with pytest.raises(UserError, match="13 of 12"):
        reconstruction_score(Plane(2), DATA, images=13)
