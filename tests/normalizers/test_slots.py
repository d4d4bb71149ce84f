"""The registries: entries describe themselves, strangers can add to them, and mistakes are answered with a remedy."""

import math

import pytest
from torch import nn

from gannorm.data import DATASETS
from gannorm.errors import UserError
from gannorm.losses import LOSSES, PENALTIES
from gannorm.models import AUGMENTATIONS, DISCRIMINATORS, GENERATORS, INITIALIZERS
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, normalizer

ALL = [
    NORMALIZERS,
    WEIGHT_NORMALIZERS,
    LOSSES,
    PENALTIES,
    AUGMENTATIONS,
    DISCRIMINATORS,
    GENERATORS,
    INITIALIZERS,
    DATASETS,
]


def test_own_normalizer_in_five_lines():
    @normalizer("mine", forward_coupling=False, gradient_coupling=False)
    def mine(channels, eps=1e-5):
        return nn.GroupNorm(2, channels, eps=eps)

    assert isinstance(NORMALIZERS["mine"](8, eps=0.1), nn.GroupNorm)
    assert NORMALIZERS["mine"].options == {"eps": 1e-5}
    assert (NORMALIZERS["mine"].title, NORMALIZERS["mine"].reference, NORMALIZERS["mine"].across_processes) == (
        "mine",
        "",
        False,
    )


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_what_is_built_in_cannot_be_replaced_and_a_users_can(registry, monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    for name in list(registry):
        kept = registry[name]
        with pytest.raises(UserError, match=f"a built-in {registry.kind} cannot be replaced: '{name}' is one"):
            registry.register(name, kept)
        assert registry[name] is kept
    registry.register("mine", "first")
    registry.register("mine", "second")
    assert registry["mine"] == "second"


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
        ("local", {"size": 0}, "`size` must be at least 1: got 0"),
        ("reference", {"gradient": 1}, "needs bool for `gradient`: got 1"),
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
    assert {n: e.reference for n, e in NORMALIZERS.items() if e.reference} == {"virtual": "fixed", "reference": "fresh"}
    assert {n for n, e in NORMALIZERS.items() if e.across_processes} == {"sync"}
    assert {n for n, e in NORMALIZERS.items() if e.eval_coupling} == {"local"}
    assert list(WEIGHT_NORMALIZERS) == ["none", "spectral", "weight", "standardization", "strict_weight"]
