"""The classifier of colour images: its whitening, its augmentation, that it learns, and who gets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from known_images import images_of
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from gannorm.data import Images
from gannorm.evaluation import build_extractor, colour_classifier, in_domain, train_in_domain
from gannorm.evaluation.colour_classifier import SHIFT, ColourClassifier, augmented, fit
from gannorm.seeds import stream


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BATCH", 32), ("EPOCHS", 0), ("MIN_STEPS", 20)):
        monkeypatch.setattr(colour_classifier, name, value)


def coloured(n: int = 120) -> tuple[Tensor, Tensor]:
    """Noise whose three classes are brighter in one channel each."""
    draw = stream(0, "coloured")
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 200, (n, 3, 32, 32), generator=draw)
    return (noise + 55 * F.one_hot(labels, 3)[:, :, None, None]).to(torch.uint8), labels


def test_patches_leave_the_first_layer_uncorrelated_and_centred() -> None:
    """Exactly λ/(λ + faded) in each component: 1 but for those of almost no variance. Each comes with its negative."""
    draw = stream(0, "correlated")
    coarse = torch.rand(64, 3, 4, 4, generator=draw)
    images = (255 * F.interpolate(coarse, size=32, mode="bilinear")).to(torch.uint8)
    model = ColourClassifier(2).double()
    colour_classifier._whiten(model, images)
    with torch.no_grad():
        maps = model.whiten(images / torch.tensor(127.5, dtype=torch.float64) - 1)
    values = maps.transpose(0, 1).flatten(1)
    components = len(values) // 2
    torch.testing.assert_close(values[:components], -values[components:])
    assert values.mean(1).abs().max() < 1e-9
    covariance = torch.cov(values[:components])
    shrunk = covariance.diagonal()
    torch.testing.assert_close(covariance, shrunk.diag(), rtol=0, atol=1e-8)
    patches = F.unfold(images.double() / 127.5 - 1, 2).transpose(1, 2).flatten(0, 1)
    variances = torch.linalg.eigvalsh(torch.cov(patches.T))
    expected = variances / (variances + colour_classifier.FADED * variances.mean())
    torch.testing.assert_close(shrunk, expected, rtol=1e-6, atol=1e-8)  # both by float64 eigenvalues
    assert expected.max() > 0.99 > expected.min()  # smooth images: some components are faded


def test_an_augmented_image_is_a_shift_of_the_mirrored_image_or_of_its_reflection() -> None:
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=stream(0, "images"), dtype=torch.uint8)
    seen = set()
    for image, shown in zip(images, augmented(images, stream(0, "augmented")), strict=True):
        padded = F.pad(image[None].float(), (SHIFT,) * 4, mode="reflect")[0].to(torch.uint8)
        candidates = {
            (down, right, mirrored): padded[:, down : down + 8, right : right + 8].flip([2] if mirrored else [])
            for down in range(2 * SHIFT + 1)
            for right in range(2 * SHIFT + 1)
            for mirrored in (False, True)
        }
        fitting = [key for key, candidate in candidates.items() if torch.equal(candidate, shown)]
        assert len(fitting) == 1
        seen.update(fitting)
    assert len(seen) > 20 and len({mirrored for *_, mirrored in seen}) == 2


def test_the_rate_goes_up_and_down_once() -> None:
    rates = [colour_classifier._rate(i / 100) for i in range(1, 100)]
    assert max(rates) == colour_classifier._rate(colour_classifier.WARM_UP) == 1
    peak = rates.index(1.0)
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_it_learns_and_the_draws_decide_the_weights(quick: None) -> None:
    pixels, labels = coloured()
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(ColourClassifier(3))
        fit(models[-1], pixels, labels, torch.arange(90), stream(0, "fit"))
    with torch.no_grad():
        features, logits = models[0](pixels[90:])
        assert (logits.argmax(1) == labels[90:]).all()  # 30 images that were not used
        assert torch.equal(models[1](pixels[90:])[1], logits)
    torch.testing.assert_close(features.norm(dim=1), torch.full((30,), features.shape[1] ** 0.5))
    assert not models[0].training and not models[0].whiten.weight.requires_grad


def test_as_an_extractor_no_image_sees_another(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_domain, "COLOUR_IMAGES", 60)
    pixels, labels = coloured(60)
    dataset = Images(pixels, labels, ("r", "g", "b"), "coloured", "train")
    card = train_in_domain(dataset, tmp_path, device="cpu")
    assert card["version"] == in_domain.COLOUR_VERSION and card["held_out_images"] == 6
    extractor = build_extractor("in_domain", dataset, weights=tmp_path, device="cpu")
    whole, _ = extractor.features([pixels], tqdm(disable=True))
    for size in (1, 7):
        parts, _ = extractor.features(pixels.split(size), tqdm(disable=True))
        assert all(torch.equal(parts[layer], whole[layer]) for layer in ("features", "logits"))


def test_many_colour_images_of_32_pixels_get_it_and_all_others_what_they_had() -> None:
    blank = lambda *shape: images_of(torch.zeros(shape, dtype=torch.uint8))  # noqa: E731
    assert in_domain.version(blank(5000, 3, 32, 32)) == in_domain.COLOUR_VERSION
    for shape in ((4999, 3, 32, 32), (5000, 3, 16, 16), (5000, 1, 32, 32)):
        assert in_domain.version(blank(*shape)) == in_domain.VERSION == 1


def test_larger_images_are_averaged_down() -> None:
    model = ColourClassifier(2).double().eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=stream(0, "images"), dtype=torch.uint8)
    doubled = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        for a, b in zip(model(images), model(doubled), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
