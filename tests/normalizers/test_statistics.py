"""Moments of a batch: exact where float32 is delicate, and pooled from parts."""

import pytest
import torch

from gannorm.normalizers.statistics import moments


@pytest.mark.parametrize("value", [10.1, 100.1, 1e4])
def test_the_variance_of_a_constant_is_zero_in_float32(value):
    x = torch.full((3, 8, 7, 7), value)
    for dims in ((0, 2, 3), (1, 2, 3), (2, 3)):
        assert moments(x, dims)[1].max() <= (value * 2**-24) ** 2  # of a rounding of the mean; ε is 1e-5
