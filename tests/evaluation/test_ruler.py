"""Our own ruler is measured: blind extractors change nothing, coupled ones are caught."""

from dataclasses import replace

import pytest
import torch
from known_images import PassThrough, images_of

from gannorm.evaluation import Evaluator, build_extractor, ruler
from gannorm.evaluation.extractors import Extractor
from gannorm.evaluation.ruler import batch_dependence

SHAPE = (1, 2, 3)
DATA = images_of(torch.randint(0, 256, (40, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


class Centred(PassThrough):
    """Takes away a share of the batch's mean."""

    share = 1.0

    def forward(self, images):
        pixels, logits = super().forward(images)
        return pixels - self.share * pixels.mean(0), logits


def extractor_of(cls, share=1.0):
    module = cls("pass_through", ["pixels", "logits"])
    module.share = share
    return replace(build_extractor("pass_through", DATA, device="cpu"), module=module, weights_sha256=f"{share}")


def test_an_extractor_that_sees_one_image_at_a_time_has_none(fresh_cache):
    assert batch_dependence(build_extractor("pass_through", DATA, device="cpu"), SHAPE) == 0


def test_the_in_domain_extractor_rounds_its_float64_alike_at_every_batch_size(digits):
    assert batch_dependence(build_extractor("in_domain", digits, device="cpu"), (1, 8, 8)) < 1e-6  # a bit of float32


@pytest.mark.parametrize("share,is_caught", [(1.0, True), (0.1, True), (1e-5, False)])
def test_a_coupled_extractor_is_measured_and_caught(share, is_caught, fresh_cache, recwarn):
    dependence = batch_dependence(extractor_of(Centred, share), SHAPE)
    assert dependence > 0
    assert [("depend on the other images of a batch" in str(w.message)) for w in recwarn] == [True] * is_caught
    if share == 1.0:
        assert dependence == 1  # alone, the features are 0: all of them is the change


def test_it_is_measured_once_for_an_extractor_and_stands_in_the_protocol(fresh_cache, monkeypatch):
    passes, features = [], Extractor.features
    monkeypatch.setattr(Extractor, "features", lambda *a: passes.append(1) or features(*a))
    extractor = extractor_of(Centred, 1e-5)
    first = batch_dependence(extractor, SHAPE)
    assert len(passes) == 2 and batch_dependence(extractor, SHAPE) == first and len(passes) == 2
    assert (
        Evaluator(DATA, extractor=extractor, splits=1).protocol("running", False)["extractor_batch_dependence"] == first
    )
    batch_dependence(replace(extractor, weights_sha256="others"), SHAPE)
    batch_dependence(extractor, (1, 3, 3))
    monkeypatch.setattr(ruler, "VERSION", 99)
    batch_dependence(extractor, SHAPE)
    assert len(passes) == 3 + 6  # the reference is one
    (file, *_) = fresh_cache.glob("extractors/batch_dependence_*.json")
    file.write_text("{")
    batch_dependence(extractor, SHAPE)


def test_a_cache_that_cannot_be_written_costs_the_measurement_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "file"))
    assert batch_dependence(build_extractor("pass_through", DATA, device="cpu"), SHAPE) == 0
