"""Full precision inside, the caller's settings outside."""

import random

import numpy as np
import pytest
import torch

from gannorm.evaluation.arithmetic import undisturbed


def settings():
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        backends.mkldnn.conv.fp32_precision,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.is_autocast_enabled("cpu"),
    )


def test_reduced_precision_is_off_inside_and_back_outside_also_after_an_error():
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    exact = a @ a
    found = torch.get_float32_matmul_precision()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = settings()
            with pytest.raises(KeyError), undisturbed():
                assert torch.equal(a @ a, exact)
                assert settings() == ("ieee", "ieee", "ieee", "ieee", False, True, False)
                raise KeyError
            assert settings() == before and before[4] and before[6]
            assert not torch.equal((a @ a).float(), exact)  # the caller's autocast is on again
    finally:
        torch.set_float32_matmul_precision(found)
        torch.backends.cudnn.benchmark = False


def test_every_global_generator_is_put_back():
    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with undisturbed():
        draws()
    assert draws() == expected
