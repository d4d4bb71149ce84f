"""The in-domain extractor: trained deterministically, honest about its accuracy, blind to its batch."""

import json
from dataclasses import replace

import pytest
import torch
from known_images import images_of
from tqdm import tqdm

from gannorm.errors import UserError
from gannorm.evaluation import build_extractor, in_domain, train_in_domain

NO_BAR = tqdm(disable=True)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(in_domain, "MIN_STEPS", 10)
    monkeypatch.setattr(in_domain, "EPOCHS", 0)


@pytest.fixture(scope="module")
def extractor(digits):
    return build_extractor("in_domain", digits, device="cpu")


def test_the_seed_alone_decides_the_weights(digits, tmp_path, quick):
    torch.manual_seed(1)
    one = train_in_domain(digits, tmp_path / "one", seed=3, device="cpu")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert train_in_domain(digits, tmp_path / "two", seed=3, device="cpu")["weights_sha256"] == one["weights_sha256"]
    assert torch.equal(torch.get_rng_state(), state)
    assert train_in_domain(digits, tmp_path / "three", seed=4, device="cpu")["weights_sha256"] != one["weights_sha256"]


def test_the_card_reports_the_accuracy_on_images_that_were_not_used(digits, tmp_path, quick):
    seen = []
    fit = in_domain._fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_domain, "_fit", lambda *a: (seen.append(a[2]), fit(*a)))
        card = train_in_domain(digits, tmp_path, device="cpu")
    held_out = sorted(set(range(len(digits))) - set(seen[0].tolist()))
    assert card["held_out_images"] == len(held_out) == 30
    model = build_extractor("in_domain", digits, weights=tmp_path, device="cpu")
    logits = model.features([digits.pixels[held_out]], NO_BAR)[0]["logits"]
    right = (logits.argmax(1) == digits.labels[held_out]).float().mean().item()
    assert card["held_out_accuracy"] == pytest.approx(right, abs=1e-6)
    assert json.loads((tmp_path / "card.json").read_text()) == card


def test_digits_are_classified(extractor, digits):
    assert extractor.card["held_out_accuracy"] > 0.85  # 270 training images of 8×8; chance is 0.1
    logits = extractor.features([digits.pixels], NO_BAR)[0]["logits"]
    assert (logits.argmax(1) == digits.labels).float().mean() > 0.95


def test_features_have_norm_root_f_and_the_same_bits_at_every_batch_size(extractor, digits):
    whole, _ = extractor.features([digits.pixels], NO_BAR)
    norms = whole["features"].double().norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 8.0), rtol=1e-6, atol=0)  # float32 features
    for size in (1, 7, 64):
        parts, _ = extractor.features(digits.pixels.split(size), NO_BAR)
        assert all(torch.equal(parts[layer], whole[layer]) for layer in ("features", "logits"))


def test_labels_are_needed(digits, fresh_cache):
    with pytest.raises(UserError, match="needs labels: digits has none"):
        build_extractor("in_domain", replace(digits, labels=None), device="cpu")
    with pytest.raises(UserError, match="at least 20 images of 2 classes"):
        build_extractor("in_domain", replace(digits, labels=torch.zeros_like(digits.labels)), device="cpu")
    assert not fresh_cache.exists()


def test_a_trained_extractor_is_found_again_until_data_labels_seed_or_version_change(
    digits, fresh_cache, quick, monkeypatch
):
    trained = []
    train = in_domain.train
    monkeypatch.setattr(in_domain, "train", lambda *a, **k: trained.append(1) or train(*a, **k))
    build = lambda data=digits, seed=0: build_extractor("in_domain", data, seed=seed, device="cpu")  # noqa: E731
    first = build()
    assert build().weights_sha256 == first.weights_sha256 and len(trained) == 1
    assert train_in_domain(digits)["weights_sha256"] == first.weights_sha256 and len(trained) == 1
    pixels = digits.pixels.clone()
    pixels[0, 0, 0, 0] += 1
    build(replace(digits, pixels=pixels))
    build(replace(digits, labels=digits.labels.roll(1)))
    build(seed=1)
    monkeypatch.setattr(in_domain, "VERSION", 99)
    build()
    assert len(trained) == 5


def test_damaged_weights_are_trained_again(digits, fresh_cache, quick):
    first = build_extractor("in_domain", digits, device="cpu")
    (weights,) = fresh_cache.glob("extractors/*/weights-*.pth")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert build_extractor("in_domain", digits, device="cpu").weights_sha256 == first.weights_sha256
    (card,) = fresh_cache.glob("extractors/*/card.json")
    card.write_text(card.read_text()[:50])
    assert build_extractor("in_domain", digits, device="cpu").weights_sha256 == first.weights_sha256
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"undamaged: .* is not; train it again"):
        build_extractor("in_domain", digits, weights=weights.parent, device="cpu")


def test_images_of_other_channels_are_refused(digits, tmp_path, quick):
    train_in_domain(digits, tmp_path, device="cpu")
    with pytest.raises(UserError, match="takes uint8 images of 1 channels"):
        build_extractor(
            "in_domain", images_of(torch.zeros(20, 3, 8, 8, dtype=torch.uint8)), weights=tmp_path, device="cpu"
        )


def test_large_images_are_averaged_down():
    model = in_domain.Classifier(1, 3).double()
    images = torch.randint(0, 256, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    doubled = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for a, b in zip(model(images), model(doubled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_folder_that_cannot_be_written_is_one_line(digits, tmp_path, quick):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output must be writable"):
        train_in_domain(digits, tmp_path / "file" / "below", device="cpu")
