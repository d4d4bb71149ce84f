"""The cached reference: never stale, never half read."""

import errno
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from known_images import PassThrough, images_of

from gannorm.evaluation import build_extractor, reference
from gannorm.evaluation.extractors import Extractor
from gannorm.evaluation.reference import _read, _write, load_reference


class OtherPass(PassThrough):
    """Another class of the same source and weights."""


@pytest.fixture
def passes(fresh_cache, monkeypatch):
    """Counts the extraction passes."""
    seen, features = [], Extractor.features
    monkeypatch.setattr(Extractor, "features", lambda *a: seen.append(1) or features(*a))
    return seen


@pytest.fixture
def data():
    pixels = torch.randint(0, 256, (60, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images_of(pixels)


@pytest.fixture
def extractor(data):
    return build_extractor("pass_through", data, device="cpu")


def load(data, extractor, batch_size=16, splits=2, seed=0):
    return load_reference(data, extractor, batch_size=batch_size, splits=splits, seed=seed)


def same(a, b):
    return (
        a.features.keys() == b.features.keys()
        and all(torch.equal(a.features[k], b.features[k]) for k in a.features)
        and np.array_equal(a.mean, b.mean)
        and np.array_equal(a.covariance, b.covariance)
        and (a.floor, a.inception_score) == (b.floor, b.inception_score)
    )


def test_the_second_load_reads_the_same_bits_without_a_pass(data, extractor, passes):
    first = load(data, extractor)
    assert same(load(data, extractor), first) and len(passes) == 1


def test_whatever_the_content_depends_on_makes_a_new_entry(data, extractor, passes, monkeypatch):
    load(data, extractor)
    pixels = data.pixels.clone()
    pixels[-1, 0, 0, 0] ^= 1
    load(replace(data, pixels=pixels), extractor)
    load(replace(data, split="test"), extractor)
    load(data, replace(extractor, weights_sha256="0" * 64))
    load(data, replace(extractor, name="other"))
    load(data, replace(extractor, layers=extractor.layers | {"fid": "logits"}))
    load(data, extractor, batch_size=17)
    load(data, extractor, splits=3)
    load(data, extractor, seed=1)
    load(data, replace(extractor, module=OtherPass("pass_through", ["pixels", "logits"])))
    with monkeypatch.context() as patch:
        patch.setattr(reference, "VERSION", reference.VERSION + 1)
        load(data, extractor)
    for library in ("gannorm", "torch", "torch-fidelity"):
        now = reference.versions()
        with monkeypatch.context() as patch:
            patch.setattr(reference, "versions", lambda now=now, library=library: now | {library: "0.0.1"})
            load(data, extractor)
    assert len(passes) == 14
    load(data, extractor)
    assert len(passes) == 14
    key, gpu = reference.reference_key, replace(extractor, device=torch.device("cuda"))
    assert key(data, gpu, 16, 2, 0) != key(data, extractor, 16, 2, 0)


def test_a_cut_or_damaged_file_is_made_anew(data, extractor, passes, fresh_cache):
    first = load(data, extractor)
    (file,) = fresh_cache.glob("references/*.npz")
    whole = file.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert _read(file) is None
    assert same(load(data, extractor), first) and len(passes) == 2
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        found = _read(file)
        assert found is None or same(found, first)  # a date or an attribute of the archive may change, no content
    assert same(load(data, extractor), first)


def test_writers_at_once_leave_one_whole_file(data, extractor, tmp_path, fresh_cache):
    first, file, found = load(data, extractor), tmp_path / "reference.npz", []
    writers = [threading.Thread(target=lambda: [_write(file, first) for _ in range(5)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if file.exists():
            found.append(_read(file))
    assert found and all(f is not None and same(f, first) for f in [*found, _read(file)])
    assert [p.name for p in tmp_path.glob("*reference*")] == ["reference.npz"]  # no temporary file is left


@pytest.mark.parametrize("problem", ["a file in its place", "a full disk"])
def test_a_cache_that_cannot_be_written_is_a_warning(data, extractor, tmp_path, monkeypatch, problem):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / ("file" if "file" in problem else "cache")))
    if "disk" in problem:

        def fail(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(UserWarning, match="reference statistics are not kept"):
        assert len(load(data, extractor).features["pixels"]) == 60
