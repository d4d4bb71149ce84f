"""Real images and fakes for a measurement: from every source, in the form of the fakes, and as many as asked for."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.training.callbacks.sources import RealImages, draw_fakes, in_form_of, length

FAKE = torch.zeros(4, 2)
MODULE = nn.Linear(2, 1)


def rows(n, begin=0):
    return torch.arange(begin, begin + n, dtype=torch.float32)[:, None].expand(-1, 2).clone()


def first_column(x):
    return x[:, 0].tolist()


@pytest.mark.parametrize(
    "real,count",
    [(rows(6), 6), ([rows(3), rows(3, 3), rows(3, 6)], 6), (lambda module, n: rows(n), 5), ((rows(6), rows(6)), 6)],
    ids=["tensor", "batches", "function", "tuple"],
)
def test_images_come_from_every_source_in_their_order(real, count):
    source = RealImages(real, seed=0)
    assert source.find(None, rows(4), FAKE, wanted=5) == count
    assert first_column(source.take(MODULE, FAKE, 5)) == [0, 1, 2, 3, 4]
    assert source.trained_on(None, MODULE, 5) is None


def test_by_default_they_are_the_last_training_batches_before_a_measurement():
    source = RealImages(None, seed=0)
    assert source.find(SimpleNamespace(datamodule=None), rows(4), FAKE, wanted=6) == 6  # two batches of 4
    for number in range(5):
        batch = rows(4, 10 * number)
        source.see(batch, before_measurement=4 - number)
        batch.zero_()  # what is kept is a copy
    assert first_column(source.take(MODULE, FAKE, 6)) == [30, 31, 32, 33, 40, 41]


@pytest.mark.parametrize(
    "real,message",
    [
        (3, "`real` must be a tensor or a tuple of tensors, an iterable of batches, or a function"),
        ([rows(3)], "must yield the images of a measurement: got 3 of 5"),
        (lambda module, n: rows(n - 1), "as many images as it is asked for: got 4 of 5"),
        (torch.zeros(6, 3), "must have one shape"),
        ({"image": rows(6)}, "must come in the form of the fakes: `real` is a dict"),
    ],
)
def test_what_is_no_source_is_refused(real, message):
    fake = (FAKE, FAKE) if isinstance(real, dict) else FAKE
    source = RealImages(real, seed=0)
    with pytest.raises(UserError, match=message):
        source.find(None, rows(4), fake, wanted=5)
        source.take(MODULE, fake, 5)


def test_real_images_take_the_form_of_the_fakes():
    images, labels = rows(4), torch.arange(4)
    assert in_form_of(FAKE, (images, labels), "real") is images
    assert in_form_of((FAKE, labels), [images, labels, labels], "real") == (images, labels)
    assert in_form_of({"x": FAKE}, {"x": images, "y": labels}, "real") == {"x": images}
    assert length({"scalar": torch.tensor(1), "x": images}) == 4


def test_fakes_are_as_many_as_asked_for_and_in_the_modules_precision():
    module = nn.Linear(2, 1, dtype=torch.float64)
    fakes = draw_fakes(lambda m, n: torch.randn(n, 2), module, 4)
    assert fakes.dtype == torch.float64 and not fakes.requires_grad
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(UserError, match=r"as many fakes as it is asked for: got \(3, 2\) for n=4"):
        draw_fakes(lambda m, n: torch.randn(n - 1, 2), module, 4)
