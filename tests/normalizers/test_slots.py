"""The registries: entries describe themselves, strangers can add to them, and mistakes are answered with a remedy."""

import functools
import math

import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.losses import AdversarialLoss
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, normalizer
from gannorm.registry import Registry


def test_own_normalizer_in_five_lines(monkeypatch):
    monkeypatch.setattr(NORMALIZERS, "_entries", dict(NORMALIZERS._entries))  # undone behind the test

    @normalizer("mine", forward_coupling=False, gradient_coupling=False)
    def mine(channels, eps=1e-5):
        return nn.GroupNorm(2, channels, eps=eps)

    assert isinstance(NORMALIZERS["mine"](8, eps=0.1), nn.GroupNorm)
    assert NORMALIZERS["mine"].options == {"eps": 1e-5}
    with pytest.raises(UserError, match="normalizer names must be unique: 'batch' is registered already"):
        normalizer("batch", forward_coupling=False, gradient_coupling=False)(mine)


def test_a_cell_run_again_replaces_its_own_normalizer_and_no_other(monkeypatch):
    monkeypatch.setattr(NORMALIZERS, "_entries", dict(NORMALIZERS._entries))
    cell = (
        "@normalizer('celled', forward_coupling=False, gradient_coupling=False)\n"
        "def celled(channels, eps={eps}): return nn.Identity()"
    )
    for eps in (1e-5, 1e-3):
        exec(cell.format(eps=eps), {"normalizer": normalizer, "nn": nn, "__name__": "__main__"})
    assert NORMALIZERS["celled"].options == {"eps": 1e-3}
    with pytest.raises(UserError, match="'celled' is registered already"):
        exec(cell.format(eps=1e-4), {"normalizer": normalizer, "nn": nn, "__name__": "another_plug_in"})
    assert NORMALIZERS["celled"].options == {"eps": 1e-3}


def _of_another_rate(rate):
    def dropping(channels):
        return nn.Dropout(rate)

    return dropping


@pytest.mark.parametrize(
    "first,second",
    [
        (NORMALIZERS["batch"].build, NORMALIZERS["batch"].build),  # other claims about a built-in
        (NORMALIZERS["batch"].build, functools.wraps(NORMALIZERS["batch"].build)(lambda channels: nn.Identity())),
        (_of_another_rate(0.1), _of_another_rate(0.2)),  # one name, two functions
        (lambda channels: nn.Identity(), lambda channels: nn.Tanh()),
    ],
    ids=["built in", "in disguise", "closures", "lambdas"],
)
def test_what_is_built_in_or_has_no_name_of_its_own_is_not_replaced(first, second):
    registry = Registry("normalizer")
    kept = Normalizer("mine", first, True, True)
    registry.register("mine", kept)
    with pytest.raises(UserError, match="'mine' is registered already"):
        registry.register("mine", Normalizer("mine", second, False, False))
    assert registry["mine"] is kept


def test_parts_that_are_methods_in_c_can_be_registered_again():
    registry = Registry("loss")
    for _ in range(2):
        registry.register("mine", AdversarialLoss(torch.Tensor.neg, torch.Tensor.exp, torch.Tensor.neg, "mine"))


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'group'"):
        NORMALIZERS["grup"]
    with pytest.raises(UserError, match="normalizer 'group' has no option 'group': did you mean 'groups'"):
        NORMALIZERS["group"](64, group=8)
    with pytest.raises(UserError, match="normalizer 'none' has no option 'eps': it takes none"):
        NORMALIZERS["none"](64, eps=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("group", {"groups": "abc"}, "needs int or None for `groups`: got 'abc'"),
        ("group", {"groups": 2.0}, "needs int or None for `groups`: got 2.0"),
        ("group", {"groups": 4, "channels_per_group": 3}, "groups=4, channels_per_group=3; give one of them"),
        ("evonorm_s0", {"groups": True}, "needs int or None for `groups`: got True"),
        ("ghost", {"size": 2.5}, "needs int for `size`: got 2.5"),
        ("ghost", {"size": 0}, "`size` must be at least 1: got 0"),
        ("renorm", {"r_max": None}, "needs float for `r_max`: got None"),
        ("renorm", {"r_max": 0.5}, "r_max ≥ 1 and d_max ≥ 0: got r_max=0.5"),
        ("renorm", {"d_max": math.inf}, "needs finite r_max ≥ 1 and d_max ≥ 0"),
        ("batch", {"eps": -1}, "needs `eps` > 0: got -1"),
        ("virtual", {"eps": math.nan}, "needs `eps` > 0: got nan"),
        ("batch", {"momentum": 7}, r"needs `momentum` in \[0, 1\]: got 7"),
        ("sync", {"momentum": -3}, r"needs `momentum` in \[0, 1\]: got -3"),
        ("noisy", {"scale": math.nan}, "needs a number for `scale`: got nan"),
        ("noisy", {"shift": math.inf}, "needs finite shift"),
        ("noisy", {"scale_spread": -0.1}, "needs finite shift, shift_spread, scale_spread ≥ 0"),
        ("lp", {"p": True}, "needs float or str for `p`: got True"),
        ("lp", {"p": 3}, "`p` must be 1, 2 or inf: got 3"),
    ],
)
def test_options_of_the_wrong_type_or_range_are_refused_at_construction(name, options, message):
    with pytest.raises(UserError, match=message):
        NORMALIZERS[name](16, **options)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_default_is_an_accepted_option(name):
    for option, value in NORMALIZERS[name].options.items():
        NORMALIZERS[name](16, **{option: value})
    if "eps" in NORMALIZERS[name].options:
        NORMALIZERS[name](16, eps=1)  # an int serves as a float


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
