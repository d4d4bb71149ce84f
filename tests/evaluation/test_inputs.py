"""Images as people have them become the same bytes, or one line says what is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known_images import images_of
from PIL import Image

from gannorm.data import load_images, to_float
from gannorm.errors import UserError
from gannorm.evaluation import evaluate, inputs
from gannorm.evaluation.inputs import given_images, real_images, reference_split

PIXELS = torch.randint(0, 256, (24, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
OPTIONS = {"extractor": "pass_through", "splits": 1, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore:FID wants more images")  # 24 images, 192 pixels: bytes are compared


def write(folder, pixels=PIXELS, name="{}.png"):
    for i, image in enumerate(pixels):
        file = Path(folder, name.format(i))
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).squeeze().numpy()).save(file)
    return folder


FORMS = {
    "bytes": (PIXELS, None),
    "an array": (PIXELS.numpy(), None),
    "channels last": (PIXELS.permute(0, 2, 3, 1).numpy(), None),
    "whole numbers": (PIXELS.long(), None),
    "in [−1, 1]": (to_float(PIXELS), (-1, 1)),
    "in [0, 1]": (PIXELS / 255, (0, 1)),
    "in [0, 1], channels last": ((PIXELS / 255).permute(0, 2, 3, 1).numpy(), (0, 1)),
    "in [0, 255]": (PIXELS.float(), (0, 255)),
    "double": (PIXELS.double().numpy() / 255, (0, 1)),
}


@pytest.mark.parametrize("images,value_range", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_the_same_images_is_the_same_bytes_on_either_side(images, value_range):
    real = real_images(images, shape=(3, 8, 8), value_range=value_range).images
    assert torch.equal(real.pixels, PIXELS) and real.labels is None
    assert torch.equal(given_images(images, value_range), PIXELS)


def test_grey_arrays_need_no_channel():
    assert torch.equal(given_images(PIXELS[:, 0].numpy()), PIXELS[:, :1])


MISTAKES = {
    "no range": (PIXELS / 255, {}, r"need their range: got none; state real_range=\(-1, 1\) or \(0, 1\)"),
    "another range": (PIXELS.float(), {"value_range": (0, 1)}, r"stated range, 0 to 1: got values from 0 to 255"),
    "not a number": (PIXELS / 255 * np.nan, {"value_range": (0, 1)}, "stated range, 0 to 1: got values from nan"),
    "large numbers": (PIXELS.long() * 2, {}, r"must lie in 0…255: got 0 to 510"),
    "one image": (PIXELS[0, :, :, 0], {}, r"must be \(N, C, H, W\), \(N, H, W, C\) or \(N, H, W\): got \(3, 8\)"),
    "four channels": (torch.zeros(9, 4, 8, 8), {}, r"one channel or three: got the shape \(9, 4, 8, 8\)"),
    "no such thing": ("cifar", {}, "cifar is neither; did you mean 'cifar10'"),
    "no such folder": ("./nowhere", {}, "./nowhere is neither"),
    "a list": ([1, 2], {}, "a folder or the name of a data set: got list"),
    "few labels": (PIXELS, {"labels": [0, 1]}, "one whole number from 0 for each of the 24 images"),
    "labels in words": (PIXELS, {"labels": ["a", "b"] * 12}, "one whole number from 0 .* number the classes"),
    "wide whole numbers": (np.full((9, 8, 8), 300, np.uint16), {}, r"must lie in 0…255: got 300 to 300"),
    "truth values": (torch.zeros(9, 8, 8, dtype=torch.bool), {}, "bytes or floating-point numbers: got torch.bool"),
    "none at all": (torch.zeros(0, 3, 8, 8), {"value_range": (0, 1)}, "real images must be some: got none"),
    "another split": ("digits", {"split": "val"}, "split must be train or test: got 'val'"),
}


@pytest.mark.parametrize("real,options,line", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(real, options, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line) as error:
        real_images(real, shape=(3, 8, 8), **options)
    assert "\n" not in str(error.value)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_scored_as_the_tensor_that_it_was_written_from(tmp_path, fresh_cache):
    real = images_of(PIXELS.flip(0).roll(1, 2))
    of_folder, of_tensor = (evaluate(fakes, real, **OPTIONS) for fakes in (write(tmp_path / "fakes"), PIXELS))
    numbers = ("fid", "kid", "precision", "recall", "inception_score")
    assert [getattr(of_folder, n) for n in numbers] == [getattr(of_tensor, n) for n in numbers]
    assert of_folder.protocol == of_tensor.protocol and of_folder.protocol["statistics"] == "given"
    assert of_folder.protocol["fake_images"] == 24 and "24 given images, against" in str(of_folder)


def test_numbers_in_names_are_counted_and_folders_go_deep(tmp_path, fresh_cache):
    assert torch.equal(given_images(write(tmp_path / "fakes", name="part 1/step{}_x.PNG")), PIXELS)  # 10 after 9


def test_what_is_no_image_is_counted_and_what_is_damaged_is_named(tmp_path, fresh_cache):
    write(tmp_path / "fakes")
    for name in ("a.psd", "b.PSD", "notes", ".hidden"):
        (tmp_path / "fakes" / name).write_text("")
    with pytest.warns(UserWarning, match=r"left out: .*\.psd 2"):
        assert len(given_images(tmp_path / "fakes")) == 24
    (tmp_path / "fakes" / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(UserError, match="every image must be readable"):
        given_images(tmp_path / "fakes")


def test_a_folder_without_images_is_one_line(tmp_path):
    for folder, what in ((tmp_path, "holds none"), (tmp_path / "x", "is no folder")):
        with pytest.raises(UserError, match=what):
            given_images(folder)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"must be readable: none of the 1"):
        given_images(tmp_path)


@pytest.mark.parametrize("split_folders", [False, True])
def test_a_real_folder_is_all_of_its_images_with_its_classes(split_folders, tmp_path, fresh_cache):
    for i, image in enumerate(PIXELS):
        part = ["Train", "val"][i % 2] if split_folders else ""
        write(tmp_path / "real" / part / "abc"[i % 3], image[None], name=f"{i}.png")
    real = real_images(str(tmp_path / "real"), shape=(3, 8, 8))
    assert len(real.images) == 24 and real.images.split == "all" and real.images.classes == ("a", "b", "c")
    classes = {image.numpy().tobytes(): i % 3 for i, image in enumerate(PIXELS)}
    seen = [classes[image.numpy().tobytes()] for image in real.images.pixels]
    assert seen == real.images.labels.tolist() and real.training is real.images


def test_a_flat_folder_has_no_classes_and_a_split_is_taken_where_it_is_asked_for(tmp_path, fresh_cache):
    write(tmp_path / "real" / "train", PIXELS[:16])
    write(tmp_path / "real" / "test", PIXELS[16:])
    assert real_images(tmp_path / "real", shape=(3, 8, 8)).images.labels is None
    held_out = real_images(tmp_path / "real", shape=(3, 8, 8), split="test")
    assert (len(held_out.images), len(held_out.training), held_out.images.split) == (8, 16, "test")


def test_grey_pictures_meet_grey_images(tmp_path, fresh_cache):
    grey, folder = PIXELS[:, :1], write(tmp_path / "grey", PIXELS[:, :1])
    assert real_images(folder, shape=(1, 8, 8)).images.channels == 1
    assert evaluate(folder, images_of(grey), **OPTIONS).fid == evaluate(grey, images_of(grey), **OPTIONS).fid
    with pytest.raises(UserError, match=r"one shape \(C, H, W\): got \(3, 8, 8\), made has \(1, 8, 8\)"):
        evaluate(PIXELS, images_of(grey), **OPTIONS)


# -- data sets and their splits ---------------------------------------------------------------------------------------


def test_a_data_set_is_read_by_its_name_at_the_size_of_the_fakes():
    real = real_images("digits", shape=(1, 8, 8))
    assert real.images.fingerprint == load_images("digits", "train", image_size=8).fingerprint
    assert real_images("digits", shape=(1, 16, 16), split="test").images.split == "test"


def test_held_out_images_are_the_reference_where_there_are_enough(monkeypatch):
    many, few = (images_of(torch.zeros(n, 1, 1, 1, dtype=torch.uint8)) for n in (inputs.ENOUGH, inputs.ENOUGH - 1))
    train = replace(many, name="train")
    assert reference_split({"train": train, "test": many}, None) is many
    assert reference_split({"train": train, "test": few}, None) is train
    assert reference_split({"train": train, "test": few}, "test") is few
    monkeypatch.setattr(inputs, "ENOUGH", 359)  # the digits have as many
    assert real_images("digits", shape=(1, 8, 8)).images.split == "test"


# -- as many as are asked for -----------------------------------------------------------------------------------------


def test_given_images_are_all_scored_or_as_many_as_are_asked_for():
    real = images_of(PIXELS.flip(0).roll(1, 2))
    some = evaluate(PIXELS, real, samples=12, **OPTIONS)
    assert some.protocol["fake_images"] == 12 and some.fid == evaluate(PIXELS, real, samples=12, **OPTIONS).fid
    first = evaluate(PIXELS[:12], real, **OPTIONS)
    assert first.fid != some.fid  # drawn by the seed: a folder's first images may be of one class
    with pytest.raises(UserError, match="must not exceed the given images, 24: got 25"):
        evaluate(PIXELS, real, samples=25, **OPTIONS)
    with pytest.raises(UserError, match="got 5 samples"):
        evaluate(PIXELS[:5], real, **OPTIONS)


def test_images_that_were_no_pictures_are_said(monkeypatch):
    with pytest.warns(UserWarning, match="real images, bytes are 0 and 1 alone"):
        real_images(PIXELS % 2, shape=(3, 8, 8))
    with pytest.warns(UserWarning, match="generated images, all images are the same"):
        evaluate(PIXELS[:1].expand(24, -1, -1, -1), images_of(PIXELS), **OPTIONS)
