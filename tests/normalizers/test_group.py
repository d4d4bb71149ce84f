"""Group, instance and layer are one formula with different groups; bad group counts are refused with a remedy."""

import pytest
import torch

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS

X = torch.randn(4, 12, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_instance_and_layer_are_group_norm_with_all_groups_and_one():
    one_each, all_in_one = NORMALIZERS["group"](12, groups=12).double(), NORMALIZERS["group"](12, groups=1).double()
    torch.testing.assert_close(NORMALIZERS["instance"](12).double()(X), one_each(X), atol=1e-12, rtol=0)  # float64
    assert torch.equal(NORMALIZERS["layer"](12).double()(X), all_in_one(X))


def test_instance_norm_ignores_the_mode():
    instance = NORMALIZERS["instance"](12).double()
    assert torch.equal(instance(X), instance.eval()(X))


def test_channels_per_group_fixes_the_size_of_a_group():
    assert [NORMALIZERS["group"](c).num_groups for c in (4, 8, 16, 64)] == [1, 1, 2, 8]
    assert NORMALIZERS["group"](12, channels_per_group=3).num_groups == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "`groups` must divide `channels`: got groups=3, channels=64; try groups=4."),
        ({"groups": 0}, "got groups=0, channels=64; try groups=1."),
        ({"groups": 100}, "got groups=100, channels=64; try groups=64."),
        ({"channels_per_group": 24}, "got channels_per_group=24, channels=64; try channels_per_group=32."),
        ({"channels_per_group": 0}, "got channels_per_group=0, channels=64; try channels_per_group=1."),
    ],
)
def test_groups_must_divide(options, message):
    for name in ("group", "evonorm_s0"):
        with pytest.raises(UserError) as error:
            NORMALIZERS[name](64, **options)
        assert message in str(error.value)
