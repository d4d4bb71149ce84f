"""Lp normalization: scale equivariance for every p, and refusal of another p."""

import pytest
import torch

from gannorm.errors import UserError
from gannorm.normalizers import NORMALIZERS

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_the_scale_of_the_input_cancels(p):
    layer = NORMALIZERS["lp"](3, p=p, eps=1e-30).double()
    torch.testing.assert_close(layer(1000 * X), layer(X), atol=1e-12, rtol=0)  # float64


def test_the_norms_are_ordered():
    # mean|x| ≤ √(mean x²) ≤ max|x|, so outputs shrink with p.
    sizes = [NORMALIZERS["lp"](3, p=p).double()(X).abs().max().item() for p in (1, 2, float("inf"))]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 2  # |x − μ| ≤ 2·max|x|


@pytest.mark.parametrize("p", [0, 3, "two", -1])
def test_another_p_is_refused(p):
    with pytest.raises(UserError, match="`p` must be 1, 2 or inf: got"):
        NORMALIZERS["lp"](3, p=p)
