"""A block is convolution, normalizer and nonlinearity, each where it does something."""

import pytest
from torch import nn

from gannorm.errors import UserError
from gannorm.models.blocks import Slots, is_normalizer, stages


def block(norm="batch", weight_norm="none", normalize=True, leak=0.2):
    return Slots(norm, weight_norm, None, leak).block(nn.Conv2d(4, 8, 3), size=8, normalize=normalize)


def parts(made):
    return [name for name, _ in made.named_children()]


def test_a_bias_stays_only_where_no_normalizer_removes_it():
    assert block().conv.bias is None
    assert block("none").conv.bias is not None
    assert block(normalize=False).conv.bias is not None


def test_parts_stand_in_their_order_and_a_normalizer_with_an_activation_brings_its_own():
    assert parts(block()) == ["conv", "norm", "activation"]
    assert parts(block("none")) == ["conv", "activation"] == parts(block(normalize=False))
    assert parts(block("frn")) == ["conv", "norm"]


def test_the_nonlinearity_is_relu_without_a_leak_or_what_the_weight_normalizer_asks_for():
    assert isinstance(block(leak=0.0).activation, nn.ReLU)
    assert block(leak=0.2).activation.negative_slope == 0.2


def test_options_of_no_normalizer_are_refused():
    with pytest.raises(UserError, match=r"'none' takes no options: got \{'groups': 2\}; leave norm_options out"):
        Slots("none", "none", {"groups": 2}, 0.2)


def test_maps_halve_down_to_four():
    assert [stages(size) for size in (8, 16, 32, 64, 128)] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="must be one of 8, 16, 32, 64, 128: got 48"):
        stages(48)


def test_normalizers_are_known_by_their_place():
    assert is_normalizer("features.0.norm") and is_normalizer("blocks.1.branch.norm2") and is_normalizer("norm")
    assert not is_normalizer("features.0.conv") and not is_normalizer("norm.inner")
