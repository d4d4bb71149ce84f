"""The registries: entries describe themselves, strangers can add to them, and mistakes are answered with a remedy."""

import pytest
from torch import nn

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, normalizer


def test_own_normalizer_in_five_lines(monkeypatch):
    monkeypatch.setattr(NORMALIZERS, "_entries", dict(NORMALIZERS._entries))  # undone behind the test

    @normalizer("mine", forward_coupling=False, gradient_coupling=False)
    def mine(channels, eps=1e-5):
        return nn.GroupNorm(2, channels, eps=eps)

    assert isinstance(NORMALIZERS["mine"](8, eps=0.1), nn.GroupNorm)
    assert NORMALIZERS["mine"].options == {"eps": 1e-5}
    with pytest.raises(UserError, match="normalizer names must be unique: 'batch' is registered already"):
        normalizer("batch", forward_coupling=False, gradient_coupling=False)(mine)


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'group'"):
        NORMALIZERS["grup"]
    with pytest.raises(UserError, match="normalizer 'group' has no option 'group': did you mean 'groups'"):
        NORMALIZERS["group"](64, group=8)
    with pytest.raises(UserError, match="normalizer 'none' has no option 'eps': it takes none"):
        NORMALIZERS["none"](64, eps=1e-3)


def test_check_refuses_maps_without_a_variance():
    NORMALIZERS["instance"].check(2)
    NORMALIZERS["group"].check(1)
    with pytest.raises(UserError, match="'instance' needs maps of at least 2 pixels: got 1x1"):
        NORMALIZERS["instance"].check(1)


def test_entries_are_descriptions():
    assert all(isinstance(entry, Normalizer) and name == entry.name for name, entry in NORMALIZERS.items())
    assert {n for n, e in NORMALIZERS.items() if e.activation} == {"frn", "evonorm_s0"}
    assert {n for n, e in NORMALIZERS.items() if e.needs_reference} == {"virtual"}
    assert list(WEIGHT_NORMALIZERS) == ["none", "spectral", "weight", "strict_weight"]
