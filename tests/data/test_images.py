import hashlib

import pytest
import torch

from gannorm.data import Images, to_float, to_uint8
from gannorm.errors import UserError

ALL = torch.arange(256, dtype=torch.uint8)


def images(n=10):
    return Images(torch.arange(n * 12, dtype=torch.uint8).view(n, 3, 2, 2), None, (), "toy", "train")


def test_every_byte_survives_the_round_trip():
    assert torch.equal(to_uint8(to_float(ALL)), ALL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_bytes_are_the_nearest_levels_of_any_float_type(dtype):
    floats = torch.linspace(-1, 1, 4001, dtype=torch.float64).to(dtype)
    levels = ALL.double() / 127.5 - 1
    nearest = (floats.double()[:, None] - levels).abs().amin(dim=1)
    # 2e-7: the float32 arithmetic may pick the other neighbour of an exact tie.
    assert ((levels[to_uint8(floats).long()] - floats.double()).abs() <= nearest + 2e-7).all()


def test_the_map_is_fixed_and_clips():
    assert to_float(ALL).min() == -1 and to_float(ALL).max() == 1
    # a dull image stays dull: no per-batch scaling
    assert to_uint8(torch.tensor([0.1, 0.1])).tolist() == [140, 140]
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_converting_leaves_the_input_alone():
    floats = torch.zeros(3, requires_grad=True)
    to_uint8(floats)
    to_float(ALL)
    assert torch.equal(floats, torch.zeros(3)) and torch.equal(ALL, torch.arange(256, dtype=torch.uint8))


def test_the_fingerprint_is_the_hash_of_shape_and_bytes_and_sees_one_changed_byte():
    one, two = images(), images()
    expected = hashlib.sha256(b"(10, 3, 2, 2)" + one.pixels.numpy().tobytes()).hexdigest()
    assert one.fingerprint == two.fingerprint == expected
    changed = images()
    changed.pixels[9, 2, 1, 1] += 1
    assert changed.fingerprint != expected
    reshaped = Images(one.pixels.view(10, 3, 4, 1), None, (), "toy", "train")
    assert reshaped.fingerprint != expected


def test_take_draws_different_images_by_seed_alone():
    data = images()
    taken = to_uint8(data.take(10, seed=1))
    assert sorted(t.tolist() for t in taken) == sorted(t.tolist() for t in data.pixels)
    assert torch.equal(to_uint8(data.take(4, seed=1)), taken[:4])
    assert not torch.equal(to_uint8(data.take(10, seed=2)), taken)
    with pytest.raises(UserError, match="11 of 10"):
        data.take(11, seed=1)


def test_pixels_and_labels_of_the_wrong_kind_are_refused():
    with pytest.raises(UserError, match=r"uint8 \(N, C, H, W\): got torch.float32"):
        Images(torch.zeros(2, 3, 4, 4), None, (), "toy", "train")
    with pytest.raises(UserError, match=r"labels must be int64 \(2,\)"):
        Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ("a",), "toy", "train")
